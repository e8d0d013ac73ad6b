"""Checkpoints that any ZeRO stage and world size can load, committed all or nothing."""
