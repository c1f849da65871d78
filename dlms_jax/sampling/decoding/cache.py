"""Reading some columns of each row, with a cache of keys and values or without."""

from typing import Any

import jax
import jax.numpy as jnp

from dlms_jax.diffusion import Denoiser, Layout
from dlms_jax.errors import UserError
from dlms_jax.sampling.guidance import halves, with_unconditional
from dlms_jax.sampling.prediction import Prediction


def filled_cache(
    denoise: Denoiser, prediction: Prediction, tokens_BxL, t_BxL, layout: Layout
) -> Any:
    """Returns a cache of a whole canvas, after one pass, of 2B rows under guidance.

    Holes are read too: samplers read them again, filled, before anything sees them. Raises
    UserError for a network without a cache.
    """
    if denoise.cached is None:
        raise UserError(
            "this network keeps no keys and values of what it has read; set "
            "config.sampling.cache=False"
        )
    inputs = with_unconditional(prediction, tokens_BxL, t_BxL, layout)
    rows, length = inputs[0].shape
    cache = denoise.cached.empty(rows, length)
    return denoise.cached.logits(*inputs, jnp.zeros(rows, jnp.int32), cache)[1]


def read_columns(
    denoise: Denoiser,
    prediction: Prediction,
    tokens_BxL,
    t_BxL,
    layout: Layout,
    start_B,
    number: int,
    cache: Any,
):
    """Returns (logits_BxCxV, those of the unconditional pass or None, cache) at `number` columns of
    each row from its start on. With cache=None the network reads the whole canvas."""
    *inputs, layout, start_B = with_unconditional(prediction, tokens_BxL, t_BxL, layout, start_B)
    if cache is None:
        logits_BxCxV = columns(denoise.logits(*inputs, layout), start_B, number)
    else:
        inputs = columns(inputs, start_B, number)
        logits_BxCxV, cache = denoise.cached.logits(*inputs, layout, start_B, cache)
    return *halves(prediction, logits_BxCxV), cache


def columns(tree: Any, start_B, number: int) -> Any:
    """Returns `number` columns of each row of a pytree of x_BxL.., from its start on; x_B stays."""
    take = jax.vmap(lambda x, start: jax.lax.dynamic_slice_in_dim(x, start, number))
    return jax.tree.map(lambda x: x if x.ndim == 1 else take(x, start_B), tree)
