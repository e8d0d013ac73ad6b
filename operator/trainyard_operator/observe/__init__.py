"""What the operator shows of itself and its runs: metrics and health."""
