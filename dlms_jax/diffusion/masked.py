"""Masked (absorbing) diffusion: MDLM (arXiv 2406.07524), MD4 (2406.04329), LLaDA (2502.09992)."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.ops import segment_max, segment_sum

from dlms_jax.diffusion.protocol import Batch, Denoiser, Loss, Vocabulary, example_uniform
from dlms_jax.diffusion.schedules import Schedule
from dlms_jax.diffusion.times import document_fractions, document_times


@dataclasses.dataclass(frozen=True)
class Masked:
    """Each token is masked with probability 1 - alpha(t); the network predicts what was there.

    The symbols that no text holds (mask, BOS, padding) have probability 0 in the prediction.
    """

    vocabulary: Vocabulary
    schedule: Schedule
    attention = "full"
    exact = False

    def corrupt(self, batch: Batch, key: jax.Array):
        """Returns (inputs_BxL, t_BxL, masked_BxL): one draw of the forward process."""
        time_key, mask_key = jax.random.split(key)
        t_BxL = document_times(time_key, batch.row_B, batch.layout.segments_BxL)
        uniform_BxL = example_uniform(mask_key, batch.row_B, t_BxL.shape[1])
        masked_BxL = batch.scored_BxL & (uniform_BxL < self.schedule.masked(t_BxL))
        return self._hide(batch, masked_BxL), t_BxL, masked_BxL

    def loss(self, denoise: Denoiser, batch: Batch, key: jax.Array) -> Loss:
        """Returns the bound at one t a document: sum of -alpha'/(1 - alpha) * -log p over masks."""
        inputs_BxL, t_BxL, masked_BxL = self.corrupt(batch, key)
        weights_BxL = jnp.where(masked_BxL, self.schedule.weight(t_BxL), 0.0)
        total, nll_BxL = denoise.nll(
            inputs_BxL, t_BxL, batch.layout, batch.tokens_BxL, weights_BxL,
            self.vocabulary.text_bias_V(),
        )  # fmt: skip
        return Loss(total, {"masked": jnp.sum(masked_BxL), "masked_nll": jnp.sum(nll_BxL)})

    def bound(self, denoise, batch, key, sample, num_samples):
        """Returns nats_BxL of the bound in its count form: k of a document's n scored tokens are
        masked, k uniform on 1..n and stratified over the samples, weight n / k.

        The same bound as the integral over t (put p = 1 - alpha(t): the number of masks at uniform
        p is uniform), without a division by a small t. The k-th smallest of n uniform draws is
        Beta(k, n - k + 1), the law of p given k: it gives a time-conditioned network its t.
        """
        segments_BxL = batch.layout.segments_BxL
        stratum_key, mask_key = jax.random.split(key)
        fraction_BxL = document_fractions(stratum_key, batch.row_B, segments_BxL)
        fraction_BxL = (fraction_BxL + sample / num_samples) % 1.0
        mask_key = jax.random.fold_in(mask_key, sample)
        uniform_BxL = example_uniform(mask_key, batch.row_B, segments_BxL.shape[1])

        n_BxL = _per_document(segment_sum, batch.scored_BxL.astype(jnp.int32), segments_BxL)
        k_BxL = jnp.minimum((fraction_BxL * n_BxL).astype(jnp.int32) + 1, n_BxL)
        rank_BxL = _rank_in_document(jnp.where(batch.scored_BxL, uniform_BxL, 2.0), segments_BxL)
        masked_BxL = batch.scored_BxL & (rank_BxL < k_BxL)
        p_BxL = _per_document(segment_max, jnp.where(masked_BxL, uniform_BxL, 0.0), segments_BxL)
        weights_BxL = jnp.where(masked_BxL, n_BxL / jnp.maximum(k_BxL, 1), 0.0)
        _, nll_BxL = denoise.nll(
            self._hide(batch, masked_BxL), self.schedule.time(p_BxL), batch.layout,
            batch.tokens_BxL, weights_BxL, self.vocabulary.text_bias_V(),
        )  # fmt: skip
        return weights_BxL * nll_BxL

    def _hide(self, batch, masked_BxL):
        return jnp.where(masked_BxL, self.vocabulary.mask_id, batch.tokens_BxL)


def _per_document(reduce, x_BxL, segments_BxL):
    """Returns, at every token, segment_sum or segment_max of x over the token's document."""

    def row(x_L, segments_L):
        documents = reduce(x_L, segments_L, num_segments=x_L.shape[0] + 1)  # and the padding
        return documents[segments_L]

    return jax.vmap(row)(x_BxL, segments_BxL)


def _rank_in_document(x_BxL, segments_BxL):
    """Returns each token's rank (0, 1, ...) by x among the tokens of its document."""

    def row(x_L, segments_L):
        order_L = jnp.lexsort((x_L, segments_L))
        rank_L = jnp.zeros_like(order_L).at[order_L].set(jnp.arange(order_L.shape[0]))
        tokens_before = jnp.zeros(x_L.shape[0] + 2, jnp.int32).at[segments_L + 1].add(1).cumsum()
        return rank_L - tokens_before[segments_L]

    return jax.vmap(row)(x_BxL, segments_BxL)
