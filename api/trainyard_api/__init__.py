"""The contract between user, operator and trainer: the models of a TrainingRun, its CRD, names, exit codes, protocol.

Imports pydantic alone, so that both sides can share it: the operator without torch, the trainer without kubernetes.
"""
