"""Left to right, one token a step: how an autoregressive model samples."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dlms_jax.diffusion import Denoiser
from dlms_jax.errors import UserError
from dlms_jax.sampling.canvas import Canvas
from dlms_jax.sampling.decoding.cache import filled_cache
from dlms_jax.sampling.prediction import Prediction
from dlms_jax.sampling.sampler import State, begin


@dataclasses.dataclass(frozen=True)
class NextToken:
    """Draws each hole from the prediction at the position before it.

    All rows stand at the same position, from the first one that is a hole in any of them; where a
    row has a given token there, it stays. A row ends at its first EOS in a hole: the holes after it
    get EOS. With `cache` a step reads one position, else the whole canvas. Under guidance the
    unconditional rows read the mask in place of the prompt.
    """

    prediction: Prediction
    cache: bool = True

    def num_steps(self, canvas: Canvas) -> int:
        """Returns the number of positions from the first hole to the last; raises UserError where
        text comes after a hole."""
        holes_BxL = np.asarray(canvas.holes_BxL)
        text_BxL = (np.asarray(canvas.layout.segments_BxL) > 0) & ~holes_BxL
        if (np.logical_or.accumulate(holes_BxL, axis=1) & text_BxL).any():
            raise UserError(
                "an autoregressive model writes left to right and cannot fill holes before given "
                "text; use a masked model, or --prompt"
            )
        places = np.flatnonzero(holes_BxL.any(axis=0))
        return int(places[-1] - places[0] + 1) if len(places) else 0

    def start(self, denoise: Denoiser, canvas: Canvas, keys_B) -> State:
        """Returns the state before the first hole; with `cache`, after one pass over the whole
        canvas."""
        if not self.cache:
            return begin(canvas)
        inputs = canvas.tokens_BxL, _times(canvas.tokens_BxL), canvas.layout
        if self.prediction.guidance:
            inputs = self.prediction.with_unconditional(*inputs)
        return begin(canvas, filled_cache(denoise, *inputs))

    def step(self, denoise: Denoiser, state: State, keys_B, i) -> State:
        tokens_BxL, holes_BxL, layout, done_B, cache = state
        at = jnp.argmax(holes_BxL.any(axis=0)) + i

        def next_logits(tokens_BxL, t_BxL, layout):  # `log_p` calls it once; 2B rows under guidance
            nonlocal cache
            if not self.cache:
                return _column(denoise.logits(tokens_BxL, t_BxL, layout), at - 1)
            last_Bx1, t_Bx1 = _column(tokens_BxL, at - 1), _column(t_BxL, at - 1)
            logits_Bx1xV, cache = denoise.cached.logits(last_Bx1, t_Bx1, layout, at - 1, cache)
            return logits_Bx1xV

        log_p_Bx1xV = self.prediction.log_p(
            Denoiser.from_logits(next_logits), tokens_BxL, _times(tokens_BxL), layout
        )

        def row(key, log_p_1xV):
            # By place, not by step: a row's draws must not depend on where its neighbours begin.
            return self.prediction.draw(jax.random.fold_in(key, at), log_p_1xV)

        hole_Bx1 = _column(holes_BxL, at) & ~done_B[:, None]
        drawn_Bx1 = jnp.where(hole_Bx1, jax.vmap(row)(keys_B, log_p_Bx1xV), _column(tokens_BxL, at))
        tokens_BxL = jax.lax.dynamic_update_slice_in_dim(tokens_BxL, drawn_Bx1, at, axis=1)

        later_BxL = holes_BxL & (jnp.arange(holes_BxL.shape[1]) > at)[None]
        eos_id = self.prediction.vocabulary.eos_id
        ended_Bx1 = hole_Bx1 & (drawn_Bx1 == eos_id)
        tokens_BxL = jnp.where(later_BxL & ended_Bx1, eos_id, tokens_BxL)
        done_B |= ended_Bx1[:, 0] | ~later_BxL.any(axis=1)
        return State(tokens_BxL, holes_BxL, layout, done_B, cache)


def _column(x_BxL, at):
    """Returns x_Bx1.., the column at a place (traced)."""
    return jax.lax.dynamic_slice_in_dim(x_BxL, at, 1, axis=1)


def _times(tokens_BxL):
    """Returns the t_BxL that an autoregressive network is told: 0, as in training."""
    return jnp.zeros(tokens_BxL.shape, jnp.float32)
