"""Autoregressive sampling: left to right, one token per step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dlms_jax.diffusion import Denoiser, Layout
from dlms_jax.diffusion.protocol import Array
from dlms_jax.errors import UserError
from dlms_jax.sampling.canvas import Canvas
from dlms_jax.sampling.decoding.cache import filled_cache, read_columns
from dlms_jax.sampling.prediction import Prediction
from dlms_jax.sampling.sampler import SamplerState, advance, begin, end_at_eos


@dataclasses.dataclass(frozen=True)
class NextToken:
    """Fills holes from left to right, each with a draw from the prediction one position before.

    A row ends at its first EOS in a hole, and its later holes get EOS. With `cache` a step reads
    one position, otherwise the whole canvas. With guidance, the unconditional rows have masks in
    place of the prompt.
    """

    prediction: Prediction
    cache: bool = True

    def num_steps(self, canvas: Canvas) -> int:
        """Returns the largest number of holes in a row.

        Raises:
          UserError: a row has given text after a hole.
        """
        holes_BxL = np.asarray(canvas.holes_BxL)
        text_BxL = (np.asarray(canvas.layout.segments_BxL) > 0) & ~holes_BxL
        if (np.logical_or.accumulate(holes_BxL, axis=1) & text_BxL).any():
            raise UserError(
                "an autoregressive model writes left to right and cannot fill holes before given "
                "text; use a masked model or --prompt"
            )
        return int(holes_BxL.sum(axis=1).max(initial=0))

    def start(self, denoise: Denoiser, canvas: Canvas, keys_B) -> SamplerState:
        """Returns the state at the first hole; `cache` costs one pass."""
        state = begin(canvas, keys_B)
        if not self.cache:
            return state
        return state._replace(cache=filled_cache(denoise, self.prediction, *_inputs(state)))

    def step(self, denoise: Denoiser, state: SamplerState) -> SamplerState:
        at_B = jnp.argmax(state.holes_BxL, axis=1) + state.step_B
        logits_Bx1xV, without_Bx1xV, cache = read_columns(
            denoise, self.prediction, *_inputs(state), at_B - 1, 1, state.cache
        )

        def draw(key, at, log_p_1xV):
            return self.prediction.draw(jax.random.fold_in(key, at), log_p_1xV)

        log_p_Bx1xV = self.prediction.log_p(logits_Bx1xV, without_Bx1xV)
        drawn_Bx1 = jax.vmap(draw)(state.keys_B, at_B, log_p_Bx1xV)
        here_BxL = jnp.arange(state.tokens_BxL.shape[1])[None] == at_B[:, None]
        tokens_BxL = jnp.where(here_BxL, drawn_Bx1, state.tokens_BxL)
        vocabulary = self.prediction.vocabulary
        tokens_BxL = end_at_eos(tokens_BxL, state.holes_BxL, vocabulary)
        open_BxL = state.holes_BxL & (tokens_BxL == vocabulary.mask_id)
        return advance(state._replace(cache=cache), tokens_BxL, ~open_BxL.any(axis=1))


def _inputs(state: SamplerState) -> tuple[Array, jax.Array, Layout]:
    """Returns (tokens_BxL, t_BxL, layout), with t=0 as in training."""
    return state.tokens_BxL, jnp.zeros(state.tokens_BxL.shape, jnp.float32), state.layout
