"""Hypothesis for all property tests: no deadline for an example, for a busy machine is no mistake in the code."""

from hypothesis import settings

settings.register_profile("trainyard", deadline=None)
settings.load_profile("trainyard")
