"""The operator's real code in a world that is made up: virtual time, a simulated cluster, and faults, all of it from a seed."""
