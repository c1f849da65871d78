"""The timesteps of a reverse process."""

from typing import Literal

import jax
import jax.numpy as jnp

from dlms_jax.diffusion.schedules import Schedule

Spacing = Literal["uniform", "cosine", "quantile"]


def times(spacing: Spacing, schedule: Schedule, steps: int, i) -> tuple[jax.Array, jax.Array]:
    """Returns (t, s), the start and end of step i of `steps`, with s < t; see `time`."""
    return time(spacing, schedule, steps, i), time(spacing, schedule, steps, i + 1)


def time(spacing: Spacing, schedule: Schedule, steps: int, i) -> jax.Array:
    """Returns t_i, which falls from exactly 1 at i=0 to exactly 0 at i=steps.

    Args:
      spacing: "uniform": equal steps of t. "cosine": t_i = cos(pi/2 i/steps), with small steps near
        t=1, where most tokens are unknown (MaskGIT, arXiv 2202.04200). "quantile": equal steps of
        1 - alpha(t), so that each step of masked diffusion reveals the same number of tokens.
      schedule: the noise schedule, which "quantile" reads.
      steps: the number of steps.
      i: an index or an array of them.
    """
    if spacing == "quantile":
        return schedule.time(fixed_time("uniform", steps, i))
    return fixed_time(spacing, steps, i)


def fixed_time(spacing: Literal["uniform", "cosine"], steps: int, i) -> jax.Array:
    """Returns t_i of the spacings that need no schedule; see `time`."""
    left = (steps - jnp.asarray(i)) / steps
    if spacing == "uniform":
        return left
    return jnp.sin(jnp.pi / 2 * left)  # = cos(pi/2 i/steps), and 0 at the end
