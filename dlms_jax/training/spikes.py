"""Detects bad steps: a loss or gradient norm that is not finite, or far above the recent median."""

import jax
import jax.numpy as jnp

WINDOW = 64  # the number of good steps in the median; until then no step is a spike


def nothing_seen() -> jax.Array:
    """Returns the initial recent_2xW: the losses and gradient norms of no steps, all NaN."""
    return jnp.full((2, WINDOW), jnp.nan)


def is_good(
    loss: jax.Array, grad_norm: jax.Array, recent_2xW: jax.Array | None, factor: float
) -> jax.Array:
    """Returns whether a step is good, that is, not to be skipped.

    Args:
      loss: its loss.
      grad_norm: the norm of its gradient.
      recent_2xW: the losses and gradient norms of the last good steps. None: a step is good if its
        values are finite.
      factor: a value above this multiple of a positive median is a spike.
    """
    values_2 = jnp.stack([loss, grad_norm]).astype(jnp.float32)
    good = jnp.all(jnp.isfinite(values_2))
    if recent_2xW is None:
        return good
    median_2 = jnp.median(recent_2xW, axis=1)  # NaN until the window is full; comparisons are False
    return good & ~jnp.any((values_2 > factor * median_2) & (median_2 > 0))


def with_step(recent_2xW: jax.Array, loss: jax.Array, grad_norm: jax.Array) -> jax.Array:
    """Returns recent_2xW with the values of a good step in place of the oldest ones."""
    values_2x1 = jnp.stack([loss, grad_norm]).astype(jnp.float32)[:, None]
    return jnp.concatenate([recent_2xW[:, 1:], values_2x1], axis=1)
