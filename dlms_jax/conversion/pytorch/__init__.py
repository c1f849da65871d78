"""The files that travel with exported weights: PyTorch and transformers, nothing of this package.

In a release they lie flat beside the weights, and import one another by relative names.
"""
