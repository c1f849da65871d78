"""The family, block diffusion with blocks of 16 tokens: closer to masked diffusion.

Reproduces: nothing published; one row of the table in docs/family.md.
Command:    python -m dlms_jax.main \\
                --config=configs/family/block16.py --workdir=runs/family-block16
            (the whole family: python -m dlms_jax.experiment family --minutes 35)
Hardware:   2 CPU cores, 1.5 GB of memory, no network.
Hours:      2.1 times those of masked.py for the same steps; a step reads each row twice,
            noisy and clean.
Expected:   docs/family.md.

Budget: as masked.py, its parent: 1200 steps x 64 rows x 64 tokens = 4.9M tokens.
"""

import pathlib
import runpy

_parent = runpy.run_path(str(pathlib.Path(__file__).with_name("masked.py")))


def get_config():
    c = _parent["get_config"]()
    c.name = "family-block16"

    c.objective.name = "block"
    c.block.size = 16
    return c
