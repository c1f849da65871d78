"""The passes of the network behind a prediction: one, or under guidance two in one batch.

The rows of the unconditional pass come last. In them each given token is the mask, and the class 0.
"""

import jax
import jax.numpy as jnp

from dlms_jax.diffusion import Denoiser, Layout, hide_prompts
from dlms_jax.sampling.prediction import Prediction


def predict(denoise: Denoiser, prediction: Prediction, tokens_BxL, t_BxL, layout: Layout):
    """Returns (logits_BxLxV, those of the unconditional pass or None), as `prediction` takes."""
    inputs = with_unconditional(prediction, tokens_BxL, t_BxL, layout)
    return halves(prediction, denoise.logits(*inputs))


def with_unconditional(prediction: Prediction, tokens_BxL, t_BxL, layout: Layout, *others):
    """Returns (tokens_BxL, t_BxL, layout, *others), under guidance of 2B rows: the unconditional
    ones, of the same times and `others`, come last."""
    given = tokens_BxL, t_BxL, layout, *others
    if not prediction.guidance:
        return given
    every_B = jnp.ones(tokens_BxL.shape[0], bool)
    mask_id = prediction.vocabulary.mask_id
    tokens_BxL, layout = hide_prompts(tokens_BxL, layout, every_B, mask_id)
    without = tokens_BxL, t_BxL, layout, *others
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), given, without)


def halves(prediction: Prediction, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """Returns (the conditional rows of x, the unconditional ones: None without guidance)."""
    return tuple(jnp.split(x, 2)) if prediction.guidance else (x, None)
