"""Optimizer moments in bfloat16 with stochastic rounding, which is unbiased.

With rounding to the nearest, a moment that changes by less than half of its last bit (1/256 of it)
never changes: a second moment with b2 = 0.999 is stuck.
"""

from typing import Any, NamedTuple
import zlib

import jax
import jax.numpy as jnp
import optax

from dlms_jax.parallel.rules import path_string


class RoundedState(NamedTuple):
    """The state of `in_bfloat16`.

    Attributes:
      count: the number of updates done.
      inner: the optimizer's state, with moments in bfloat16.
    """

    count: jax.Array  # type: ignore[assignment]  # it hides tuple.count
    inner: Any


def in_bfloat16(tx: optax.GradientTransformation, seed: int) -> optax.GradientTransformation:
    """Returns an optimizer that computes in float32 and stores its moments in bfloat16.

    Args:
      tx: the optimizer.
      seed: the seed of the rounding, which depends only on (seed, update, path).
    """

    def init(params):
        inner = jax.tree_util.tree_map_with_path(
            lambda path, x: x.astype(jnp.bfloat16) if _is_moment(path, x) else x, tx.init(params)
        )
        return RoundedState(jnp.zeros((), jnp.int32), inner)

    def update(grads, state, params=None):
        full = jax.tree.map(
            lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, state.inner
        )
        updates, full = tx.update(grads, full, params)
        key = jax.random.fold_in(jax.random.key(seed), state.count)

        def keep(path, x):
            if not _is_moment(path, x):
                return x
            name = zlib.crc32(path_string(path).encode())
            return round_by_chance(x, jax.random.fold_in(key, name))

        inner = jax.tree_util.tree_map_with_path(keep, full)
        return updates, RoundedState(state.count + 1, inner)

    return optax.GradientTransformation(init, update)


def round_by_chance(x: jax.Array, key: jax.Array) -> jax.Array:
    """Returns x rounded to one of the two nearest bfloat16 values; the mean over keys is x.

    Args:
      x: a float32 array.
      key: the key of the draw.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    low = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    # bfloat16 is the upper half of float32; a carry from the lower half rounds away from 0.
    upper = ((bits + low) >> 16).astype(jnp.uint16)
    rounded = jax.lax.bitcast_convert_type(upper, jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def _is_moment(path, x) -> bool:
    constants = path_string(path).endswith("ns_coeffs")  # constants of optax's Muon
    return x.ndim > 0 and x.dtype == jnp.float32 and not constants
