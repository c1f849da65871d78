"""What a sampler is: a rule for one step, and the one loop that runs any rule."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from dlms_jax.diffusion import Denoiser, Layout, Vocabulary
from dlms_jax.sampling.canvas import Canvas


class State(NamedTuple):
    """Where a sampler stands.

    tokens_BxL: given tokens, and what the holes hold by now (the mask id where nothing).
    holes_BxL: True where the sampler may write.
    done_B: rows whose text cannot change any more; steps leave them as they are.
    extra: what else a rule carries from step to step (noisy embeddings, confidences, a cache).
    """

    tokens_BxL: jax.Array
    holes_BxL: jax.Array
    layout: Layout
    done_B: jax.Array
    extra: Any = None

    @property
    def canvas(self) -> Canvas:
        return Canvas(self.tokens_BxL, self.holes_BxL, self.layout)


class Rule(Protocol):
    """A way to fill canvases. Implementations are frozen dataclasses, so that programs compiled for
    one are found again."""

    def num_steps(self, canvas: Canvas) -> int:
        """Returns how many steps fill a canvas; raises UserError for one that it cannot fill."""

    def start(self, denoise: Denoiser, canvas: Canvas, keys_B: jax.Array) -> State:
        """Returns the state before step 0."""

    def step(self, denoise: Denoiser, state: State, keys_B: jax.Array, i: jax.Array) -> State:
        """Returns the state after step i (traced). A row's is a function of the row's own canvas,
        its key and i, whatever rows stand beside it and however far it is padded."""


def run(rule: Rule, denoise: Denoiser, state: State, keys_B, first, last) -> State:
    """Returns the state after the steps first..last-1 (may be traced), or as soon as all rows are
    done."""

    def unfinished(at):
        i, state = at
        return (i < last) & ~jnp.all(state.done_B)

    def step(at):
        i, state = at
        return i + 1, rule.step(denoise, state, keys_B, i)

    return jax.lax.while_loop(unfinished, step, (jnp.asarray(first), state))[1]


def begin(canvas: Canvas, extra: Any = None) -> State:
    """Returns the state of a canvas that is to be filled: rows without holes are done."""
    return State(*canvas, ~jnp.asarray(canvas.holes_BxL).any(axis=1), extra)


def reveal(
    state: State, tokens_BxL, vocabulary: Vocabulary, stop_at_eos: bool, extra=None
) -> State:
    """Returns the state after a step of a rule that masks nothing again: rows that are not done get
    `tokens_BxL` in their holes; those without a mask are done.

    With stop_at_eos so are rows with EOS in a hole and no masked hole before it, for text ends with
    the first EOS in a hole; their later holes get EOS.
    """
    free_BxL = state.holes_BxL & ~state.done_B[:, None]
    tokens_BxL = jnp.where(free_BxL, tokens_BxL, state.tokens_BxL)
    if stop_at_eos:
        open_BxL = state.holes_BxL & (tokens_BxL == vocabulary.mask_id)
        eos_BxL = state.holes_BxL & (tokens_BxL == vocabulary.eos_id)
        ends_BxL = eos_BxL & (jnp.cumsum(open_BxL, axis=1) == 0)
        after_BxL = state.holes_BxL & (jnp.cumsum(ends_BxL, axis=1) > 0)
        tokens_BxL = jnp.where(after_BxL, vocabulary.eos_id, tokens_BxL)
    open_BxL = state.holes_BxL & (tokens_BxL == vocabulary.mask_id)
    done_B = state.done_B | ~open_BxL.any(axis=1)
    return state._replace(tokens_BxL=tokens_BxL, done_B=done_B, extra=extra)


def row_keys(keys_B, i, stream: int) -> jax.Array:
    """Returns the rows' keys for one purpose (0, 1, ...) of step i."""
    return jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, i), stream))(keys_B)


def row_uniform(keys_B, i, shape: tuple[int, ...], stream: int = 0) -> jax.Array:
    """Returns uniform draws, [B, *shape]: of each row's key, the step and a stream number alone.
    Of a longer first axis the beginning is the same."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape))(row_keys(keys_B, i, stream))
