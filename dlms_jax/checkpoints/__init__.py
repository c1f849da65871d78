"""Checkpoints and their metadata on disk, and the reader of metrics.csv."""
