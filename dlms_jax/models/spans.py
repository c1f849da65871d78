"""Attention masks as intervals, at most two numbers a query: the form that kernels take."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Spans(NamedTuple):
    """The keys that a query attends to: those of its segment inside its span of the row.

    Attributes:
      q_segments_BxL: the segment of each query.
      k_segments_BxS: the segment of each key; one that no query has hides the key from all.
      stop_BxL: the span is the keys at indices below stop. None: the whole segment.
      start_BxL: only if the keys are [x_t, x_0] of block diffusion, else None. The span is then the
        indices start..stop-1 of x_t and the indices below start of x_0.
    """

    q_segments_BxL: jax.Array
    k_segments_BxS: jax.Array
    stop_BxL: jax.Array | None = None
    start_BxL: jax.Array | None = None


def make_spans(layout, kind: str, doubled: bool = False) -> Spans | None:
    """Returns the Spans equal to `attention_mask` of rows that attend to themselves.

    Args:
      layout: the layout of whole rows: each document is contiguous with positions 0, 1, ..., and so
        is the padding.
      kind: a kind of attention, see `attention_mask`.
      doubled: True if the rows are [x_t, x_0] of block diffusion.

    Returns:
      The Spans; None for block attention in rows that are not doubled, which spans cannot express.
    """
    segments_BxL = layout.segments_BxL
    spans = Spans(segments_BxL, segments_BxL)
    if kind == "full" and layout.ahead_B is None:
        return spans
    if doubled != kind.startswith("block"):
        return None
    length = segments_BxL.shape[1] // (2 if doubled else 1)
    place_1xL = jnp.arange(segments_BxL.shape[1], dtype=jnp.int32)[None] % length
    stop_BxL = jnp.minimum(place_1xL + _ahead(layout, kind) + 1, length)
    if not doubled:
        return spans._replace(stop_BxL=stop_BxL)
    first_BxL, end_BxL = _blocks(layout, length)
    stop_BxL = jnp.minimum(stop_BxL, end_BxL)
    return spans._replace(
        start_BxL=jnp.where(layout.clean_BxL, stop_BxL, first_BxL),
        stop_BxL=jnp.where(layout.clean_BxL, 0, stop_BxL),
    )


def _ahead(layout, kind: str) -> jax.Array:
    """Returns ahead_BxL, how many indices after its own a query may attend to at most."""
    segments_BxL = layout.segments_BxL
    length = segments_BxL.shape[1]
    ahead_BxL = jnp.full(segments_BxL.shape, length, jnp.int32)
    if layout.ahead_B is not None:
        ahead_BxL = jnp.minimum(ahead_BxL, layout.ahead_B[:, None])
    if kind == "causal":
        ahead_BxL = jnp.zeros_like(ahead_BxL)
    if kind == "block_causal":
        ahead_BxL = jnp.where(layout.clean_BxL, 0, ahead_BxL)
    # All padding has position 0, so attention_mask lets it attend to all padding.
    return jnp.where(segments_BxL > 0, ahead_BxL, length)


def _blocks(layout, length: int) -> tuple[jax.Array, jax.Array]:
    """Returns (first_Bx2L, end_Bx2L), the half-open index range of the block of each token."""

    def changes(x_Bx2L):
        return x_Bx2L[:, 1:length] != x_Bx2L[:, : length - 1]

    inner = changes(layout.segments_BxL) | changes(layout.blocks_BxL)
    edge_Bx1 = jnp.ones((len(inner), 1), bool)
    place_1xL = jnp.arange(length, dtype=jnp.int32)[None]
    starts_BxL = jnp.where(jnp.concatenate([edge_Bx1, inner], axis=1), place_1xL, 0)
    ends_BxL = jnp.where(jnp.concatenate([inner, edge_Bx1], axis=1), place_1xL + 1, length)
    first_BxL = jax.lax.cummax(starts_BxL, axis=1)
    end_BxL = jax.lax.cummin(ends_BxL, axis=1, reverse=True)
    return jnp.tile(first_BxL, (1, 2)), jnp.tile(end_BxL, (1, 2))
