"""What an objective is given and what it returns. All quantities are in nats.

Shapes are written in the names; their legend stands in models/layers.py.
"""

from collections.abc import Callable
import dataclasses
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np


class Layout(NamedTuple):
    """How documents lie in packed rows.

    segments_BxL: 0 for padding, 1, 2, ... for the documents of a row.
    positions_BxL: 0, 1, ... within each document; position 0 holds BOS.
    """

    segments_BxL: jax.Array
    positions_BxL: jax.Array


class Batch(NamedTuple):
    """Clean rows of tokens.

    row_B: each row's index in the global batch. scored_BxL: True where a token is corrupted and
    scored, by every objective alike: of a text all but its BOS, of a dialogue what is answered.
    """

    tokens_BxL: jax.Array
    layout: Layout
    row_B: jax.Array
    scored_BxL: jax.Array


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The symbols of a tokenizer, and the rows that the network's head has for them."""

    size: int
    bos_id: int
    eos_id: int
    pad_id: int
    mask_id: int

    @property
    def rows(self) -> int:
        """The head's rows: the size, rounded up to a multiple of 128 for the hardware."""
        return -(-self.size // 128) * 128

    def text_bias_V(self) -> np.ndarray:
        """Added to logits: -inf for what no text holds (mask, BOS, padding and unused rows)."""
        bias_V = self.exported_bias_V()
        bias_V[[self.mask_id, self.bos_id, self.pad_id]] = -np.inf
        return bias_V

    def exported_bias_V(self) -> np.ndarray:
        """Added to logits: -inf for the unused rows only, which no release will have."""
        return np.where(np.arange(self.rows) < self.size, 0, -np.inf).astype(np.float32)


class Denoiser(NamedTuple):
    """The network with its weights, as objectives and samplers see it.

    logits: (inputs_BxL, t_BxL, layout) -> logits_BxLxV.
    nll: (inputs_BxL, t_BxL, layout, targets_BxL, weights_BxL, bias_V) -> (total, nll_BxL), where
        nll is -log softmax(logits + bias)[target] where the weight is not 0 and 0 elsewhere, and
        total = sum(weights * nll). Only `total` is differentiable.
    """

    logits: Callable[..., jax.Array]
    nll: Callable[..., tuple[jax.Array, jax.Array]]

    @classmethod
    def from_logits(cls, logits) -> "Denoiser":
        """Returns a Denoiser whose `nll` is computed from all logits: the plain form."""

        def nll(inputs_BxL, t_BxL, layout, targets_BxL, weights_BxL, bias_V):
            logits_BxLxV = logits(inputs_BxL, t_BxL, layout)
            return plain_nll(logits_BxLxV, targets_BxL, weights_BxL, bias_V)

        return cls(logits, nll)


def plain_nll(logits_BxLxV, targets_BxL, weights_BxL, bias_V):
    """Returns (total, nll_BxL) of `Denoiser.nll` from logits."""
    logits_BxLxV = logits_BxLxV.astype(jnp.float32) + bias_V[None, None, :]
    target_BxL = jnp.take_along_axis(logits_BxLxV, targets_BxL[..., None], axis=-1)[..., 0]
    nll_BxL = jax.nn.logsumexp(logits_BxLxV, axis=-1) - target_BxL
    # A position that is not scored may have a target of probability 0: 0 * inf would be NaN.
    nll_BxL = jnp.where(weights_BxL != 0, nll_BxL, 0.0)
    return jnp.sum(weights_BxL * nll_BxL), jax.lax.stop_gradient(nll_BxL)


class Loss(NamedTuple):
    """total: what training minimises, summed over tokens; the caller divides by the global number
    of scored tokens. metrics: further sums over tokens, by name."""

    total: jax.Array
    metrics: dict[str, jax.Array]


class Objective(Protocol):
    """A way to learn the distribution of documents. Implementations are frozen dataclasses."""

    vocabulary: Vocabulary
    attention: str  # which positions the network lets attend: "full" or "causal"
    exact: bool  # whether `bound` is -log p itself, the same at every sample

    def loss(self, denoise: Denoiser, batch: Batch, key: jax.Array) -> Loss:
        """Returns the training loss of one draw of the corruption.

        A row's corruption is a function of (key, batch.row_B) alone, whatever rows stand beside it.
        """

    def bound(
        self, denoise: Denoiser, batch: Batch, key: jax.Array, sample: int, num_samples: int
    ) -> jax.Array:
        """Returns nats_BxL whose mean over the samples 0..num_samples-1 estimates, without bias,
        each document's upper bound on -log p (summed over its tokens), with 0 where not scored."""


def example_keys(key: jax.Array, row_B: jax.Array) -> jax.Array:
    """Returns one key a row, a function of the key and the row's global index alone."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, row_B)


def example_uniform(key: jax.Array, row_B: jax.Array, length: int) -> jax.Array:
    """Returns uniform_BxL in [0, 1), each row from its own key."""
    return jax.vmap(lambda k: jax.random.uniform(k, (length,)))(example_keys(key, row_B))
