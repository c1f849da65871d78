"""Steps that must not be learned from: not finite, or far above what was usual just before."""

import jax
import jax.numpy as jnp

WINDOW = 64  # good steps whose median is what is usual; before there are so many, none is a spike


def nothing_seen() -> jax.Array:
    """Returns the losses and gradient norms of the last good steps, before there are any (2xW)."""
    return jnp.full((2, WINDOW), jnp.nan)


def is_good(
    loss: jax.Array, grad_norm: jax.Array, recent_2xW: jax.Array | None, factor: float
) -> jax.Array:
    """Returns whether both are finite and, where recent ones are kept, neither is above `factor`
    times their median (a loss whose median is not above 0 is not compared)."""
    values_2 = jnp.stack([loss, grad_norm]).astype(jnp.float32)
    good = jnp.all(jnp.isfinite(values_2))
    if recent_2xW is None:
        return good
    median_2 = jnp.median(recent_2xW, axis=1)  # NaN, above which nothing is, until all are seen
    return good & ~jnp.any((values_2 > factor * median_2) & (median_2 > 0))


def with_step(recent_2xW: jax.Array, loss: jax.Array, grad_norm: jax.Array) -> jax.Array:
    """Returns the recent ones with a good step in the place of the oldest."""
    values_2x1 = jnp.stack([loss, grad_norm]).astype(jnp.float32)[:, None]
    return jnp.concatenate([recent_2xW[:, 1:], values_2x1], axis=1)
