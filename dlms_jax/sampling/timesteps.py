"""Where in time the steps of a reverse process lie."""

from typing import Literal

import jax
import jax.numpy as jnp

from dlms_jax.diffusion.schedules import Schedule

Grid = Literal["uniform", "cosine", "quantile"]


def times(grid: Grid, schedule: Schedule, steps: int, i) -> tuple[jax.Array, jax.Array]:
    """Returns (t, s): where step i of `steps` (may be traced) begins, and s < t where it ends."""
    return time(grid, schedule, steps, i), time(grid, schedule, steps, i + 1)


def time(grid: Grid, schedule: Schedule, steps: int, i) -> jax.Array:
    """Returns t_i, which falls from exactly 1 at i=0 to exactly 0 at i=steps.

    uniform: equal steps of t. cosine: t_i = cos(pi/2 i/steps), small steps near 1, where most is
    still unknown (MaskGIT, arXiv 2202.04200). quantile: equal steps of the share of noise
    1 - alpha(t), so that each step of masked diffusion reveals equally many tokens.
    """
    left = (steps - jnp.asarray(i)) / steps
    if grid == "uniform":
        return left
    if grid == "cosine":
        return jnp.sin(jnp.pi / 2 * left)  # = cos(pi/2 i/steps), and 0 at the end
    return schedule.time(left)
