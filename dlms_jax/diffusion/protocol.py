"""What an objective is given and what it returns. All quantities are in nats.

Shapes are written in the names; their legend stands in models/layers.py.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np


class Layout(NamedTuple):
    """What the network is told of rows besides the inputs and their times.

    segments_BxL: 0 for padding, 1, 2, ... for the documents of a row.
    positions_BxL: 0, 1, ... within each document; position 0 holds BOS.
    given_BxL: True at the tokens of a prompt, which are never corrupted (BOS is not among them).
    class_B: the class of a row's documents, from 1; 0 where it has none or is not to be known.
    blocks_BxL, clean_BxL: of block diffusion, else None: the block of its document that a token
        belongs to, and True where it is context that is finished, False where it is being denoised.
    ahead_B: how many positions after its own a row's tokens may see; None: all that the kind of
        attention lets them (annealing.py).
    """

    segments_BxL: jax.Array
    positions_BxL: jax.Array
    given_BxL: jax.Array | None = None
    class_B: jax.Array | None = None
    blocks_BxL: jax.Array | None = None
    clean_BxL: jax.Array | None = None
    ahead_B: jax.Array | None = None


class Batch(NamedTuple):
    """Clean rows of tokens.

    row_B: each row's index in the global batch. scored_BxL: True where a token is corrupted and
    scored, by every objective alike: of a text all but its BOS, of a dialogue what is answered.
    """

    tokens_BxL: jax.Array
    layout: Layout
    row_B: jax.Array
    scored_BxL: jax.Array


def make_batch(tokens_BxL, segments_BxL, positions_BxL, scored_BxL, row_B, class_B=None) -> Batch:
    """Returns a Batch of packed rows; what is not scored, but for BOS, is given."""
    given_BxL = ~scored_BxL & (segments_BxL > 0) & (positions_BxL > 0)
    layout = Layout(segments_BxL, positions_BxL, given_BxL, class_B)
    return Batch(tokens_BxL, layout, row_B, scored_BxL)


class Noisy(NamedTuple):
    """What a network reads in Gaussian diffusion, in place of tokens.

    z_BxLxE: noisy embeddings; clean ones where a token is given, and of BOS.
    estimate_BxLxE: an earlier estimate of the clean embeddings (self-conditioning).
    """

    z_BxLxE: jax.Array
    estimate_BxLxE: jax.Array


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

    def text_ids(self) -> np.ndarray:
        """Returns the symbols that a text may hold, in order."""
        return np.flatnonzero(self.text_bias_V() == 0).astype(np.int32)

    def exported_bias_V(self) -> np.ndarray:
        """Added to logits: -inf for the unused rows only, which no release will have."""
        return np.where(np.arange(self.rows) < self.size, 0, -np.inf).astype(np.float32)


class Denoiser(NamedTuple):
    """The network with its weights, as objectives and samplers see it.

    logits: (inputs, t_BxL, layout) -> logits_BxLxV in float32. inputs are tokens_BxL or a Noisy.
        (Gaussian diffusion with head="embedding" gets a vector_BxLxE.)
    nll: (inputs, t_BxL, layout, targets_BxL, weights_BxL, bias_V) -> (total, nll_BxL), where
        nll is -log softmax(logits + bias)[target] where the weight is not 0 and 0 elsewhere, and
        total = sum(weights * nll). Only `total` is differentiable.
    table_VxE: Gaussian diffusion's embeddings, rows of length 1.
    schedule: the parameters of a noise schedule that is learned, a vector; of size 0 where fixed.
    cached: what samples with a cache of keys and values need; None where the network has none.
    """

    logits: Callable[..., jax.Array]
    nll: Callable[..., tuple[jax.Array, jax.Array]]
    table_VxE: jax.Array | None = None
    schedule: jax.Array | None = None
    cached: "Cached | None" = None

    @classmethod
    def from_logits(cls, logits, **others) -> "Denoiser":
        """Returns a Denoiser whose `nll` is computed from all logits: the plain form."""

        def nll(inputs, t_BxL, layout, targets_BxL, weights_BxL, bias_V):
            logits_BxLxV = logits(inputs, t_BxL, layout)
            return plain_nll(logits_BxLxV, targets_BxL, weights_BxL, bias_V)

        return cls(logits, nll, **others)


class Cached(NamedTuple):
    """A network that keeps the keys and values of the positions it has read.

    empty: (rows, length) -> cache, an empty one. A cache is a pytree of arrays; their second axis
        is the rows.
    logits: (inputs_BxC, t_BxC, layout, start_B, cache) -> (logits_BxCxV, cache): reads C positions
        of each row from its own start on. It writes their keys and values to the cache, then lets
        them attend to all positions of the cache that `layout` (of the whole length) lets them see.
    """

    empty: Callable[[int, int], Any]
    logits: Callable[..., tuple[jax.Array, Any]]


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
    attention: str  # which positions the network lets attend: models/attention.py has the kinds
    exact: bool  # whether `bound` is -log p itself, the same at every sample
    protocol: str  # how the bound is made, in a few words

    def loss(
        self, denoise: Denoiser, batch: Batch, key: jax.Array, step: jax.Array | int = 0
    ) -> Loss:
        """Returns the training loss of one draw of the corruption, at a step of training.

        A row's corruption is a function of (key, batch.row_B, step) alone, whatever rows stand
        beside it.
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
