"""Turns TrainingRuns into groups of pods and brings them back when they die. Never imports torch or the trainer."""
