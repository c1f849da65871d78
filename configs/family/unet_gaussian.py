"""The family, Gaussian diffusion with the U-Net: gaussian.py, its parent, with another denoiser.

Reproduces: nothing published; one row of the table in docs/family.md.
Command:    python -m dlms_jax.main \\
                --config=configs/family/unet_gaussian.py --workdir=runs/family-unet_gaussian
            (the whole family: python -m dlms_jax.experiment family --minutes 35)
Hardware:   2 CPU cores, 1.5 GB of memory, no network.
Hours:      1.4 times those of masked.py for the same steps; every second step runs the network
            twice (self-conditioning).
Expected:   docs/family.md.

Budget: as masked.py: 1200 steps x 64 rows x 64 tokens = 4.9M tokens.

The U-Net has two resolutions, with 128 and 64 positions, and attention at both. It has about as
many parameters as the Transformer.
"""

import pathlib
import runpy

_parent = runpy.run_path(str(pathlib.Path(__file__).with_name("gaussian.py")))


def get_config():
    c = _parent["get_config"]()
    c.name = "family-unet_gaussian"

    c.model.name = "unet"
    c.model.width = 112
    c.model.unet_levels = 2
    c.model.unet_blocks = 1
    c.model.unet_attention_levels = 2
    return c
