"""WEIGHTS -> RELEASE: checkpoints to PyTorch and Hugging Face, and back.

pytorch/ holds the files that travel with exported weights: they import torch and transformers, and
nothing of this package.
"""
