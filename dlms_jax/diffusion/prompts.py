"""Prompts in training: dropped at random, and made at random from parts of documents.

Dropping makes one network the conditional and the unconditional model of classifier-free guidance
(arXiv 2207.12598). Random prompts teach a network that is trained on plain text to continue a text
and to fill in gaps.
"""

import dataclasses

import jax
import jax.numpy as jnp

from dlms_jax.diffusion.protocol import Batch, Layout, example_keys

# Far from 0, 1, ...: the objectives use jax.random.split(key), which is fold_in(key, 0), ...
_GIVE, _HIDE = 1001, 1002


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Hides prompts and makes random ones.

    Attributes:
      drop: the probability that a row's prompt tokens are replaced by the mask, and its class by 0.
      random: the probability that a random part of a document becomes a prompt, which is not
        scored. Half of these are prefixes, half are scattered tokens; their share of the document
        is uniform.
    """

    drop: float = 0.0
    random: float = 0.0

    def __call__(self, batch: Batch, key: jax.Array, mask_id: int) -> Batch:
        """Returns the batch for one step of training.

        Args:
          batch: the batch.
          key: the key of the step; the draws for a row depend only on (key, row_B).
          mask_id: the mask token.
        """
        if self.random:
            batch = self._give(batch, jax.random.fold_in(key, _GIVE))
        return self._hide(batch, jax.random.fold_in(key, _HIDE), mask_id) if self.drop else batch

    def _give(self, batch, key):
        layout, length = batch.layout, batch.tokens_BxL.shape[1]

        def row(key, segments_L, positions_L):
            keys = jax.random.split(key, 4)
            # One draw for each segment number, that is, for each document.
            chosen, share, single = (jax.random.uniform(k, (length + 1,)) for k in keys[:3])
            lengths = jnp.zeros(length + 1, jnp.int32).at[segments_L].add(1)
            beginning_L = positions_L < share[segments_L] * lengths[segments_L]
            scattered_L = jax.random.uniform(keys[3], (length,)) < share[segments_L]
            prompt_mask_L = jnp.where(single[segments_L] < 0.5, beginning_L, scattered_L)
            return prompt_mask_L & (chosen[segments_L] < self.random)

        keys_B = example_keys(key, batch.row_B)
        prompt_mask_BxL = jax.vmap(row)(keys_B, layout.segments_BxL, layout.positions_BxL)
        prompt_mask_BxL &= batch.scored_BxL
        return batch._replace(
            layout=layout._replace(prompt_mask_BxL=layout.prompt_mask_BxL | prompt_mask_BxL),
            weights_BxL=jnp.where(prompt_mask_BxL, 0.0, batch.weights_BxL),
        )

    def _hide(self, batch, key, mask_id):
        keys_B = example_keys(key, batch.row_B)
        hidden_B = jax.vmap(lambda k: jax.random.uniform(k))(keys_B) < self.drop
        layout = batch.layout
        tokens_BxL, layout = hide_prompts(batch.tokens_BxL, layout, hidden_B, mask_id)
        return batch._replace(tokens_BxL=tokens_BxL, layout=layout)


def hide_prompts(tokens_BxL, layout: Layout, hidden_B, mask_id: int) -> tuple[jax.Array, Layout]:
    """Returns (tokens_BxL, layout) without prompts and class: guidance's unconditional inputs.

    Args:
      tokens_BxL: the tokens.
      layout: their layout.
      hidden_B: True for the rows that change.
      mask_id: the mask token, which replaces the prompt tokens.
    """
    tokens_BxL = jnp.where(layout.prompt_mask_BxL & hidden_B[:, None], mask_id, tokens_BxL)
    if layout.class_B is not None:
        layout = layout._replace(class_B=jnp.where(hidden_B, 0, layout.class_B))
    return tokens_BxL, layout
