"""The family, Gaussian diffusion on embeddings: with the settings of CDCD (arXiv 2211.15089).

Reproduces: nothing published; one row of the table in docs/family.md.
Command:    python -m dlms_jax.main \\
                --config=configs/family/gaussian.py --workdir=runs/family-gaussian
            (the whole family: python -m dlms_jax.experiment family --minutes 35)
Hardware:   2 CPU cores, 1.5 GB of memory, no network.
Hours:      1.6 times those of masked.py for the same steps; every second step runs the network
            twice (self-conditioning).
Expected:   docs/family.md.

Budget: as masked.py, its parent: 1200 steps x 64 rows x 64 tokens = 4.9M tokens.

The settings of CDCD: cross-entropy on noisy embeddings; a warped schedule, which spends the times
where the cross-entropy changes most; self-conditioning; and a random part of a tenth of the
documents given as a prompt (CDCD's mask conditioning). The bound is the same as for any other loss.
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
