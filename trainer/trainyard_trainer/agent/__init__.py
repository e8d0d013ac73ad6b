"""Process 1 of every trainer pod: waits for its place in a group, starts the ranks, reports, obeys, explains its end.

Imports neither torch nor the stages, so that a pod answers within a second of its start.
"""
