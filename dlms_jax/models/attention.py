"""Who may attend to whom, and plain attention.

A layout is diffusion's Layout, or anything that has its fields.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlms_jax.models.spans import Spans, make_spans


class Visibility(NamedTuple):
    """The keys that each query may attend to: a mask, and the same as Spans where they can say
    it."""

    mask_Bx1xLxS: jax.Array
    spans: Spans | None = None


def row_visibility(layout, kind: str, doubled: bool = False) -> Visibility:
    """Returns what the positions of a layout see of it. doubled: it is of [x_t, x_0]."""
    return Visibility(attention_mask(layout, layout, kind), make_spans(layout, kind, doubled))


def attention_mask(queries, keys, kind: str) -> jax.Array:
    """Returns mask_Bx1xLxS, True where a position of the layout `queries` may see one of `keys`.

    A position sees its own document only, and of it, by kind
    full: everything;
    causal: what stands at its own position or before;
    block (arXiv 2503.09573): clean tokens of the blocks before its own; where it is being denoised,
        its own block as that is being denoised; where it is clean, the clean tokens of its own;
    block_causal: the same, but of clean tokens a clean one sees none after itself.
    Where the queries have ahead_B, of these no position further after its own.
    Padding (segment 0) sees padding. Every position sees itself, so that no row of the softmax is
    empty. `queries` may be some columns of `keys`: positions are compared, not places in the array.
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
        raise ValueError(f"attention {kind!r} is none of full, causal, block, block_causal")
    q_block, k_block = pairs("blocks_BxL")
    q_clean, k_clean = pairs("clean_BxL")
    together = ~q_clean & ~k_clean & (k_block == q_block)
    finished = k_position <= q_position if kind == "block_causal" else k_block <= q_block
    before = k_clean & (k_block < q_block)
    return (mask_BxLxS & (together | before | (q_clean & k_clean & finished)))[:, None]


def source_visibility(layout) -> tuple[Visibility, Visibility]:
    """Returns (own, source) for prompts that an encoder reads: of its own sequence a position sees
    all of its document but the given tokens, of the encoder's the given tokens and BOS. BOS is in
    both, so that a document without a prompt has something to see."""
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
    """Returns the layout of each row's positions start..start+number-1."""
    take = jax.vmap(lambda x, start: jax.lax.dynamic_slice_in_dim(x, start, number))
    return jax.tree.map(lambda x: x if x.ndim == 1 else take(x, start_B), layout)


def attend(
    q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, visibility: Visibility, implementation: str = "xla"
) -> jax.Array:
    """Returns softmax(q k^T / sqrt(K)) v as y_BxLxHxK; H is a multiple of G (grouped queries).
    implementation: as jax.nn.dot_product_attention names them."""
    if implementation == "xla" and q_BxLxHxK.shape[2] == k_BxSxGxK.shape[2]:
        return _ungrouped(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, visibility.mask_Bx1xLxS)
    return jax.nn.dot_product_attention(
        q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, mask=visibility.mask_Bx1xLxS, implementation=implementation
    )


def _ungrouped(q_BxLxHxK, k_BxSxHxK, v_BxSxHxK, mask_Bx1xLxS):
    """What jax.nn's does. That one goes over groups of heads, here of one, for which XLA's CPU
    backend transposes the scores (benchmarks/train_step.py: a tenth of a step, more in long rows).
    """
    scores_BxHxLxS = jnp.einsum(
        "blhk,bshk->bhls", q_BxLxHxK, k_BxSxHxK, preferred_element_type=jnp.float32
    )
    scores_BxHxLxS *= q_BxLxHxK.shape[-1] ** -0.5
    hidden = jnp.finfo(jnp.float32).min
    weights_BxHxLxS = jax.nn.softmax(jnp.where(mask_Bx1xLxS, scores_BxHxLxS, hidden))
    return jnp.einsum("bhls,bshk->blhk", weights_BxHxLxS.astype(v_BxSxHxK.dtype), v_BxSxHxK)
