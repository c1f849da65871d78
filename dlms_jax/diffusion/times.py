"""Low-discrepancy diffusion times, one for each document or block."""

import jax
import jax.numpy as jnp

# Irrational steps in units of 2^-32: the fractional part of the golden ratio between rows, of
# sqrt(2) between the documents of a row, of sqrt(3) between the blocks of a document. Multiples of
# an irrational step fill [0, 1) evenly, so all contiguous parts of a batch have nearly the same
# amount of noise, and all devices nearly the same work.
_ROW_STEP = round(0.6180339887498949 * 2**32)
_DOCUMENT_STEP = round(0.41421356237309515 * 2**32)
_BLOCK_STEP = round(0.7320508075688772 * 2**32)


def document_fractions(
    key: jax.Array, row_B: jax.Array, segments_BxL: jax.Array, blocks_BxL: jax.Array | None = None
) -> jax.Array:
    """Returns fraction_BxL in [0, 1), equal within a document (or block): low-discrepancy draws.

    It is frac(u + i phi + j sqrt(2) + k sqrt(3)): u uniform from the key, i the row's global index,
    j the document's index in the row, k the block's index in the document. Each fraction by itself
    is uniform. It is computed in uint32, so it does not depend on the devices or the batch size.

    Args:
      key: the key of u.
      row_B: each row's index in the global batch.
      segments_BxL: 0 for padding; 1, 2, ... for the documents of a row.
      blocks_BxL: the block of each token in its document. None: k = 0.
    """
    start = jax.random.bits(key, (), jnp.uint32)
    row_B = row_B.astype(jnp.uint32) * jnp.uint32(_ROW_STEP)
    # Padding (segment 0) wraps around to a value that nothing reads.
    document_BxL = (segments_BxL - 1).astype(jnp.uint32) * jnp.uint32(_DOCUMENT_STEP)
    fraction_BxL = start + row_B[:, None] + document_BxL
    if blocks_BxL is not None:
        fraction_BxL += blocks_BxL.astype(jnp.uint32) * jnp.uint32(_BLOCK_STEP)
    return (fraction_BxL >> 8).astype(jnp.float32) * 2.0**-24  # 24 bits are exact in float32


def document_times(
    key: jax.Array, row_B: jax.Array, segments_BxL: jax.Array, blocks_BxL: jax.Array | None = None
) -> jax.Array:
    """Returns t_BxL in (0, 1], which is 1 - `document_fractions`."""
    return 1 - document_fractions(key, row_B, segments_BxL, blocks_BxL)
