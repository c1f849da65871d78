"""8B parameters, 1B active: the mixture of experts of "Super Data Learners" (arXiv 2511.03276).

Reproduces: the sparse setting of "Diffusion Language Models are Super Data Learners": a mixture of
            experts with 8B parameters, 1B of them active, on 1B unique tokens for 96 epochs, masked
            diffusion against the autoregressive baseline
            (--config.objective.name=autoregressive). The depth, the width and the size of the
            experts are our choice, not the paper's.
Command:    python -m dlms_jax.main --config=configs/moe.py --workdir=runs/moe \\
                --config.data.corpus=data/large (prepared as for configs/large.py)
Hardware:   64 accelerators with 16 GB or 16 with 80 GB, in multiples of 8 (the experts' axis):
            94 GB of state and 31 GB of gradients, split over them; the rest is activations.
            10.5 GiB per chip on 64 of TPU v5p, as compiled (docs/scale.md).
Hours:      estimate, not measured: 6.4e20 FLOPs, so about 1,100 chip-hours of TPU v5p at 35% MFU
            (grouped matmuls and their gathers reach less of the peak than dense ones).
Expected:   not measured here.

Sizes: a layer has attention with 4 x 2048^2 = 16.8M parameters, a router with 2048 x 64 = 0.13M,
and 64 experts with 3 x 2048 x 768 = 4.72M each. 24 layers have 24 x (16.8 + 0.13 + 302)M = 7.66B.
With the embedding and the head, 2 x 50,304 x 2048 = 206M, the total is 7.86B. A token uses 4
experts: 24 x (16.8 + 0.13 + 18.9)M + 206M = 1.06B.
Budget: 183k steps x 256 rows x 2048 tokens = 96B tokens: 96 epochs of 1B unique tokens.
"""

import pathlib
import runpy

_parent = runpy.run_path(str(pathlib.Path(__file__).with_name("large.py")))


def get_config():
    c = _parent["get_config"]()
    c.name = "moe"

    c.model.num_layers = 24
    c.model.feed_forward = 0
    c.model.experts = 64
    c.model.experts_per_token = 4
    c.model.expert_feed_forward = 768

    c.data.max_unique_tokens = 1_000_000_000

    c.training.steps = 183_000
    c.mesh.expert = 8
    return c
