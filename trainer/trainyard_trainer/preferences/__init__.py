"""Learning from which of two responses is preferred."""
