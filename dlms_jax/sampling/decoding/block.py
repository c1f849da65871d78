"""Block diffusion: fills blocks left to right, each by masked diffusion (arXiv 2503.09573)."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlms_jax.diffusion import Denoiser, Layout
from dlms_jax.sampling.canvas import Canvas
from dlms_jax.sampling.decoding.cache import columns, filled_cache, read_columns
from dlms_jax.sampling.processes.masked import MaskedSampler
from dlms_jax.sampling.sampler import SamplerState, advance, begin, choose_rows, end_at_eos


class BlockState(NamedTuple):
    """SamplerState.extra of a BlockSampler.

    Attributes:
      block_B: the index of each row's current block.
      inner: the inner sampler's state, whose canvas is that block.
    """

    block_B: jax.Array
    inner: SamplerState


@dataclasses.dataclass(frozen=True)
class BlockSampler:
    """Fills blocks of `size` tokens from left to right, each with an `inner` sampler.

    Blocks are aligned to BOS. Each row starts at the block of its first hole. The network reads the
    current block and the finished ones before it; given text in later blocks is not visible. A row
    ends with the block in which a hole gets EOS, and its later holes get EOS.

    With `cache` a step reads one block of each row. A full block takes one more step, which
    computes the keys and values of its final tokens. So does a block without holes after
    the first hole. Without `cache` a step reads the whole canvas. With guidance, the unconditional
    rows have masks in place of the prompt, and their own keys and values.
    """

    inner: MaskedSampler
    size: int
    cache: bool = True

    def num_steps(self, canvas: Canvas) -> int:
        """Returns the largest number of steps that a row may need.

        It counts the inner steps of the blocks with holes. With `cache` it adds one step for each
        block from the first of these up to, but not including, the last.
        """
        whole = canvas._replace(holes_BxL=np.ones((1, self.size), bool))
        holes_BxL = np.asarray(self._padded(canvas.holes_BxL))
        holes_BxN = np.any(holes_BxL.reshape(len(holes_BxL), -1, self.size), axis=2)
        steps_B = self.inner.num_steps(whole) * holes_BxN.sum(axis=1)
        if self.cache:
            begun_BxN = np.logical_or.accumulate(holes_BxN, axis=1)
            ahead_BxN = np.logical_or.accumulate(holes_BxN[:, ::-1], axis=1)[:, ::-1]
            steps_B += (begun_BxN[:, :-1] & ahead_BxN[:, 1:]).sum(axis=1)
        return int(steps_B.max(initial=0))

    def start(self, denoise: Denoiser, canvas: Canvas, keys_B) -> SamplerState:
        """Returns the state at the first block with a hole; `cache` costs one pass."""
        state = begin(canvas, keys_B)
        block_B = jnp.argmax(state.holes_BxL, axis=1) // self.size
        state = state._replace(extra=self._open(denoise, state, block_B))
        if not self.cache:
            return state
        end_B = jnp.full(block_B.shape, canvas.tokens_BxL.shape[1])
        inputs = self._inputs(state, jnp.zeros(block_B.shape), end_B)
        return state._replace(cache=filled_cache(denoise, self.inner.prediction, *inputs))

    def step(self, denoise: Denoiser, state: SamplerState) -> SamplerState:
        block_B, inner = state.extra
        start_B, end_B = block_B * self.size, (block_B + 1) * self.size
        # Full blocks are read at t=0, as clean text; they have no open hole.
        full_B = inner.done_B
        t_B = jnp.where(full_B, 0.0, self.inner.time(inner))
        inputs = self._inputs(state, t_B, jnp.where(full_B, end_B, start_B))
        *logits, cache = read_columns(
            denoise, self.inner.prediction, *inputs, start_B, self.size, state.cache
        )
        inner = self.inner.update(inner, *logits)

        tokens_BxL = self._put(state.tokens_BxL, inner.tokens_BxL, start_B)
        vocabulary = self.inner.prediction.vocabulary
        ended_BxL = end_at_eos(tokens_BxL, state.holes_BxL, vocabulary)
        tokens_BxL = jnp.where(inner.done_B[:, None], ended_BxL, tokens_BxL)
        eos_BxL = state.holes_BxL & (tokens_BxL == vocabulary.eos_id)
        place_1xL = jnp.arange(tokens_BxL.shape[1])[None]
        later_BxL = state.holes_BxL & (place_1xL >= end_B[:, None])
        done_B = inner.done_B & (eos_BxL.any(axis=1) | ~later_BxL.any(axis=1))

        if self.cache:
            next_B, moves_B = block_B + 1, full_B
        else:
            next_B, moves_B = jnp.argmax(later_BxL, axis=1) // self.size, inner.done_B & ~done_B
        blocks = choose_rows(
            moves_B, self._open(denoise, state, next_B), BlockState(block_B, inner)
        )
        return advance(state._replace(cache=cache), tokens_BxL, done_B, blocks)

    def _open(self, denoise, state, block_B) -> BlockState:
        """Returns the inner sampler's initial state on a block of each row."""
        canvas = columns(jax.tree.map(self._padded, state.canvas), block_B * self.size, self.size)
        # The key depends on the block's index, not on the number of blocks that the prompt fills.
        keys_B = jax.vmap(jax.random.fold_in)(state.keys_B, block_B)
        return BlockState(block_B, self.inner.start(denoise, canvas, keys_B))

    def _inputs(self, state, t_B, finished_B) -> tuple[jax.Array, jax.Array, Layout]:
        """Returns (tokens_BxL, t_BxL, layout) of whole blocks, clean before position finished_B."""
        tokens_BxL, layout = jax.tree.map(self._padded, (state.tokens_BxL, state.layout))
        place_BxL = jnp.broadcast_to(jnp.arange(tokens_BxL.shape[1])[None], tokens_BxL.shape)
        clean_BxL = place_BxL < finished_B[:, None]
        layout = layout._replace(blocks_BxL=place_BxL // self.size, clean_BxL=clean_BxL)
        return tokens_BxL, jnp.where(clean_BxL, 0.0, t_B[:, None]), layout

    def _put(self, x_BxL, part_BxC, start_B):
        """Returns x_BxL with one block of each row replaced."""
        put = jax.vmap(jax.lax.dynamic_update_slice_in_dim, in_axes=(0, 0, 0, None))
        return put(self._padded(x_BxL), part_BxC, start_B, 0)[:, : x_BxL.shape[1]]

    def _padded(self, x):
        """Returns x_BxL.. padded with 0 to whole blocks; x_B unchanged."""
        if x.ndim == 1:
            return x
        return jnp.pad(x, [(0, 0), (0, -x.shape[1] % self.size)] + [(0, 0)] * (x.ndim - 2))
