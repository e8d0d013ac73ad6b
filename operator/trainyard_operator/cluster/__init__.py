"""Where actions happen: a Kubernetes cluster, or processes on this machine."""
