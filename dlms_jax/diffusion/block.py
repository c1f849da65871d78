"""Block diffusion (BD3-LM, arXiv 2503.09573): autoregressive over blocks, masked inside."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dlms_jax.config import BlockConfig, Traits
from dlms_jax.config.traits import block_traits
from dlms_jax.diffusion.annealing import Annealing
from dlms_jax.diffusion.masked import Masked
from dlms_jax.diffusion.objective import Objective
from dlms_jax.diffusion.prompts import Prompts
from dlms_jax.diffusion.protocol import Batch, Denoiser, Layout
from dlms_jax.diffusion.schedules import Schedule


@dataclasses.dataclass(frozen=True)
class Block(Objective):
    """Masked diffusion of each block, given the clean blocks of its document before it.

    Blocks are counted from BOS, which is in the first one. One pass computes the loss of all
    blocks: the network reads [x_t, x_0], and a block of x_t attends to itself and to the earlier
    blocks of x_0. Each block has its own t; x_0 has t = 0 and is not scored. If blocks are as long
    as documents this equals `Masked`, draw by draw; with blocks of one token the bound is the exact
    likelihood by the chain rule.

    `corrupt` returns x_t. It uses the blocks of the batch's layout (`in_blocks`), or else blocks of
    config.size tokens.
    """

    schedule: Schedule
    config: BlockConfig = dataclasses.field(hash=False)  # it holds a dict
    prompts: Prompts = Prompts()
    annealing: Annealing = Annealing()

    @property
    def traits(self) -> Traits:
        return block_traits(self.schedule.masked_share, self.config.context)

    @property
    def protocol(self) -> str:
        return "block bound in its count form"

    def size_at(self, step: jax.Array | int) -> jax.Array:
        """Returns the block size at a step of training.

        It is the size at the latest step of config.curriculum that has been reached, or config.size
        before the first one. The step may be traced.
        """
        curriculum = sorted((int(key), int(size)) for key, size in self.config.curriculum.items())
        steps = np.array([start for start, _ in curriculum], np.int32)
        sizes = np.array([self.config.size, *(size for _, size in curriculum)], np.int32)
        return jnp.asarray(sizes)[jnp.searchsorted(jnp.asarray(steps), step, side="right")]

    def draw_times(self, batch, key):
        return self._masked().draw_times(self._cut(batch), key)

    def corrupt(self, batch, t_BxL, key, denoise=None):
        return self._masked().corrupt(batch, t_BxL, key)

    def corrupt_with(self, batch, hidden_BxL):
        return self._masked().corrupt_with(self._cut(batch), hidden_BxL)

    def loss(self, denoise, batch, key, step=0):
        """Returns the loss of `Masked` at one t for each block, with the step's block size."""
        batch = in_blocks(batch, self.size_at(step))
        return self._masked().loss(_beside_clean(denoise), batch, key, step)

    def bound(self, denoise, batch, key, sample, num_samples):
        """Returns nats_BxL of the bound of `Masked` inside each block of config.size tokens.

        k of the n scored tokens of a block are masked, k uniform on 1..n and stratified over the
        samples.
        """
        batch = in_blocks(batch, self.config.size)
        return self._masked().bound(_beside_clean(denoise), batch, key, sample, num_samples)

    def _cut(self, batch: Batch) -> Batch:
        return batch if batch.layout.blocks_BxL is not None else in_blocks(batch, self.config.size)

    def _masked(self):
        return Masked(self.vocabulary, self.schedule, self.prompts, self.annealing)


def in_blocks(batch: Batch, size: jax.Array | int) -> Batch:
    """Returns the batch with its documents divided into blocks of `size` tokens, none clean."""
    layout = batch.layout._replace(
        blocks_BxL=batch.layout.positions_BxL // size,
        clean_BxL=jnp.zeros(batch.tokens_BxL.shape, bool),
    )
    return batch._replace(layout=layout)


def beside_clean(layout: Layout) -> Layout:
    """Returns the layout of [x_t, x_0], given the layout of x_t."""
    assert layout.clean_BxL is not None  # `in_blocks` sets it
    return jax.tree.map(_join, layout, layout._replace(clean_BxL=~layout.clean_BxL))


def _beside_clean(denoise: Denoiser) -> Denoiser:
    """Returns the Denoiser of x_t that runs the network on [x_t, x_0]; x_0 is the targets."""

    def nll(inputs_BxL, t_BxL, layout, targets_BxL, weights_BxL, bias_V):
        zeros_BxL = jnp.zeros_like(t_BxL)
        found = denoise.nll(
            _join(inputs_BxL, targets_BxL),
            _join(t_BxL, zeros_BxL),
            beside_clean(layout),
            _join(targets_BxL, targets_BxL),
            _join(weights_BxL, zeros_BxL),
            bias_V,
        )
        return found._replace(nll_BxL=found.nll_BxL[:, : targets_BxL.shape[1]])

    return denoise._replace(nll=nll)  # the only function that `Masked` calls


def _join(a, b):
    """Returns [a_BxL, b_BxL]; arrays x_B are shared by both halves and stay as they are."""
    return a if a.ndim == 1 else jnp.concatenate([a, b], axis=1)
