"""The files that are copied beside exported weights: PyTorch and transformers only.

In an export they are in one folder with the weights, and import one another by relative names.
"""
