"""Reinforcement learning from rewards: advantages, losses, and the functions that reward."""
