"""The family, uniform diffusion: every token may change at every step.

Reproduces: nothing published; one row of the table in docs/family.md.
Command:    python -m dlms_jax.main \\
                --config=configs/family/uniform.py --workdir=runs/family-uniform
            (the whole family: python -m dlms_jax.experiment family --minutes 35)
Hardware:   2 CPU cores, 1.5 GB of memory, no network.
Hours:      1.3 times those of masked.py for the same steps.
Expected:   docs/family.md.

Budget: as masked.py, its parent: 1200 steps x 64 rows x 64 tokens = 4.9M tokens.

The network gets the time as an input, because the text does not show how noisy it is, unlike in
masked diffusion. The schedule is polynomial: with the linear schedule, the weight of the loss is
about 1/t where noise is rare, which makes the loss jump.
"""

import pathlib
import runpy

_parent = runpy.run_path(str(pathlib.Path(__file__).with_name("masked.py")))


def get_config():
    c = _parent["get_config"]()
    c.name = "family-uniform"

    c.objective.name = "uniform"
    c.objective.schedule = "polynomial"
    c.objective.schedule_power = 2.0
    c.model.conditioning = "film"
    return c
