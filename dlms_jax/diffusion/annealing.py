"""Attention-mask annealing (DiffuLLaMA, arXiv 2410.17891).

The mask changes from causal to the objective's own in the first steps of training, so that an
autoregressive network adapts gradually to tokens on its right.
"""

import dataclasses

import jax
import jax.numpy as jnp

from dlms_jax.diffusion.protocol import Batch, example_keys

_AHEAD = 1003  # distinct from the purposes in prompts.py


@dataclasses.dataclass(frozen=True)
class Annealing:
    """Limits how far ahead the positions of a row may attend.

    The paper says "at each training step, we sample the amount of context from the right side and
    progressively increase this amount", without a distribution. Here the amount is a share of the
    row, drawn for each row: clip(2 r - u, 0, 1) at progress r = step / steps, u uniform on [0, 1).
    At r = 1/2 the share is uniform; its mean rises from 0 to 1, slowly at both ends.

    Attributes:
      steps: the step from which attention is not limited. 0: it never is, and nothing is drawn.
    """

    steps: int = 0

    def __call__(self, batch: Batch, key: jax.Array, step: jax.Array | int) -> Batch:
        """Returns the batch with `layout.ahead_B` set for a step of training.

        Args:
          batch: the batch.
          key: the key of the step; a row's draw depends only on (key, row_B, step).
          step: the number of the step; it may be traced.
        """
        if not self.steps:
            return batch
        keys_B = example_keys(jax.random.fold_in(key, _AHEAD), batch.row_B)
        uniform_B = jax.vmap(lambda k: jax.random.uniform(k))(keys_B)
        progress = jnp.asarray(step, jnp.float32) / self.steps
        share_B = jnp.clip(2 * progress - uniform_B, 0.0, 1.0)
        ahead_B = (share_B * batch.tokens_BxL.shape[1]).astype(jnp.int32)
        return batch._replace(layout=batch.layout._replace(ahead_B=ahead_B))
