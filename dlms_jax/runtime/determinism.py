"""Checks that the devices compute the same bits when a program is run again.

All randomness of a run comes from its seed; the rest is up to the device.
"""

import os
import re

import jax

from dlms_jax.errors import UserError

_GPU = r"--xla_gpu_(deterministic_ops|exclude_nondeterministic_ops)(=(true|1))?(\s|$)"


def check_deterministic(platform: str | None = None):
    """Raises UserError if a program may give other bits when it is run again on this platform.

    CPUs and TPUs are deterministic. GPUs add with atomics, in the order in which threads arrive,
    and choose algorithms by timing them, unless XLA is told not to.

    Args:
      platform: "cpu", "gpu", ...; None: the platform that JAX uses.
    """
    platform = platform or jax.devices()[0].platform
    if platform in ("gpu", "cuda", "rocm") and not re.search(_GPU, os.environ.get("XLA_FLAGS", "")):
        raise UserError(
            "config.training.deterministic on a GPU needs the environment variable "
            "XLA_FLAGS=--xla_gpu_deterministic_ops=true (slower); or leave the setting false"
        )
