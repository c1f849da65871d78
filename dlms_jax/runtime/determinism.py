"""The same seed, the same bits: what that asks of a device beside this program, which has no chance
but its seed's."""

import os
import re

import jax

from dlms_jax.errors import UserError

_GPU = r"--xla_gpu_(deterministic_ops|exclude_nondeterministic_ops)(=(true|1))?(\s|$)"


def check_deterministic(platform: str | None = None):
    """Raises UserError where the same program on this platform (None: JAX's) may give other bits
    when it is run again.

    CPUs and TPUs give the same. GPUs add up with atomics, in the order in which threads come, and
    choose algorithms by timing them, unless XLA is told not to.
    """
    platform = platform or jax.devices()[0].platform
    if platform in ("gpu", "cuda", "rocm") and not re.search(_GPU, os.environ.get("XLA_FLAGS", "")):
        raise UserError(
            "config.training.deterministic on a GPU needs the environment variable "
            "XLA_FLAGS=--xla_gpu_deterministic_ops=true (slower), or leave the setting false"
        )
