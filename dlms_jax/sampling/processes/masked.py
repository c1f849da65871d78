"""Base classes of the samplers of masked diffusion."""

import dataclasses

import jax
import jax.numpy as jnp

from dlms_jax.diffusion import Denoiser
from dlms_jax.diffusion.protocol import Array
from dlms_jax.diffusion.schedules import Schedule
from dlms_jax.sampling.canvas import Canvas
from dlms_jax.sampling.guidance import predict
from dlms_jax.sampling.prediction import Prediction
from dlms_jax.sampling.sampler import (
    SamplerState,
    advance,
    begin,
    end_at_eos,
    row_keys,
    row_uniform,
)
from dlms_jax.sampling.timesteps import Spacing, times


@dataclasses.dataclass(frozen=True)
class MaskedSampler:
    """A sampler whose step is one pass of the network over a canvas with masks in its open holes.

    A step has two halves, `time` before the network and `update` after it, so that a `BlockSampler`
    can run the network in its own way.
    """

    prediction: Prediction
    schedule: Schedule

    def num_steps(self, canvas: Canvas) -> int:
        raise NotImplementedError

    def start(self, denoise: Denoiser, canvas: Canvas, keys_B) -> SamplerState:
        return begin(canvas, keys_B)

    def step(self, denoise: Denoiser, state: SamplerState) -> SamplerState:
        t_BxL = jnp.broadcast_to(self.time(state)[:, None], state.tokens_BxL.shape)
        inputs = state.tokens_BxL, t_BxL, state.layout
        return self.update(state, *predict(denoise, self.prediction, *inputs))

    def time(self, state: SamplerState) -> jax.Array:
        """Returns t_B, the times that the network reads."""
        raise NotImplementedError

    def update(self, state: SamplerState, logits_BxLxV, without_BxLxV=None) -> SamplerState:
        """Returns the state after a step, from the logits that `guidance.predict` returns."""
        raise NotImplementedError

    def masked(self, state: SamplerState) -> Array:
        """Returns masked_BxL: True for holes that are still masked."""
        return state.holes_BxL & (state.tokens_BxL == self.prediction.vocabulary.mask_id)

    def draw(self, state: SamplerState, log_p_BxLxV, stream: int) -> jax.Array:
        """Returns drawn_BxL, a token for each position."""
        keys_B = row_keys(state.keys_B, state.step_B, stream)
        return jax.vmap(self.prediction.draw)(keys_B, log_p_BxLxV)

    def uniform(self, state: SamplerState, *shape: int) -> jax.Array:
        """Returns uniform draws of shape [B, *shape]."""
        return row_uniform(state.keys_B, state.step_B, shape, stream=0)


@dataclasses.dataclass(frozen=True)
class SteppedSampler(MaskedSampler):
    """A masked sampler that goes from t=1 to t=0 in `steps` steps."""

    steps: int
    spacing: Spacing = "uniform"

    def num_steps(self, canvas: Canvas) -> int:
        return self.steps

    def time(self, state: SamplerState) -> jax.Array:
        return self.times(state)[0]

    def times(self, state: SamplerState) -> tuple[jax.Array, jax.Array]:
        """Returns (t_B, s_B), the start and end of each row's step."""
        return times(self.spacing, self.schedule, self.steps, state.step_B)


def reveal(
    state: SamplerState, tokens_BxL, prediction: Prediction, stop_at_eos: bool, extra=None
) -> SamplerState:
    """Returns the state after a step that reveals tokens; rows without a mask are done.

    Args:
      state: the state before the step.
      tokens_BxL: the new tokens; the mask id where a hole stays masked.
      prediction: its vocabulary gives the ids.
      stop_at_eos: also finish rows that `end_at_eos` ends.
      extra: the new `SamplerState.extra`.
    """
    if stop_at_eos:
        tokens_BxL = end_at_eos(tokens_BxL, state.holes_BxL, prediction.vocabulary)
    open_BxL = state.holes_BxL & (tokens_BxL == prediction.vocabulary.mask_id)
    return advance(state, tokens_BxL, ~open_BxL.any(axis=1), extra)
