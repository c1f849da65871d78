"""What an objective is given and what it returns. All quantities are in nats.

Shapes are written in the names; their legend stands in models/layers.py.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Layout(NamedTuple):
    """What the network is told of rows besides the inputs and their times.

    segments_BxL: 0 for padding, 1, 2, ... for the documents of a row.
    positions_BxL: 0, 1, ... within each document; position 0 holds BOS.
    prompt_mask_BxL: True at the tokens of a prompt, BOS left out. They are never corrupted.
    class_B: the class of a row's documents, from 1; 0 where it has none or is not to be known.
    blocks_BxL, clean_BxL: of block diffusion, else None: the block of its document that a token
        belongs to, and True where it is context that is finished, False where it is being denoised.
    ahead_B: how many positions after its own a row's tokens may see; None: all that the kind of
        attention lets them (annealing.py).
    """

    segments_BxL: jax.Array
    positions_BxL: jax.Array
    prompt_mask_BxL: jax.Array | None = None
    class_B: jax.Array | None = None
    blocks_BxL: jax.Array | None = None
    clean_BxL: jax.Array | None = None
    ahead_B: jax.Array | None = None


class Batch(NamedTuple):
    """Clean rows of tokens.

    row_B: each row's index in the global batch.
    weights_BxL: the factor of each token's loss, in float32. 0: no objective corrupts or scores the
        token. 1: every objective does, in a text all tokens but BOS, in a dialogue the answers.
        Other numbers are advantages, of either sign.
    """

    tokens_BxL: jax.Array
    layout: Layout
    row_B: jax.Array
    weights_BxL: jax.Array

    @property
    def scored_BxL(self) -> jax.Array:
        """True where a token is corrupted and scored: where its weight is not 0."""
        return self.weights_BxL != 0

    @property
    def num_scored(self) -> jax.Array:
        """The number of scored tokens, an integer, so that parts of a batch add up exactly."""
        return jnp.sum(self.scored_BxL)


def make_batch(
    tokens_BxL, segments_BxL, positions_BxL, loss_mask_BxL, row_B, class_B=None
) -> Batch:
    """Returns a Batch of packed rows. The weights are 1 where `loss_mask_BxL` is True; all other
    tokens except BOS are given."""
    prompt_mask_BxL = ~loss_mask_BxL & (segments_BxL > 0) & (positions_BxL > 0)
    layout = Layout(segments_BxL, positions_BxL, prompt_mask_BxL, class_B)
    return Batch(tokens_BxL, layout, row_B, loss_mask_BxL.astype(jnp.float32))


class Corrupted(NamedTuple):
    """What a network reads in place of a batch's tokens.

    inputs: tokens_BxL, or a Noisy.
    t_BxL: the times that the network is told.
    hidden_BxL: True where the inputs hide the token, behind a mask or noise. An autoregressive
        network's inputs hide none.
    """

    inputs: Any
    t_BxL: jax.Array
    hidden_BxL: jax.Array


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
    def padded_size(self) -> int:
        """The number of logits: the size, rounded up to a multiple of 128 for the hardware."""
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
        return np.where(np.arange(self.padded_size) < self.size, 0, -np.inf).astype(np.float32)


class Nll(NamedTuple):
    """What `Denoiser.nll` returns.

    total: sum(weights * nll), the only part that is differentiable.
    nll_BxL: -log softmax(logits + bias)[target] where the weight is not 0, and 0 elsewhere.
    routers: what the routers of a network with experts did, as sums over tokens; else None.
    """

    total: jax.Array
    nll_BxL: jax.Array
    routers: Any = None


class Denoiser(NamedTuple):
    """The network with its weights, as objectives and samplers see it.

    forward: (inputs, t_BxL, layout) -> (logits_BxLxV in float32, routers as in `Nll`). inputs are
        tokens_BxL or a Noisy. (Gaussian diffusion with head="embedding" gets a vector_BxLxE.)
    nll: (inputs, t_BxL, layout, targets_BxL, weights_BxL, bias_V) -> Nll.
    table_VxE: Gaussian diffusion's embeddings, rows of length 1.
    schedule: the parameters of a noise schedule that is learned, a vector; of size 0 where fixed.
    cached: what samples with a cache of keys and values need; None where the network has none.
    """

    forward: Callable[..., tuple[jax.Array, Any]]
    nll: Callable[..., Nll]
    table_VxE: jax.Array | None = None
    schedule: jax.Array | None = None
    cached: "Cached | None" = None

    def logits(self, inputs, t_BxL, layout: Layout) -> jax.Array:
        """Returns the logits of `forward`."""
        return self.forward(inputs, t_BxL, layout)[0]

    @classmethod
    def from_forward(cls, forward, **others) -> "Denoiser":
        """Returns a Denoiser whose `nll` is computed from all logits: the plain form."""

        def nll(inputs, t_BxL, layout, targets_BxL, weights_BxL, bias_V):
            logits_BxLxV, routers = forward(inputs, t_BxL, layout)
            return Nll(*plain_nll(logits_BxLxV, targets_BxL, weights_BxL, bias_V), routers)

        return cls(forward, nll, **others)

    @classmethod
    def from_logits(cls, logits, **others) -> "Denoiser":
        """Returns the plain form of a function (inputs, t_BxL, layout) -> logits_BxLxV."""
        return cls.from_forward(lambda *inputs: (logits(*inputs), None), **others)


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
    """Returns (total, nll_BxL) of `Nll` from logits."""
    logits_BxLxV = logits_BxLxV.astype(jnp.float32) + bias_V[None, None, :]
    target_BxL = jnp.take_along_axis(logits_BxLxV, targets_BxL[..., None], axis=-1)[..., 0]
    nll_BxL = jax.nn.logsumexp(logits_BxLxV, axis=-1) - target_BxL
    # A position that is not scored may have a target of probability 0: 0 * inf would be NaN.
    nll_BxL = jnp.where(weights_BxL != 0, nll_BxL, 0.0)
    return jnp.sum(weights_BxL * nll_BxL), jax.lax.stop_gradient(nll_BxL)


class Loss(NamedTuple):
    """What training minimises, as sums over tokens (or pairs of rows, or anything else that a loss
    counts), so that the sums of micro-batches add up.

    total: the summed loss; the caller divides it by the global sum of `count`.
    count: the number of tokens in `total`, an integer.
    metrics: further sums, by name.
    routers: as in `Nll`, from the pass that has gradients.
    """

    total: jax.Array
    count: jax.Array
    metrics: dict[str, jax.Array]
    routers: Any = None


def example_keys(key: jax.Array, row_B: jax.Array) -> jax.Array:
    """Returns one key a row, a function of the key and the row's global index alone."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, row_B)


def example_uniform(key: jax.Array, row_B: jax.Array, length: int) -> jax.Array:
    """Returns uniform_BxL in [0, 1), each row from its own key."""
    return jax.vmap(lambda k: jax.random.uniform(k, (length,)))(example_keys(key, row_B))
