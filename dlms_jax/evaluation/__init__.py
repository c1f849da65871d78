"""Evaluation: the likelihood bound, comparable across objectives, and metrics of samples."""
