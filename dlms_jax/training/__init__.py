"""LOSS -> UPDATED WEIGHTS: the train step, its state, the optimizer, and the initial weights."""
