"""Tokens by group (a row's documents, or the blocks of these), and masks by their count in each.

groups_BxL numbers the groups of each row by 0..L; the tokens of one stand side by side.
"""

import jax
import jax.numpy as jnp
from jax.ops import segment_max, segment_sum

from dlms_jax.diffusion.protocol import Layout


def groups(layout: Layout) -> jax.Array:
    """Returns groups_BxL of what shares one time: the blocks of each document where the layout has
    blocks, else the documents."""
    if layout.blocks_BxL is None:
        return layout.segments_BxL

    def starts(x_BxL):
        return jnp.diff(x_BxL, axis=1, prepend=x_BxL[:, :1]) != 0

    return jnp.cumsum(starts(layout.segments_BxL) | starts(layout.blocks_BxL), axis=1)


def group_mean(x_BxL, counted_BxL, groups_BxL) -> jax.Array:
    """Returns, at every token, the mean of x over the counted tokens of the token's group; 0 where
    no token of it is counted."""
    total_BxL = _per_group(segment_sum, jnp.where(counted_BxL, x_BxL, 0.0), groups_BxL)
    number_BxL = _per_group(segment_sum, counted_BxL.astype(x_BxL.dtype), groups_BxL)
    return total_BxL / jnp.maximum(number_BxL, 1.0)


def masks_by_count(fraction_BxL, uniform_BxL, scored_BxL, groups_BxL):
    """Returns (masked_BxL, weights_BxL, p_BxL): k of a group's n scored tokens masked, k uniform on
    1..n as `fraction` (equal within a group) is on [0, 1); the weight n / k where masked, else 0;
    and p, equal within a group, which has the law of the probability of a mask given k.

    The bound of masked diffusion in its count form: the same as the integral over t (put p = 1 -
    alpha(t): the number of masks at uniform p is uniform), without a division by a small t. The
    k-th smallest of n uniform draws is Beta(k, n - k + 1), the law of p given k: it gives a
    time-conditioned network its t.
    """
    n_BxL = _per_group(segment_sum, scored_BxL.astype(jnp.int32), groups_BxL)
    k_BxL = jnp.minimum((fraction_BxL * n_BxL).astype(jnp.int32) + 1, n_BxL)
    rank_BxL = _rank_in_group(jnp.where(scored_BxL, uniform_BxL, 2.0), groups_BxL)
    masked_BxL = scored_BxL & (rank_BxL < k_BxL)
    p_BxL = _per_group(segment_max, jnp.where(masked_BxL, uniform_BxL, 0.0), groups_BxL)
    weights_BxL = jnp.where(masked_BxL, n_BxL / jnp.maximum(k_BxL, 1), 0.0)
    return masked_BxL, weights_BxL, p_BxL


def _per_group(reduce, x_BxL, groups_BxL):
    """Returns, at every token, segment_sum or segment_max of x over the token's group."""

    def row(x_L, groups_L):
        return reduce(x_L, groups_L, num_segments=x_L.shape[0] + 1)[groups_L]

    return jax.vmap(row)(x_BxL, groups_BxL)


def _rank_in_group(x_BxL, groups_BxL):
    """Returns each token's rank (0, 1, ...) by x among the tokens of its group."""

    def row(x_L, groups_L):
        order_L = jnp.lexsort((x_L, groups_L))
        rank_L = jnp.zeros_like(order_L).at[order_L].set(jnp.arange(order_L.shape[0]))
        tokens_before = jnp.zeros(x_L.shape[0] + 2, jnp.int32).at[groups_L + 1].add(1).cumsum()
        return rank_L - tokens_before[groups_L]

    return jax.vmap(row)(x_BxL, groups_BxL)
