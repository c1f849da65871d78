"""WHAT TESTS NEED: a known distribution with its exact denoiser, small configs, a small model.

Use, to check a sampler or an objective of your own:

    joint = Joint(symbols=3, length=3)
    denoise = joint.masked_denoiser()  # exact, so each bound equals joint.entropy
"""

from dlms_jax.testing.dummy import dummy_model, dummy_texts, small_config
from dlms_jax.testing.oracle import Joint
from dlms_jax.testing.oracle_gaussian import exact_gaussian_denoiser, random_table

__all__ = [
    "Joint",
    "dummy_model",
    "dummy_texts",
    "exact_gaussian_denoiser",
    "random_table",
    "small_config",
]
