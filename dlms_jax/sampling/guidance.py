"""The network passes of a prediction: one, or two in one batch with guidance.

The rows of the unconditional pass come last. Their given tokens are masked, and their class is 0.
"""

import jax
import jax.numpy as jnp

from dlms_jax.diffusion import Denoiser, Layout, hide_prompts
from dlms_jax.sampling.prediction import Prediction


def predict(denoise: Denoiser, prediction: Prediction, tokens_BxL, t_BxL, layout: Layout):
    """Returns the logits that `Prediction.log_p` takes.

    Args:
      denoise: the network.
      prediction: with or without guidance.
      tokens_BxL: the network's input.
      t_BxL: times in 0..1.
      layout: the layout of the rows.

    Returns:
      (logits_BxLxV, logits_BxLxV of the unconditional pass or None).
    """
    inputs = with_unconditional(prediction, tokens_BxL, t_BxL, layout)
    return halves(prediction, denoise.logits(*inputs))


def with_unconditional(prediction: Prediction, tokens_BxL, t_BxL, layout: Layout, *others):
    """Returns (tokens_BxL, t_BxL, layout, *others); with guidance, of 2B rows.

    The second B rows are unconditional, with the same times and `others`.
    """
    given = tokens_BxL, t_BxL, layout, *others
    if not prediction.guidance:
        return given
    every_B = jnp.ones(tokens_BxL.shape[0], bool)
    mask_id = prediction.vocabulary.mask_id
    tokens_BxL, layout = hide_prompts(tokens_BxL, layout, every_B, mask_id)
    without = tokens_BxL, t_BxL, layout, *others
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), given, without)


def halves(prediction: Prediction, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """Returns (the conditional rows of x, the unconditional rows or None without guidance)."""
    if not prediction.guidance:
        return x, None
    given, without = jnp.split(x, 2)
    return given, without
