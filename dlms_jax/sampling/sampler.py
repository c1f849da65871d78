"""What a sampler is, and the one loop that runs any sampler."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from dlms_jax.diffusion import Denoiser, Layout
from dlms_jax.sampling.canvas import Canvas


class SamplerState(NamedTuple):
    """Where each row stands. Rows are independent: they may be at different steps.

    tokens_BxL: given tokens, and what the holes hold so far (the mask id: nothing yet).
    holes_BxL: True where the sampler may write.
    keys_B: the keys that all draws of a row come from.
    step_B: how many steps a row has taken.
    done_B: rows whose text is final. A step changes nothing of them.
    extra: what else a sampler carries, a pytree with rows first (noisy embeddings, confidences).
    cache: keys and values of what was read (diffusion's Cached), of 2B rows under guidance; None
        without a cache. Those of a row that is done have no meaning.
    """

    tokens_BxL: jax.Array
    holes_BxL: jax.Array
    layout: Layout
    keys_B: jax.Array
    step_B: jax.Array
    done_B: jax.Array
    extra: Any = None
    cache: Any = None

    @property
    def canvas(self) -> Canvas:
        return Canvas(self.tokens_BxL, self.holes_BxL, self.layout)


class Sampler(Protocol):
    """A way to fill canvases. Implementations are frozen dataclasses: equal ones share compiled
    programs."""

    def num_steps(self, canvas: Canvas) -> int:
        """Returns how many steps fill every row at most; raises UserError for a canvas that the
        sampler cannot fill."""

    def start(self, denoise: Denoiser, canvas: Canvas, keys_B: jax.Array) -> SamplerState:
        """Returns the state before any step."""

    def step(self, denoise: Denoiser, state: SamplerState) -> SamplerState:
        """Returns the state after one more step of each row that is not done.

        A row of it is a function of that row of the state only: the rows beside it, their steps and
        the padding do not matter.
        """


def run_sampler(sampler: Sampler, denoise: Denoiser, state: SamplerState, steps) -> SamplerState:
    """Returns the state after `steps` further steps (may be traced), or once all rows are done."""

    def unfinished(loop):
        taken, state = loop
        return (taken < steps) & ~jnp.all(state.done_B)

    def step(loop):
        taken, state = loop
        return taken + 1, sampler.step(denoise, state)

    return jax.lax.while_loop(unfinished, step, (jnp.int32(0), state))[1]


def begin(canvas: Canvas, keys_B, extra: Any = None) -> SamplerState:
    """Returns the state of a canvas before any step; rows without holes are done."""
    done_B = ~jnp.asarray(canvas.holes_BxL).any(axis=1)
    return SamplerState(*canvas, keys_B, jnp.zeros(done_B.shape, jnp.int32), done_B, extra)


def advance(state: SamplerState, tokens_BxL, done_B, extra: Any = None) -> SamplerState:
    """Returns the state after a step in which rows that were not done got `tokens_BxL` in their
    holes, became done where `done_B`, and carry `extra`."""
    tokens_BxL = jnp.where(state.holes_BxL, tokens_BxL, state.tokens_BxL)
    old = state.tokens_BxL, state.step_B, state.extra
    new = choose_rows(state.done_B, old, (tokens_BxL, state.step_B + 1, extra))
    done_B = state.done_B | done_B
    return state._replace(tokens_BxL=new[0], step_B=new[1], done_B=done_B, extra=new[2])


def choose_rows(chosen_B, one: Any, other: Any) -> Any:
    """Returns a pytree with the chosen rows of `one` and the rest of `other`; rows come first."""

    def choose(x, y):
        return jnp.where(jnp.expand_dims(chosen_B, range(1, x.ndim)), x, y)

    return jax.tree.map(choose, one, other)


def row_keys(keys_B, step_B, stream: int) -> jax.Array:
    """Returns the rows' keys for one purpose (0, 1, ...) at their steps."""

    def row(key, step):
        return jax.random.fold_in(jax.random.fold_in(key, step), stream)

    return jax.vmap(row)(keys_B, jnp.broadcast_to(step_B, keys_B.shape))


def row_uniform(keys_B, step_B, shape: tuple[int, ...], stream: int = 0) -> jax.Array:
    """Returns uniform draws, [B, *shape], each row's from its own key, step and stream. A longer
    first axis of `shape` leaves the beginning as it is."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape))(row_keys(keys_B, step_B, stream))
