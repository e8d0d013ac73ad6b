"""Pure policy: what is seen of a run in, actions and the next status out. No I/O, no clock, no kopf."""
