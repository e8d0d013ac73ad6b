"""How good a model is, and what it is compared with."""
