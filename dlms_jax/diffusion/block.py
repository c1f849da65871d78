"""Block diffusion (BD3-LM, arXiv 2503.09573): autoregressive over blocks, masked inside."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dlms_jax.config import BlockConfig
from dlms_jax.diffusion.annealing import Annealing
from dlms_jax.diffusion.masked import Masked
from dlms_jax.diffusion.prompts import Prompts
from dlms_jax.diffusion.protocol import Batch, Denoiser, Layout, Loss, Vocabulary
from dlms_jax.diffusion.schedules import Schedule


@dataclasses.dataclass(frozen=True)
class Block:
    """Masked diffusion of each block, given the clean blocks of its document before it.

    Blocks are counted from BOS, which stands in the first. One pass does all: the network reads
    [x_t, x_0], whose first half sees of the second the blocks before its own; t is one a block, and
    0 in the second half, where nothing is scored. With blocks as long as documents this is
    `Masked`, draw by draw; with blocks of one token the bound is the chain rule.
    """

    vocabulary: Vocabulary
    schedule: Schedule
    config: BlockConfig = dataclasses.field(hash=False)  # it holds a dict
    prompts: Prompts = Prompts()
    annealing: Annealing = Annealing()
    exact = False
    protocol = "block bound in its count form"

    @property
    def attention(self) -> str:
        """With context="causal" the second half, of which samplers keep keys, is token-causal."""
        return "block" if self.config.context == "bidirectional" else "block_causal"

    def size_at(self, step: jax.Array | int) -> jax.Array:
        """Returns the size of the blocks at a step of training (may be traced): that of the last
        step of the curriculum which is not later; config.size before the first of them."""
        curriculum = sorted((int(key), int(size)) for key, size in self.config.curriculum.items())
        steps = np.array([start for start, _ in curriculum], np.int32)
        sizes = np.array([self.config.size, *(size for _, size in curriculum)], np.int32)
        return jnp.asarray(sizes)[jnp.searchsorted(jnp.asarray(steps), step, side="right")]

    def loss(self, denoise: Denoiser, batch: Batch, key: jax.Array, step=0) -> Loss:
        """Returns the loss of `Masked` at one t a block, of blocks of the step's size."""
        batch = in_blocks(batch, self.size_at(step))
        return self._masked().loss(_beside_clean(denoise), batch, key, step)

    def bound(self, denoise, batch, key, sample, num_samples):
        """Returns nats_BxL of the bound of `Masked` inside each block of config.size: k of the n
        scored tokens of a block are masked, k uniform on 1..n and stratified over the samples."""
        batch = in_blocks(batch, self.config.size)
        return self._masked().bound(_beside_clean(denoise), batch, key, sample, num_samples)

    def _masked(self):
        return Masked(self.vocabulary, self.schedule, self.prompts, self.annealing)


def in_blocks(batch: Batch, size: jax.Array | int) -> Batch:
    """Returns the batch with its documents cut into blocks of `size` tokens, all to be denoised."""
    layout = batch.layout._replace(
        blocks_BxL=batch.layout.positions_BxL // size,
        clean_BxL=jnp.zeros(batch.tokens_BxL.shape, bool),
    )
    return batch._replace(layout=layout)


def beside_clean(layout: Layout) -> Layout:
    """Returns the layout of [x_t, x_0], of that of x_t."""
    return jax.tree.map(_join, layout, layout._replace(clean_BxL=~layout.clean_BxL))


def _beside_clean(denoise: Denoiser) -> Denoiser:
    """Returns the Denoiser of x_t that reads [x_t, x_0]; x_0 are the targets."""

    def nll(inputs_BxL, t_BxL, layout, targets_BxL, weights_BxL, bias_V):
        zeros_BxL = jnp.zeros_like(t_BxL)
        total, nll_Bx2L = denoise.nll(
            _join(inputs_BxL, targets_BxL), _join(t_BxL, zeros_BxL), beside_clean(layout),
            _join(targets_BxL, targets_BxL), _join(weights_BxL, zeros_BxL), bias_V,
        )  # fmt: skip
        return total, nll_Bx2L[:, : targets_BxL.shape[1]]

    return denoise._replace(nll=nll)  # the one that `Masked` asks


def _join(a, b):
    """Returns [a_BxL, b_BxL]; of x_B, which both halves share, one."""
    return a if a.ndim == 1 else jnp.concatenate([a, b], axis=1)
