"""The family, Gaussian diffusion on embeddings: with the settings of CDCD (arXiv 2211.15089).

Reproduces: nothing published; its place in the table of docs/family.md.
Command:    python -m dlms_jax.main \\
                --config=configs/family/gaussian.py --workdir=runs/family-gaussian
            (all of the family: python -m dlms_jax.experiment family --minutes 35)
Hardware:   2 CPU cores, 1.5 GB of memory, no network.
Hours:      1.6 times those of masked.py, step for step; every second step passes the network twice
            (self-conditioning).
Expected:   docs/family.md.

Budget: as masked.py, its parent: 1200 steps x 64 rows x 64 tokens = 4.9M tokens.

The cross-entropy on noisy embeddings, the times spent where it changes most (a warped schedule),
self-conditioning, and a random part of a tenth of the documents given (CDCD's mask conditioning).
The bound is the same as for any other loss.
"""

import pathlib
import runpy

_parent = runpy.run_path(str(pathlib.Path(__file__).with_name("masked.py")))


def get_config():
    c = _parent["get_config"]()
    c.name = "family-gaussian"

    c.objective.name = "gaussian"
    c.objective.schedule = "warped"
    c.objective.random_context = 0.1
    c.gaussian.embedding_size = 32
    c.gaussian.loss = "cross_entropy"
    c.gaussian.self_conditioning = True
    c.model.conditioning = "film"
    return c
