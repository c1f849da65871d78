"""Diffusion times of low discrepancy, one a document, or one a block of a document."""

import jax
import jax.numpy as jnp

# Fractions of 2^32: the golden ratio's, between rows; the square root of 2's, between the documents
# of a row; that of 3, between the blocks of a document. Multiples of an irrational step fill [0, 1)
# evenly, so the rows of every contiguous part of the batch carry nearly the same amount of noise,
# and devices equal work.
_ROW_STEP = round(0.6180339887498949 * 2**32)
_DOCUMENT_STEP = round(0.41421356237309515 * 2**32)
_BLOCK_STEP = round(0.7320508075688772 * 2**32)


def document_fractions(
    key: jax.Array, row_B: jax.Array, segments_BxL: jax.Array, blocks_BxL: jax.Array | None = None
) -> jax.Array:
    """Returns fraction_BxL in [0, 1), equal within a document, and where blocks are given within a
    block: frac(u + i phi + j sqrt(2) + k sqrt(3)).

    i is the row's global index, j the document's index in the row, k the block's in the document, u
    uniform from the key; each fraction alone is uniform. Computed in uint32, so that no device
    count or batch size changes it.
    """
    start = jax.random.bits(key, (), jnp.uint32)
    row_B = row_B.astype(jnp.uint32) * jnp.uint32(_ROW_STEP)
    # Padding (segment 0) wraps around to some value that nothing reads.
    document_BxL = (segments_BxL - 1).astype(jnp.uint32) * jnp.uint32(_DOCUMENT_STEP)
    fraction_BxL = start + row_B[:, None] + document_BxL
    if blocks_BxL is not None:
        fraction_BxL += blocks_BxL.astype(jnp.uint32) * jnp.uint32(_BLOCK_STEP)
    return (fraction_BxL >> 8).astype(jnp.float32) * 2.0**-24  # 24 bits are exact in float32


def document_times(
    key: jax.Array, row_B: jax.Array, segments_BxL: jax.Array, blocks_BxL: jax.Array | None = None
) -> jax.Array:
    """Returns t_BxL in (0, 1], equal where `document_fractions` are."""
    return 1 - document_fractions(key, row_B, segments_BxL, blocks_BxL)
