"""Masked (absorbing) diffusion: MDLM (arXiv 2406.07524), MD4 (2406.04329), LLaDA (2502.09992)."""

import dataclasses

import jax
import jax.numpy as jnp

from dlms_jax.config import Traits
from dlms_jax.config.traits import masked_traits
from dlms_jax.diffusion.annealing import Annealing
from dlms_jax.diffusion.groups import group_mean, groups, masks_by_count
from dlms_jax.diffusion.objective import Objective
from dlms_jax.diffusion.prompts import Prompts
from dlms_jax.diffusion.protocol import Batch, Corrupted, Denoiser, Loss, Nll, example_uniform
from dlms_jax.diffusion.schedules import Schedule
from dlms_jax.diffusion.times import document_fractions, document_times


@dataclasses.dataclass(frozen=True)
class Masked(Objective):
    """Each token is masked with probability 1 - alpha(t); the network predicts the masked tokens.

    Tokens that do not occur in text (mask, BOS, padding) have probability 0 in the prediction. Each
    document has its own t, or each block if the batch's layout has blocks (block.py).
    """

    schedule: Schedule
    prompts: Prompts = Prompts()
    annealing: Annealing = Annealing()

    @property
    def traits(self) -> Traits:
        return masked_traits(self.schedule.masked_share)

    @property
    def protocol(self) -> str:
        return "masked bound in its count form"

    def draw_times(self, batch, key):
        time_key, _ = jax.random.split(key)
        layout = batch.layout
        return document_times(time_key, batch.row_B, layout.segments_BxL, layout.blocks_BxL)

    def corrupt(self, batch, t_BxL, key, denoise=None):
        _, mask_key = jax.random.split(key)
        uniform_BxL = example_uniform(mask_key, batch.row_B, t_BxL.shape[1])
        hidden_BxL = batch.scored_BxL & (uniform_BxL < self.schedule.masked(t_BxL))
        return Corrupted(self._hide(batch, hidden_BxL), t_BxL, hidden_BxL)

    def corrupt_with(self, batch, hidden_BxL):
        """Returns the batch with the given tokens masked.

        The time of a document (or block) is the one at which this share of its scored tokens is
        masked on average.
        """
        share_BxL = group_mean(
            hidden_BxL.astype(jnp.float32), batch.scored_BxL, groups(batch.layout)
        )
        return Corrupted(self._hide(batch, hidden_BxL), self.schedule.time(share_BxL), hidden_BxL)

    def loss(self, denoise, batch, key, step=0):
        """Returns the bound at one t for each document (MDLM eq. 10, MD4 eq. 4).

        It is the sum over masked tokens of -alpha'(t) / (1 - alpha(t)) * -log p.
        """
        count = batch.num_scored
        batch = self.annealing(self.prompts(batch, key, self.vocabulary.mask_id), key, step)
        inputs_BxL, t_BxL, masked_BxL = self.corrupt(batch, self.draw_times(batch, key), key)
        weights_BxL = batch.weights_BxL * jnp.where(masked_BxL, self.schedule.weight(t_BxL), 0.0)
        found = self._nll(denoise, batch, inputs_BxL, t_BxL, weights_BxL)
        metrics = {"masked": jnp.sum(masked_BxL), "masked_nll": jnp.sum(found.nll_BxL)}
        return Loss(found.total, count, metrics, found.routers)

    def bound(self, denoise, batch, key, sample, num_samples):
        """Returns nats_BxL of the bound in its count form (`masks_by_count`).

        k of a document's n scored tokens are masked, k uniform on 1..n and stratified over the
        samples; each weighs n / k.
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
        inputs_BxL, t_BxL = self._hide(batch, masked_BxL), self.schedule.time(p_BxL)
        return weights_BxL * self._nll(denoise, batch, inputs_BxL, t_BxL, weights_BxL).nll_BxL

    def _hide(self, batch, masked_BxL):
        return jnp.where(masked_BxL, self.vocabulary.mask_id, batch.tokens_BxL)

    def _nll(self, denoise: Denoiser, batch: Batch, inputs_BxL, t_BxL, weights_BxL) -> Nll:
        return denoise.nll(
            inputs_BxL,
            t_BxL,
            batch.layout,
            batch.tokens_BxL,
            weights_BxL,
            self.vocabulary.text_bias_V(),
        )
