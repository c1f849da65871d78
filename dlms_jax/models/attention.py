"""Attention masks and the reference implementation of attention.

A layout is a `diffusion.Layout`, or any object with its fields.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from dlms_jax.models.spans import Spans, make_spans


class Visibility(NamedTuple):
    """The keys that each query may attend to.

    Attributes:
      mask_Bx1xLxS: True where a query may attend to a key.
      spans: the same mask as Spans; None if Spans cannot represent it.
    """

    mask_Bx1xLxS: jax.Array
    spans: Spans | None = None


def row_visibility(layout, kind: str, doubled: bool = False) -> Visibility:
    """Returns the Visibility of rows that attend to themselves.

    Args:
      layout: the layout of the rows.
      kind: a kind of attention, see `attention_mask`.
      doubled: True if the rows are [x_t, x_0] of block diffusion.
    """
    return Visibility(attention_mask(layout, layout, kind), make_spans(layout, kind, doubled))


def attention_mask(queries, keys, kind: str) -> jax.Array:
    """Returns mask_Bx1xLxS, True where a query may attend to a key.

    A query attends only to keys of its own document. Within the document, by kind:
    full: all keys.
    causal: keys at its own position and before.
    block (arXiv 2503.09573): clean keys of earlier blocks, and of its own block the noisy keys if
        the query is noisy, the clean keys if it is clean.
    block_causal: the same, except that a clean query attends to no clean key after itself.

    If the queries have ahead_B, keys more than ahead_B positions ahead are also masked. Padding
    (segment 0) attends to padding. Every query attends to itself, so no softmax row is empty.

    Args:
      queries: the layout of the queries. It may hold a subset of the columns of `keys`: the mask
        depends on positions in the document, not on array indices.
      keys: the layout of the keys.
      kind: "full", "causal", "block" or "block_causal".

    Raises:
      ValueError: the kind is unknown.
    """

    def pairs(field):
        return getattr(queries, field)[:, :, None], getattr(keys, field)[:, None, :]

    q_segment, k_segment = pairs("segments_BxL")
    mask_BxLxS = q_segment == k_segment
    q_position, k_position = pairs("positions_BxL")
    if queries.ahead_B is not None:
        mask_BxLxS &= k_position <= q_position + queries.ahead_B[:, None, None]
    if kind == "full":
        return mask_BxLxS[:, None]
    if kind == "causal":
        return (mask_BxLxS & (k_position <= q_position))[:, None]
    if kind not in ("block", "block_causal"):
        raise ValueError(f"unknown attention {kind!r}; use full, causal, block or block_causal")
    q_block, k_block = pairs("blocks_BxL")
    q_clean, k_clean = pairs("clean_BxL")
    together = ~q_clean & ~k_clean & (k_block == q_block)
    finished = k_position <= q_position if kind == "block_causal" else k_block <= q_block
    before = k_clean & (k_block < q_block)
    return (mask_BxLxS & (together | before | (q_clean & k_clean & finished)))[:, None]


def source_visibility(layout) -> tuple[Visibility, Visibility]:
    """Returns (own, source), the Visibility of two attentions if an encoder reads the prompts.

    In self-attention (own) a position attends to all tokens of its document except the prompt. In
    attention to the encoder (source) it attends to the prompt and BOS. BOS is in both, so that a
    document without a prompt has a key in each.
    """
    same_Bx1xLxL = attention_mask(layout, layout, "full")
    segments_BxL, prompt_mask_BxL = layout.segments_BxL, layout.prompt_mask_BxL
    if prompt_mask_BxL is None:
        prompt_mask_BxL = jnp.zeros(segments_BxL.shape, bool)
    source_BxL = prompt_mask_BxL | (layout.positions_BxL == 0) | (segments_BxL == 0)

    def only(keys_BxS):
        spans = Spans(segments_BxL, jnp.where(keys_BxS, segments_BxL, -1))
        return Visibility(same_Bx1xLxL & keys_BxS[:, None, None], spans)

    return only(~prompt_mask_BxL), only(source_BxL)


def columns(layout, start_B, number: int):
    """Returns the layout of the columns start_B..start_B+number-1 of each row."""
    take = jax.vmap(lambda x, start: jax.lax.dynamic_slice_in_dim(x, start, number))
    return jax.tree.map(lambda x: x if x.ndim == 1 else take(x, start_B), layout)


def attend(
    q_BxLxHxK,
    k_BxSxGxK,
    v_BxSxGxK,
    visibility: Visibility,
    implementation: Literal["xla", "cudnn"] = "xla",
) -> jax.Array:
    """Returns y_BxLxHxK = softmax(q k^T / sqrt(K)) v.

    Args:
      q_BxLxHxK: the queries.
      k_BxSxGxK: the keys; H is a multiple of G (grouped-query attention).
      v_BxSxGxK: the values.
      visibility: the keys that each query may attend to.
      implementation: as for jax.nn.dot_product_attention.
    """
    if implementation == "xla" and q_BxLxHxK.shape[2] == k_BxSxGxK.shape[2]:
        return _ungrouped(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, visibility.mask_Bx1xLxS)
    return jax.nn.dot_product_attention(
        q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, mask=visibility.mask_Bx1xLxS, implementation=implementation
    )


def _ungrouped(q_BxLxHxK, k_BxSxHxK, v_BxSxHxK, mask_Bx1xLxS):
    """Returns the result of jax.nn.dot_product_attention for G = H.

    jax.nn's version has an axis of groups, here of size 1, for which XLA's CPU backend transposes
    the scores (benchmarks/train_step.py: a tenth of a step, more for long rows).
    """
    scores_BxHxLxS = jnp.einsum(
        "blhk,bshk->bhls", q_BxLxHxK, k_BxSxHxK, preferred_element_type=jnp.float32
    )
    scores_BxHxLxS *= q_BxLxHxK.shape[-1] ** -0.5
    hidden = jnp.finfo(jnp.float32).min
    weights_BxHxLxS = jax.nn.softmax(jnp.where(mask_Bx1xLxS, scores_BxHxLxS, hidden))
    return jnp.einsum("bhls,bshk->blhk", weights_BxHxLxS.astype(v_BxSxHxK.dtype), v_BxSxHxK)
