"""PyTorch computes these tiny models on one thread: several would wait for one another."""

import contextlib

with contextlib.suppress(ImportError):
    import torch

    torch.set_num_threads(1)
