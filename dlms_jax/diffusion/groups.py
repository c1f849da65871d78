"""Groups of tokens (documents, or blocks of documents), and masking by count within each group.

groups_BxL numbers the groups of each row, in 0..L; the tokens of a group are contiguous.
"""

import jax
import jax.numpy as jnp
from jax.ops import segment_max, segment_sum

from dlms_jax.diffusion.protocol import Array, Layout


def groups(layout: Layout) -> Array:
    """Returns groups_BxL, the tokens that share one time.

    These are the blocks of each document if the layout has blocks, else the documents.
    """
    if layout.blocks_BxL is None:
        return layout.segments_BxL

    def starts(x_BxL):
        return jnp.diff(x_BxL, axis=1, prepend=x_BxL[:, :1]) != 0

    return jnp.cumsum(starts(layout.segments_BxL) | starts(layout.blocks_BxL), axis=1)


def group_mean(x_BxL, counted_BxL, groups_BxL) -> jax.Array:
    """Returns, at every token, the mean of x over the counted tokens of its group.

    Args:
      x_BxL: the values.
      counted_BxL: True where a value counts.
      groups_BxL: the group of each token. The mean of a group without counted tokens is 0.
    """
    total_BxL = _per_group(segment_sum, jnp.where(counted_BxL, x_BxL, 0.0), groups_BxL)
    number_BxL = _per_group(segment_sum, counted_BxL.astype(x_BxL.dtype), groups_BxL)
    return total_BxL / jnp.maximum(number_BxL, 1.0)


def masks_by_count(fraction_BxL, uniform_BxL, scored_BxL, groups_BxL):
    """Returns the masks of the bound of masked diffusion in its count form.

    In a group of n scored tokens, k are masked, k uniform on 1..n, and each weighs n / k. This
    equals the integral over t (put p = 1 - alpha(t): with p uniform, the number of masks is
    uniform), without a division by a small t. The k-th smallest of n uniform draws has the
    distribution Beta(k, n - k + 1) of p given k, which gives a time-conditioned network its t.

    Args:
      fraction_BxL: uniform on [0, 1), equal within a group; it decides k.
      uniform_BxL: uniform draws; the k smallest in a group are masked.
      scored_BxL: True where a token may be masked.
      groups_BxL: the group of each token.

    Returns:
      (masked_BxL, weights_BxL, p_BxL): the weights are 0 where not masked; p is a draw of the
      probability of a mask given k, equal within a group.
    """
    n_BxL = _per_group(segment_sum, scored_BxL.astype(jnp.int32), groups_BxL)
    k_BxL = jnp.minimum((fraction_BxL * n_BxL).astype(jnp.int32) + 1, n_BxL)
    rank_BxL = _rank_in_group(jnp.where(scored_BxL, uniform_BxL, 2.0), groups_BxL)
    masked_BxL = scored_BxL & (rank_BxL < k_BxL)
    p_BxL = _per_group(segment_max, jnp.where(masked_BxL, uniform_BxL, 0.0), groups_BxL)
    weights_BxL = jnp.where(masked_BxL, n_BxL / jnp.maximum(k_BxL, 1), 0.0)
    return masked_BxL, weights_BxL, p_BxL


def _per_group(reduce, x_BxL, groups_BxL):
    """Returns, at every token, segment_sum or segment_max of x over its group."""

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
