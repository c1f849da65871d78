"""Left to right, one token a step: how an autoregressive model samples."""

import dataclasses

import jax
import jax.numpy as jnp

from dlms_jax.diffusion import Vocabulary
from dlms_jax.errors import UserError
from dlms_jax.sampling.ancestral import draw
from dlms_jax.sampling.canvas import Canvas


@dataclasses.dataclass(frozen=True)
class NextToken:
    """Draws each hole from the prediction at the position before it, with no cache."""

    vocabulary: Vocabulary
    temperature: float = 1.0

    def num_steps(self, canvas: Canvas) -> int:
        """Returns the number of holes; raises UserError where text comes after one."""
        real_L = canvas.layout.segments_BxL[0] > 0
        holes_L = canvas.holes_BxL[0][real_L]
        if not holes_L[len(holes_L) - holes_L.sum() :].all():
            raise UserError(
                "an autoregressive model writes left to right and cannot fill holes before given "
                "text; use a masked model, or --prompt"
            )
        return int(holes_L.sum())

    def run(self, denoise, canvas: Canvas, keys_B, first, last) -> Canvas:
        """Returns the canvas with the holes first..last-1 filled (may be traced)."""
        return jax.lax.fori_loop(
            first, last, lambda i, c: self._step(denoise, c, keys_B, i), canvas
        )

    def _step(self, denoise, canvas, keys_B, i):
        tokens_BxL, holes_BxL, layout = canvas
        at = jnp.argmax(holes_BxL[0]) + i
        t_BxL = jnp.zeros(tokens_BxL.shape, jnp.float32)
        logits_BxLxV = denoise.logits(tokens_BxL, t_BxL, layout)
        logits_Bx1xV = jax.lax.dynamic_slice_in_dim(logits_BxLxV, at - 1, 1, axis=1)
        logits_Bx1xV += self.vocabulary.text_bias_V()[None, None]

        def row(key, logits_1xV):
            return draw(jax.random.fold_in(key, i), logits_1xV, self.temperature)

        drawn_Bx1 = jax.vmap(row)(keys_B, logits_Bx1xV)
        tokens_BxL = jax.lax.dynamic_update_slice_in_dim(tokens_BxL, drawn_Bx1, at, axis=1)
        return Canvas(tokens_BxL, holes_BxL, layout)
