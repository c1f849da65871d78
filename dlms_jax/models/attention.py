"""Who may attend to whom, and the attention itself by the name of its implementation."""

import jax
import jax.numpy as jnp


def attention_mask(segments_BxL: jax.Array, kind: str) -> jax.Array:
    """Returns mask_Bx1xLxL, True where a query (first L) may see a key (second L).

    A position sees its own document only; with kind "causal" nothing after itself, with "full" all
    of it. Padding (segment 0) sees padding, so that no row of the softmax is empty.
    """
    mask_BxLxL = segments_BxL[:, :, None] == segments_BxL[:, None, :]
    if kind == "causal":
        length = segments_BxL.shape[1]
        mask_BxLxL &= jnp.tril(jnp.ones((length, length), bool))[None]
    elif kind != "full":
        raise ValueError(f"attention {kind!r} is neither full nor causal")
    return mask_BxLxL[:, None]


def attend(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, mask_Bx1xLxL, implementation: str) -> jax.Array:
    """Returns softmax(q k^T / sqrt(K)) v as y_BxLxHxK; H is a multiple of G (grouped queries)."""
    return jax.nn.dot_product_attention(
        q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, mask=mask_Bx1xLxL, implementation=implementation
    )
