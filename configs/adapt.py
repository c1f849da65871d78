"""From an autoregressive model to masked diffusion: tiny's text and network, with AR weights.

Reproduces: nothing published; follows DiffuLLaMA (arXiv 2410.17891) and Dream (arXiv 2508.15487).
Command:    python -m dlms_jax.main --config=configs/tiny.py --workdir=runs/tiny-ar \\
                --config.objective.name=autoregressive --config.training.steps=300
            python -m dlms_jax.main --config=configs/adapt.py --workdir=runs/adapt
            (from other weights: --config.training.start_from=DIR)
Hardware:   2 CPU cores, 1.2 GB of memory, no network.
Hours:      1 to 2 minutes measured, after 1.5 minutes for the AR model (docs/adaptation.md).
Expected:   held-out bound 3.48 +- 0.02 bits/byte; random weights reach 3.77 in the same steps.

Budget: 150 steps x 16 rows x 256 bytes = 0.6M bytes, 0.3 epochs, after the AR model's 1.2M bytes.

The output at a position still predicts the next token (shift), and attention sees further ahead
with each step (anneal_steps). docs/adaptation.md shows the effect of each setting.
"""

import pathlib
import runpy

_parent = runpy.run_path(str(pathlib.Path(__file__).with_name("tiny.py")))


def get_config():
    c = _parent["get_config"]()
    c.name = "adapt"

    c.objective.shift = True
    c.objective.anneal_steps = 50
    c.training.start_from = "runs/tiny-ar"

    c.optimizer.warmup_steps = 20
    c.training.steps = 150
    c.evaluation.every = 50
    c.checkpoint.every = 50
    return c
