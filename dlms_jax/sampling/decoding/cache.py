"""Runs the network on some columns of each row, with or without a key-value cache."""

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
    """Returns the keys and values of a whole canvas after one pass, of 2B rows with guidance.

    Holes are included; samplers read them again when they are filled, before they become visible.

    Args:
      denoise: the network.
      prediction: with or without guidance.
      tokens_BxL: the canvas.
      t_BxL: times in 0..1.
      layout: the layout of the rows.

    Raises:
      UserError: the network has no cache.
    """
    if denoise.cached is None:
        raise UserError("this network has no key-value cache; set config.sampling.cache=False")
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
    """Returns logits at some columns of each row, and the updated cache.

    Args:
      denoise: the network.
      prediction: with or without guidance.
      tokens_BxL: the canvas.
      t_BxL: times in 0..1.
      layout: the layout of the rows.
      start_B: the first column of each row.
      number: C, the number of columns.
      cache: keys and values. None: the network reads the whole canvas.

    Returns:
      (logits_BxCxV, logits_BxCxV of the unconditional pass or None, cache).
    """
    tokens_BxL, t_BxL, layout, start_B = with_unconditional(
        prediction, tokens_BxL, t_BxL, layout, start_B
    )
    if cache is None:
        logits_BxCxV = columns(denoise.logits(tokens_BxL, t_BxL, layout), start_B, number)
    else:
        assert denoise.cached is not None  # it has made the cache
        inputs = columns((tokens_BxL, t_BxL), start_B, number)
        logits_BxCxV, cache = denoise.cached.logits(*inputs, layout, start_B, cache)
    return *halves(prediction, logits_BxCxV), cache


def columns(tree: Any, start_B, number: int) -> Any:
    """Returns a pytree with columns start_B to start_B + number of x_BxL..; x_B is unchanged."""
    take = jax.vmap(lambda x, start: jax.lax.dynamic_slice_in_dim(x, start, number))
    return jax.tree.map(lambda x: x if x.ndim == 1 else take(x, start_B), tree)
