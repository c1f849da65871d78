"""Who may see whom, in two numbers a query: what attention kernels make their masks of."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Spans(NamedTuple):
    """Which keys a query sees: those of its segment that stand in its span of the row.

    q_segments_BxL, k_segments_BxS: a key that nobody sees has a segment that no query has.
    stop_BxL: keys before this place; None: all of the segment.
    start_BxL: None but where the keys are two rows, [x_t, x_0] of block diffusion. There a query
        sees of x_t the places start..stop-1, and of x_0 those before start.
    """

    q_segments_BxL: jax.Array
    k_segments_BxS: jax.Array
    stop_BxL: jax.Array | None = None
    start_BxL: jax.Array | None = None


def make_spans(layout, kind: str, doubled: bool = False) -> Spans | None:
    """Returns the Spans that say what attention.py:attention_mask says of rows that see themselves;
    None of block attention in rows that are not [x_t, x_0] (`doubled`), where spans cannot say it.

    In `layout` the positions of a document count its places in the row, as they do in all rows that
    are read whole, and padding stands together.
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
    """Returns ahead_BxL, how many places after its own a position may see at most."""
    segments_BxL = layout.segments_BxL
    length = segments_BxL.shape[1]
    ahead_BxL = jnp.full(segments_BxL.shape, length, jnp.int32)
    if layout.ahead_B is not None:
        ahead_BxL = jnp.minimum(ahead_BxL, layout.ahead_B[:, None])
    if kind == "causal":
        ahead_BxL = jnp.zeros_like(ahead_BxL)
    if kind == "block_causal":
        ahead_BxL = jnp.where(layout.clean_BxL, 0, ahead_BxL)
    # All of the padding is at position 0: it sees itself whole.
    return jnp.where(segments_BxL > 0, ahead_BxL, length)


def _blocks(layout, length: int) -> tuple[jax.Array, jax.Array]:
    """Returns (first_Bx2L, end_Bx2L) of the block of every position of [x_t, x_0]: its first place
    in its row, and the one after its last."""

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
