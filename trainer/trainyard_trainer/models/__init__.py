"""Transformers built from a stage's settings."""
