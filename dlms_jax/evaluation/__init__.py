"""WEIGHTS -> NUMBERS: the likelihood bound, on one footing for every objective."""
