"""Block after block, left to right, each filled by masked diffusion: how block diffusion samples
(BD3-LM, arXiv 2503.09573)."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlms_jax.diffusion import Denoiser, Layout
from dlms_jax.sampling.canvas import Canvas
from dlms_jax.sampling.decoding.cache import filled_cache
from dlms_jax.sampling.sampler import Rule, State, begin


class Progress(NamedTuple):
    """inner: the inner rule's state, on the block at hand. cache: the keys and values of the blocks
    before it; None without a cache."""

    inner: State
    cache: Any


@dataclasses.dataclass(frozen=True)
class Block:
    """Fills blocks of `size` tokens, aligned from BOS, by the steps of an `inner` rule for each.

    The inner rule, one of masked diffusion (which has a `prediction`), is given the block as its
    canvas, and as its network one that has read the finished blocks before it. All rows stand at
    the same block, from the first with a hole in any of them; where a row has none, its block is
    finished. Holes may stand before given text, but what is in later blocks is not seen.

    A row ends with the block where a hole got EOS: the holes after it get EOS. With `cache` a step
    reads one block, and each finished block is read once more; without, a step reads the whole
    canvas. Under guidance the finished blocks of the unconditional rows hold the mask in place of
    the prompt, and their cache is their own.
    """

    inner: Rule
    size: int
    cache: bool = True

    def num_steps(self, canvas: Canvas) -> int:
        """Returns the inner steps of all blocks from the first with a hole to the last."""
        blocks = np.flatnonzero(np.asarray(canvas.holes_BxL).any(axis=0)) // self.size
        return int(blocks[-1] - blocks[0] + 1) * self._inner_steps() if len(blocks) else 0

    def start(self, denoise: Denoiser, canvas: Canvas, keys_B) -> State:
        """Returns the state before the first block with a hole; with `cache`, after one pass over
        the whole canvas."""
        state = begin(canvas)
        whole = self._read(state, canvas.tokens_BxL.shape[1])
        cache = filled_cache(denoise, *whole) if self.cache else None
        return self._open(denoise, state, keys_B, self._first_block(canvas.holes_BxL), cache)

    def step(self, denoise: Denoiser, state: State, keys_B, i) -> State:
        first, inner_steps = self._first_block(state.holes_BxL), self._inner_steps()
        block, j = first + i // inner_steps, i % inner_steps
        state = jax.lax.cond(
            (j == 0) & (i > 0),
            lambda: self._open(
                denoise, state, keys_B, block, self._finish(denoise, state, block - 1)
            ),
            lambda: state,
        )
        tokens_BxL, holes_BxL, layout, done_B, (inner, cache) = state
        inner = jax.lax.cond(
            inner.done_B.all(),
            lambda: inner,
            lambda: self.inner.step(
                self._denoiser(denoise, state, block, cache), inner, _keys(keys_B, block), j
            ),
        )
        tokens_BxL = self._put(tokens_BxL, inner.tokens_BxL, block)

        finished_B = inner.done_B | (j == inner_steps - 1)
        eos_id = self.inner.prediction.vocabulary.eos_id
        eos_BxL = holes_BxL & (tokens_BxL == eos_id) & finished_B[:, None]
        after_BxL = holes_BxL & (jnp.cumsum(eos_BxL, axis=1) > 0)
        tokens_BxL = jnp.where(after_BxL, eos_id, tokens_BxL)
        later_BxL = holes_BxL & (jnp.arange(holes_BxL.shape[1]) >= (block + 1) * self.size)[None]
        done_B |= finished_B & (eos_BxL.any(axis=1) | ~later_BxL.any(axis=1))
        return State(tokens_BxL, holes_BxL, layout, done_B, Progress(inner, cache))

    def _inner_steps(self) -> int:
        """Returns the steps that fill a block which is all holes."""
        shape = 1, self.size
        positions_BxL = np.arange(self.size, dtype=np.int32)[None]
        layout = Layout(np.ones(shape, np.int32), positions_BxL, np.zeros(shape, bool))
        masks_BxL = np.full(shape, self.inner.prediction.vocabulary.mask_id, np.int32)
        return self.inner.num_steps(Canvas(masks_BxL, np.ones(shape, bool), layout))

    def _first_block(self, holes_BxL):
        return jnp.argmax(holes_BxL.any(axis=0)) // self.size

    def _open(self, denoise, state, keys_B, block, cache) -> State:
        """Returns the state with the inner rule before its first step on a block."""
        canvas = self._part(state.canvas, block)
        block_denoiser = self._denoiser(denoise, state, block, cache)
        inner = self.inner.start(block_denoiser, canvas, _keys(keys_B, block))
        done_B = inner.done_B | state.done_B | ~canvas.holes_BxL.any(axis=1)
        return state._replace(extra=Progress(inner._replace(done_B=done_B), cache))

    def _finish(self, denoise, state, block):
        """Returns the cache with the keys and values of a block that is finished."""
        if not self.cache:
            return None
        tokens_BxL, t_BxL, layout = self._read(state, (block + 1) * self.size)
        tokens_BxC, t_BxC = self._part((tokens_BxL, t_BxL), block)
        start, cache = block * self.size, state.extra.cache
        return denoise.cached.logits(tokens_BxC, t_BxC, layout, start, cache)[1]

    def _denoiser(self, denoise, state, block, cache) -> Denoiser:
        """Returns the network as it sees a block after the finished ones before it."""
        start = block * self.size
        read_BxL, t_BxL, layout = self._read(state, start)

        def logits(tokens_BxC, t_BxC, _):  # 2B rows under guidance, as those of `_read`
            if self.cache:
                return denoise.cached.logits(tokens_BxC, t_BxC, layout, start, cache)[0]
            inputs = self._put(read_BxL, tokens_BxC, block), self._put(t_BxL, t_BxC, block)
            return self._part(denoise.logits(*inputs, layout), block)

        return Denoiser.from_logits(logits)

    def _read(self, state, finished):
        """Returns (tokens_BxL, t_BxL, layout) as the network reads them, of whole blocks, where the
        tokens before place `finished` are; 2B rows under guidance."""
        tokens_BxL, layout = jax.tree.map(self._whole_blocks, (state.tokens_BxL, state.layout))
        place_L = jnp.arange(tokens_BxL.shape[1])
        layout = layout._replace(
            blocks_BxL=jnp.broadcast_to(place_L[None] // self.size, tokens_BxL.shape),
            clean_BxL=jnp.broadcast_to(place_L[None] < finished, tokens_BxL.shape),
        )
        inputs = tokens_BxL, jnp.zeros(tokens_BxL.shape, jnp.float32), layout
        prediction = self.inner.prediction
        return prediction.with_unconditional(*inputs) if prediction.guidance else inputs

    def _whole_blocks(self, x):
        """Returns x_BxL.. padded (by segment 0) to a multiple of the size; x_B as it is."""
        if x.ndim == 1:
            return x
        return jnp.pad(x, [(0, 0), (0, -x.shape[1] % self.size)] + [(0, 0)] * (x.ndim - 2))

    def _part(self, tree, block):
        """Returns the columns of a block; x_B as it is."""

        def part(x):
            x = self._whole_blocks(x)
            if x.ndim == 1:
                return x
            return jax.lax.dynamic_slice_in_dim(x, block * self.size, self.size, axis=1)

        return jax.tree.map(part, tree)

    def _put(self, x_BxL, part_BxC, block):
        """Returns x_BxL with the columns of a block replaced."""
        whole_BxL = self._whole_blocks(x_BxL)
        start = block * self.size
        whole_BxL = jax.lax.dynamic_update_slice_in_dim(whole_BxL, part_BxC, start, axis=1)
        return whole_BxL[:, : x_BxL.shape[1]]


def _keys(keys_B, block):
    """Returns the rows' keys for a block, by its own number: a row's draws must not depend on where
    its neighbours begin."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, block)
