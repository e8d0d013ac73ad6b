"""The machinery around the policies: store, work queue, reconcile loop, agents, kopf wiring, process entry."""
