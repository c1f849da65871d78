"""LOSS -> UPDATED WEIGHTS: state, optimizer, step, checkpoints, and what a run reports."""
