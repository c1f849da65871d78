"""From a causal mask to the objective's own, in the first steps of training: a network that learned
to predict the next token learns to look ahead (DiffuLLaMA, arXiv 2410.17891)."""

import dataclasses

import jax
import jax.numpy as jnp

from dlms_jax.diffusion.protocol import Batch, example_keys

_AHEAD = 1003  # beside the purposes of prompts.py


@dataclasses.dataclass(frozen=True)
class Annealing:
    """How far ahead the positions of a row may see: not at all at step 0, everywhere from step
    `steps` on; 0: everywhere always, and nothing is drawn.

    The paper's "at each training step, we sample the amount of context from the right side and
    progressively increase this amount" leaves open how. Here it is a share of the row, drawn for
    each row: at progress r = step / steps it is clip(2 r - u, 0, 1), u uniform on [0, 1). At half
    way that is any share alike; its mean rises from 0 to 1, slowly at both ends.
    """

    steps: int = 0

    def __call__(self, batch: Batch, key: jax.Array, step: jax.Array | int) -> Batch:
        """Returns the batch as a step of training lets it be seen; a row's by (key, row_B, step)
        alone. The step may be traced."""
        if not self.steps:
            return batch
        keys_B = example_keys(jax.random.fold_in(key, _AHEAD), batch.row_B)
        uniform_B = jax.vmap(lambda k: jax.random.uniform(k))(keys_B)
        progress = jnp.asarray(step, jnp.float32) / self.steps
        share_B = jnp.clip(2 * progress - uniform_B, 0.0, 1.0)
        ahead_B = (share_B * batch.tokens_BxL.shape[1]).astype(jnp.int32)
        return batch._replace(layout=batch.layout._replace(ahead_B=ahead_B))
