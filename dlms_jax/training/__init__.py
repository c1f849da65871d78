"""LOSS -> UPDATED WEIGHTS: the step, its state, the optimizer, and where weights start."""
