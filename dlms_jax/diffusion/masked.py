"""Masked (absorbing) diffusion: MDLM (arXiv 2406.07524), MD4 (2406.04329), LLaDA (2502.09992)."""

import dataclasses

import jax
import jax.numpy as jnp

from dlms_jax.diffusion.annealing import Annealing
from dlms_jax.diffusion.groups import groups, masks_by_count
from dlms_jax.diffusion.prompts import Prompts
from dlms_jax.diffusion.protocol import Batch, Denoiser, Loss, Vocabulary, example_uniform
from dlms_jax.diffusion.schedules import Schedule
from dlms_jax.diffusion.times import document_fractions, document_times


@dataclasses.dataclass(frozen=True)
class Masked:
    """Each token is masked with probability 1 - alpha(t); the network predicts what was there.

    The symbols that no text holds (mask, BOS, padding) have probability 0 in the prediction. t is
    one a document; where the batch's layout has blocks (block.py), one a block.
    """

    vocabulary: Vocabulary
    schedule: Schedule
    prompts: Prompts = Prompts()
    annealing: Annealing = Annealing()
    attention = "full"
    exact = False
    protocol = "masked bound in its count form"

    def corrupt(self, batch: Batch, key: jax.Array):
        """Returns (inputs_BxL, t_BxL, masked_BxL): one draw of the forward process."""
        time_key, mask_key = jax.random.split(key)
        layout = batch.layout
        t_BxL = document_times(time_key, batch.row_B, layout.segments_BxL, layout.blocks_BxL)
        uniform_BxL = example_uniform(mask_key, batch.row_B, t_BxL.shape[1])
        masked_BxL = batch.scored_BxL & (uniform_BxL < self.schedule.masked(t_BxL))
        return self._hide(batch, masked_BxL), t_BxL, masked_BxL

    def loss(self, denoise: Denoiser, batch: Batch, key: jax.Array, step=0) -> Loss:
        """Returns the bound at one t a document: sum of -alpha'/(1 - alpha) * -log p over masks."""
        batch = self.prompts(batch, key, self.vocabulary.mask_id)
        batch = self.annealing(batch, key, step)
        inputs_BxL, t_BxL, masked_BxL = self.corrupt(batch, key)
        weights_BxL = jnp.where(masked_BxL, self.schedule.weight(t_BxL), 0.0)
        total, nll_BxL = denoise.nll(
            inputs_BxL, t_BxL, batch.layout, batch.tokens_BxL, weights_BxL,
            self.vocabulary.text_bias_V(),
        )  # fmt: skip
        return Loss(total, {"masked": jnp.sum(masked_BxL), "masked_nll": jnp.sum(nll_BxL)})

    def bound(self, denoise, batch, key, sample, num_samples):
        """Returns nats_BxL of the bound in its count form (`masks_by_count`): k of a document's n
        scored tokens are masked, k uniform on 1..n and stratified over the samples, weight n / k.
        """
        layout = batch.layout
        stratum_key, mask_key = jax.random.split(key)
        fraction_BxL = document_fractions(
            stratum_key, batch.row_B, layout.segments_BxL, layout.blocks_BxL
        )
        fraction_BxL = (fraction_BxL + sample / num_samples) % 1.0
        mask_key = jax.random.fold_in(mask_key, sample)
        uniform_BxL = example_uniform(mask_key, batch.row_B, fraction_BxL.shape[1])
        masked_BxL, weights_BxL, p_BxL = masks_by_count(
            fraction_BxL, uniform_BxL, batch.scored_BxL, groups(layout)
        )
        _, nll_BxL = denoise.nll(
            self._hide(batch, masked_BxL), self.schedule.time(p_BxL), layout,
            batch.tokens_BxL, weights_BxL, self.vocabulary.text_bias_V(),
        )  # fmt: skip
        return weights_BxL * nll_BxL

    def _hide(self, batch, masked_BxL):
        return jnp.where(masked_BxL, self.vocabulary.mask_id, batch.tokens_BxL)
