"""The Sampler protocol, its state, and the loop that runs a sampler."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from dlms_jax.diffusion import Denoiser, Layout, Vocabulary
from dlms_jax.diffusion.protocol import Array
from dlms_jax.sampling.canvas import Canvas


class SamplerState(NamedTuple):
    """The state of each row. Rows are independent and may be at different steps.

    Attributes:
      tokens_BxL: the given tokens, and the current content of the holes (the mask id: empty).
      holes_BxL: True where the sampler may write.
      layout: the layout of the rows.
      keys_B: the random key of each row.
      step_B: the number of steps that a row has taken.
      done_B: True for rows whose text is final. A step does not change them.
      extra: further state of the sampler, a pytree with rows first (noisy embeddings, confidences).
      cache: keys and values (diffusion's Cached) of B rows, 2B with guidance; None without a cache.
        Those of finished rows are undefined.
    """

    tokens_BxL: Array
    holes_BxL: Array
    layout: Layout
    keys_B: jax.Array
    step_B: jax.Array
    done_B: jax.Array
    extra: Any = None
    cache: Any = None

    @property
    def canvas(self) -> Canvas:
        """Returns the canvas with the current tokens."""
        return Canvas(self.tokens_BxL, self.holes_BxL, self.layout)


class Sampler(Protocol):
    """A method of filling canvases.

    Implementations are frozen dataclasses, so that equal samplers share compiled programs.
    """

    def num_steps(self, canvas: Canvas) -> int:
        """Returns the largest number of steps that a row may need.

        Raises:
          UserError: the sampler cannot fill this canvas.
        """

    def start(self, denoise: Denoiser, canvas: Canvas, keys_B: jax.Array) -> SamplerState:
        """Returns the state before the first step; `keys_B` are the random keys of the rows."""

    def step(self, denoise: Denoiser, state: SamplerState) -> SamplerState:
        """Returns the state after one more step of each unfinished row.

        A row of the result depends only on the same row of `state`, not on other rows or padding.
        """


def run_sampler(sampler: Sampler, denoise: Denoiser, state: SamplerState, steps) -> SamplerState:
    """Returns the state after `steps` more steps, or when all rows are done.

    Args:
      sampler: the sampler.
      denoise: the network.
      state: a state of this sampler.
      steps: an int, or a traced integer.
    """

    def unfinished(loop):
        taken, state = loop
        return (taken < steps) & ~jnp.all(state.done_B)

    def step(loop):
        taken, state = loop
        return taken + 1, sampler.step(denoise, state)

    return jax.lax.while_loop(unfinished, step, (jnp.int32(0), state))[1]


def begin(canvas: Canvas, keys_B, extra: Any = None) -> SamplerState:
    """Returns the state of a canvas before the first step; rows without holes are done."""
    done_B = ~jnp.asarray(canvas.holes_BxL).any(axis=1)
    return SamplerState(*canvas, keys_B, jnp.zeros(done_B.shape, jnp.int32), done_B, extra)


def advance(state: SamplerState, tokens_BxL, done_B, extra: Any = None) -> SamplerState:
    """Returns the state after a step; rows that were already done keep their content.

    Args:
      state: the state before the step.
      tokens_BxL: the new tokens, of which those in holes are used.
      done_B: True for rows that this step finishes.
      extra: the new `SamplerState.extra`.
    """
    tokens_BxL = jnp.where(state.holes_BxL, tokens_BxL, state.tokens_BxL)
    old = state.tokens_BxL, state.step_B, state.extra
    new = choose_rows(state.done_B, old, (tokens_BxL, state.step_B + 1, extra))
    done_B = state.done_B | done_B
    return state._replace(tokens_BxL=new[0], step_B=new[1], done_B=done_B, extra=new[2])


def end_at_eos(tokens_BxL, holes_BxL, vocabulary: Vocabulary) -> jax.Array:
    """Returns tokens_BxL with EOS in all holes after the end of each row.

    A row ends at the first EOS in a hole that has no masked hole before it. Every sampler ends its
    finished rows this way. EOS in given text ends nothing.
    """
    masked_BxL = holes_BxL & (tokens_BxL == vocabulary.mask_id)
    eos_BxL = holes_BxL & (tokens_BxL == vocabulary.eos_id)
    ends_BxL = eos_BxL & (jnp.cumsum(masked_BxL, axis=1) == 0)
    ended_BxL = holes_BxL & (jnp.cumsum(ends_BxL, axis=1) > 0)
    return jnp.where(ended_BxL, vocabulary.eos_id, tokens_BxL)


def choose_rows(chosen_B, one: Any, other: Any) -> Any:
    """Returns a pytree with the chosen rows of `one` and the other rows of `other`; rows first."""

    def choose(x, y):
        return jnp.where(jnp.expand_dims(chosen_B, range(1, x.ndim)), x, y)

    return jax.tree.map(choose, one, other)


def row_keys(keys_B, step_B, stream: int) -> jax.Array:
    """Returns keys_B of the rows at their steps; `stream` (0, 1, ...) numbers independent uses."""

    def row(key, step):
        return jax.random.fold_in(jax.random.fold_in(key, step), stream)

    return jax.vmap(row)(keys_B, jnp.broadcast_to(step_B, keys_B.shape))


def row_uniform(keys_B, step_B, shape: tuple[int, ...], stream: int = 0) -> jax.Array:
    """Returns uniform draws of shape [B, *shape], each row's from its own key, step and stream.

    A longer first axis of `shape` does not change the first draws.
    """
    return jax.vmap(lambda key: jax.random.uniform(key, shape))(row_keys(keys_B, step_B, stream))
