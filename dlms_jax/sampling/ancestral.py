"""The full reverse process of masked diffusion."""

import dataclasses

import jax
import jax.numpy as jnp

from dlms_jax.diffusion import Vocabulary
from dlms_jax.diffusion.schedules import Schedule
from dlms_jax.sampling.canvas import Canvas


@dataclasses.dataclass(frozen=True)
class Ancestral:
    """From all holes masked at t=1 to none at t=0 in `steps` equal steps of t (MDLM eq. 6).

    A masked token is revealed, between t and s < t, with probability 1 - (1-alpha_s)/(1-alpha_t),
    and then drawn from the network's prediction. Whether and which are two draws: one Gumbel-max
    over both in float32 would lower the temperature (arXiv 2409.02908). With guidance w the
    prediction is (1+w) log p(. | prompt) - w log p(. | every given token masked), renormalised.
    """

    vocabulary: Vocabulary
    schedule: Schedule
    steps: int
    temperature: float = 1.0
    guidance: float = 0.0

    def num_steps(self, canvas: Canvas) -> int:
        return self.steps

    def run(self, denoise, canvas: Canvas, keys_B, first, last) -> Canvas:
        """Returns the canvas after the steps first..last-1 (may be traced). Each row is filled by
        its own key, whatever rows stand beside it."""
        return jax.lax.fori_loop(
            first, last, lambda i, c: self._step(denoise, c, keys_B, i), canvas
        )

    def _step(self, denoise, canvas, keys_B, i):
        tokens_BxL, holes_BxL, layout = canvas
        t = 1 - i / self.steps
        s = 1 - (i + 1) / self.steps
        # Exactly 1 at the last step, where s is 0, so that no mask remains.
        reveal = jnp.where(
            i + 1 >= self.steps, 1.0, 1 - self.schedule.masked(s) / self.schedule.masked(t)
        )
        t_BxL = jnp.full(tokens_BxL.shape, t, jnp.float32)
        logits_BxLxV = self._guided(denoise, canvas, t_BxL)
        logits_BxLxV += self.vocabulary.text_bias_V()[None, None]

        def row(key, tokens_L, holes_L, logits_LxV):
            whether_key, which_key = jax.random.split(jax.random.fold_in(key, i))
            revealed_L = jax.random.uniform(whether_key, tokens_L.shape) < reveal
            masked_L = holes_L & (tokens_L == self.vocabulary.mask_id)
            drawn_L = draw(which_key, logits_LxV, self.temperature)
            return jnp.where(masked_L & revealed_L, drawn_L, tokens_L)

        tokens_BxL = jax.vmap(row)(keys_B, tokens_BxL, holes_BxL, logits_BxLxV)
        return Canvas(tokens_BxL, holes_BxL, layout)

    def _guided(self, denoise, canvas, t_BxL):
        tokens_BxL, holes_BxL, layout = canvas
        if self.guidance == 0:
            return denoise.logits(tokens_BxL, t_BxL, layout)
        given_BxL = ~holes_BxL & (layout.positions_BxL > 0)
        without_BxL = jnp.where(given_BxL, self.vocabulary.mask_id, tokens_BxL)
        both = jax.tree.map(
            lambda a, b: jnp.concatenate([a, b]),
            (tokens_BxL, t_BxL, layout),
            (without_BxL, t_BxL, layout),
        )
        bias_V = self.vocabulary.text_bias_V()[None, None]
        given, without = jnp.split(jax.nn.log_softmax(denoise.logits(*both) + bias_V), 2)
        # What has probability 0 given the prompt keeps it; -inf - -inf would be NaN.
        possible = given > -jnp.inf
        return jnp.where(possible, given + self.guidance * (given - without), -jnp.inf)


def draw(key, logits_LxV, temperature: float):
    """Returns one symbol a position, drawn at a temperature; the likeliest one at 0.

    mode="high": float32 Gumbel noise of the default mode never reaches symbols of small p.
    """
    if temperature == 0:
        return jnp.argmax(logits_LxV, axis=-1).astype(jnp.int32)
    drawn_L = jax.random.categorical(key, logits_LxV / temperature, axis=-1, mode="high")
    return drawn_L.astype(jnp.int32)
