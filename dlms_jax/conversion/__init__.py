"""WEIGHTS -> RELEASE: checkpoints to PyTorch and Hugging Face, and back.

pytorch/ holds the files that are copied beside exported weights. They import torch and
transformers, and nothing from this package.
"""
