"""Attention on TPU by JAX's splash kernel (Pallas), which keeps the scores on the chip.

The kernel computes its mask from Spans, tile by tile, and skips a tile if it is fully masked in
every row of the batch.
"""

import functools

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernel,
    splash_attention_mask_info as mask_info,
)
import jax.numpy as jnp

from dlms_jax.models.spans import Spans

TILE = 128  # lengths must be multiples of it
_LARGEST_TILE = 512
LONGEST_DOUBLED = 2**16  # longest [x_t, x_0]: a span is packed into 32 bits
SAVED = "splash"  # the name, for remat policies, of the residuals of the backward pass


def splash_fits(queries: int, keys: int) -> bool:
    """Returns whether the kernel supports these numbers of queries and keys in a row."""
    return queries % TILE == 0 and keys % TILE == 0


def splash(
    q_BxLxHxK: jax.Array,
    k_BxSxGxK: jax.Array,
    v_BxSxGxK: jax.Array,
    spans: Spans,
    interpret: bool = False,
) -> jax.Array:
    """Returns y_BxLxHxK = softmax(q k^T / sqrt(K)) v over the keys in each query's span.

    Args:
      q_BxLxHxK: the queries.
      k_BxSxGxK: the keys; H is a multiple of G (grouped-query attention).
      v_BxSxGxK: the values.
      spans: the keys that each query may attend to.
      interpret: run the kernel in Pallas' interpreter, which works on any device.
    """
    queries, keys = q_BxLxHxK.shape[1], k_BxSxGxK.shape[1]
    q_tile, k_tile = tile_of(queries), tile_of(keys)
    needed_QxS = _needed(spans, keys, q_tile, k_tile)
    forward = mask_info.MaskInfo(
        data_next=_next(needed_QxS, axis=1)[None],
        mask_next=None,
        block_mask=needed_QxS.astype(jnp.int32)[None],
        partial_mask_blocks=None,
        q_sequence=_packed(spans),  # type: ignore[arg-type]  # says np.ndarray, takes jax.Array
    )
    backward = forward._replace(data_next=_next(needed_QxS, axis=0)[None])

    def one_row(q_HxLxK, k_GxSxK, v_GxSxK, q_segments_L, k_segments_S, packed_L):
        attend = kernel.SplashAttentionKernel(
            *(info._replace(q_sequence=packed_L) for info in (forward, forward, backward)),
            is_mqa=False,
            save_residuals=False,
            mask_value=kernel.DEFAULT_MASK_VALUE,
            attn_logits_soft_cap=None,
            block_sizes=kernel.BlockSizes(
                block_q=q_tile,
                block_kv=k_tile,
                block_q_dkv=q_tile,
                block_kv_dkv=k_tile,
                block_q_dq=q_tile,
                block_kv_dq=k_tile,
            ),
            residual_checkpoint_name=SAVED,
            mask_function=_sees(spans, keys),
            interpret=interpret,
        )
        return attend(q_HxLxK, k_GxSxK, v_GxSxK, kernel.SegmentIds(q_segments_L, k_segments_S))

    scaled = (q_BxLxHxK * q_BxLxHxK.shape[-1] ** -0.5).astype(q_BxLxHxK.dtype)
    q_BxHxLxK, k_BxGxSxK, v_BxGxSxK = (
        jnp.swapaxes(x, 1, 2) for x in (scaled, k_BxSxGxK, v_BxSxGxK)
    )
    y_BxHxLxK = jax.vmap(one_row)(
        q_BxHxLxK,
        k_BxGxSxK,
        v_BxGxSxK,
        spans.q_segments_BxL,
        spans.k_segments_BxS,
        forward.q_sequence,
    )
    return jnp.swapaxes(y_BxHxLxK, 1, 2)


def tile_of(length: int) -> int:
    """Returns the size of the kernel's tiles for rows of a length."""
    tile = _LARGEST_TILE
    while length % tile:
        tile //= 2
    return tile


def _packed(spans: Spans) -> jax.Array | None:
    """Returns packed_BxL, each query's span in one int32; None if the spans have no bounds.

    In doubled rows it holds start and stop; if stop is 0 it is -start, which may need one bit more.
    """
    if spans.start_BxL is None or spans.stop_BxL is None:
        return spans.stop_BxL
    both_BxL = (spans.start_BxL << 16) | spans.stop_BxL
    return jnp.where(spans.stop_BxL == 0, -spans.start_BxL, both_BxL)


def _sees(spans: Spans, keys: int):
    """Returns the function (packed span, index of the key) -> whether the key is in the span."""
    if spans.start_BxL is not None:
        return _sees_doubled(keys // 2)
    return None if spans.stop_BxL is None else _sees_before


def _sees_before(stop, place):
    return place < stop


@functools.cache  # the same function object each time, so that JAX reuses its compiled programs
def _sees_doubled(length: int):
    def sees(packed, place):
        start = jnp.where(packed < 0, -packed, packed >> 16)
        stop = jnp.where(packed < 0, 0, packed & 0xFFFF)
        own = (start <= place) & (place < stop)  # never in x_0: stop is at most `length`
        return own | ((place >= length) & (place - length < start))

    return sees


def _needed(spans: Spans, keys: int, q_tile: int, k_tile: int) -> jax.Array:
    """Returns needed_QxS, False for tiles that are fully masked in all rows.

    It is conservative: a few of the other tiles may be fully masked too.
    """

    def ends(x_BxL, tile):
        x_BxNxT = x_BxL.reshape(len(x_BxL), -1, tile)
        return x_BxNxT.min(axis=2), x_BxNxT.max(axis=2)

    def pairs(q_BxQ, k_BxS):
        return q_BxQ[:, :, None], k_BxS[:, None, :]

    (q_low, q_high), (k_low, k_high) = (
        ends(spans.q_segments_BxL, q_tile),
        ends(spans.k_segments_BxS, k_tile),
    )
    lowest, highest = pairs(q_low, k_high)
    needed_BxQxS = lowest <= highest
    highest, lowest = pairs(q_high, k_low)
    needed_BxQxS &= highest >= lowest
    first_1x1xS = jnp.arange(0, keys, k_tile, dtype=jnp.int32)[None, None]
    if spans.stop_BxL is not None:
        stop_BxQx1 = ends(spans.stop_BxL, q_tile)[1][:, :, None]
        inside_BxQxS = first_1x1xS < stop_BxQx1
        if spans.start_BxL is not None:
            start, last = (x_BxQ[:, :, None] for x_BxQ in ends(spans.start_BxL, q_tile))
            after_1x1xS = first_1x1xS + k_tile
            inside_BxQxS &= after_1x1xS > start
            clean_1x1xS = jnp.maximum(first_1x1xS - keys // 2, 0)
            inside_BxQxS |= (after_1x1xS > keys // 2) & (clean_1x1xS < last)
        needed_BxQxS &= inside_BxQxS
    return needed_BxQxS.any(axis=0)


def _next(needed_QxS: jax.Array, axis: int) -> jax.Array:
    """Returns, for each tile, the first needed one at or after it along an axis, else the last.

    The kernel prefetches it.
    """
    number = needed_QxS.shape[axis]
    index_QxS = jax.lax.broadcasted_iota(jnp.int32, needed_QxS.shape, axis)
    return jax.lax.cummin(jnp.where(needed_QxS, index_QxS, number - 1), axis=axis, reverse=True)
