"""The types that objectives, samplers and networks exchange. All losses are in nats.

Shapes are part of the names; models/layers.py has the legend.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray  # outside of jit, rows may be NumPy arrays


class Layout(NamedTuple):
    """The structure of rows: the network's inputs besides the tokens and their times.

    Attributes:
      segments_BxL: 0 for padding; 1, 2, ... for the documents of a row.
      positions_BxL: 0, 1, ... within each document; position 0 holds BOS.
      prompt_mask_BxL: True for the tokens of a prompt, except BOS. They are never corrupted.
      class_B: the class of a row's documents, from 1; 0 if it has none or is hidden.
      blocks_BxL: the index of a token's block in its document; None except in block diffusion.
      clean_BxL: True for clean context, False for tokens being denoised; None except in block
        diffusion.
      ahead_B: how many positions after its own a token may attend to (annealing.py). None: only the
        kind of attention limits it.
    """

    segments_BxL: Array
    positions_BxL: Array
    prompt_mask_BxL: Array | None = None
    class_B: Array | None = None
    blocks_BxL: Array | None = None
    clean_BxL: Array | None = None
    ahead_B: Array | None = None


class Batch(NamedTuple):
    """Clean rows of tokens.

    Attributes:
      tokens_BxL: the tokens.
      layout: their layout.
      row_B: each row's index in the global batch.
      weights_BxL: the factor of each token's loss, in float32. 0: the token is neither corrupted
        nor scored. 1: it is both; in a text these are all tokens except BOS, in a dialogue those of
        the answers. Other values, of either sign, are advantages.
    """

    tokens_BxL: jax.Array
    layout: Layout
    row_B: jax.Array
    weights_BxL: jax.Array

    @property
    def scored_BxL(self) -> jax.Array:
        """True where a token is corrupted and scored, that is, where its weight is not 0."""
        return self.weights_BxL != 0

    @property
    def num_scored(self) -> jax.Array:
        """The number of scored tokens; an integer, so that the parts of a batch add up exactly."""
        return jnp.sum(self.scored_BxL)


def make_batch(
    tokens_BxL, segments_BxL, positions_BxL, loss_mask_BxL, row_B, class_B=None
) -> Batch:
    """Returns a Batch of packed rows.

    Args:
      tokens_BxL: the tokens.
      segments_BxL: see `Layout`.
      positions_BxL: see `Layout`.
      loss_mask_BxL: True where the weight is 1. All other tokens except BOS are prompt tokens.
      row_B: each row's index in the global batch.
      class_B: see `Layout`.
    """
    prompt_mask_BxL = ~loss_mask_BxL & (segments_BxL > 0) & (positions_BxL > 0)
    layout = Layout(segments_BxL, positions_BxL, prompt_mask_BxL, class_B)
    return Batch(tokens_BxL, layout, row_B, loss_mask_BxL.astype(jnp.float32))


class Corrupted(NamedTuple):
    """A corrupted batch, the input of the network.

    Attributes:
      inputs: tokens_BxL, or a Noisy.
      t_BxL: the times that the network is conditioned on.
      hidden_BxL: True where the input differs from the token: a mask, another token, or noise. All
        False for an autoregressive network.
    """

    inputs: Any
    t_BxL: jax.Array
    hidden_BxL: jax.Array


class Noisy(NamedTuple):
    """The input of a network in Gaussian diffusion.

    Attributes:
      z_BxLxE: noisy embeddings; those of prompt tokens and BOS are clean.
      estimate_BxLxE: an earlier estimate of the clean embeddings (self-conditioning).
    """

    z_BxLxE: jax.Array
    estimate_BxLxE: jax.Array


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The size and the special tokens of a tokenizer, and the biases that restrict the logits."""

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
        """Returns a bias for logits: -inf for tokens not in text (mask, BOS, padding, unused)."""
        bias_V = self.exported_bias_V()
        bias_V[[self.mask_id, self.bos_id, self.pad_id]] = -np.inf
        return bias_V

    def text_ids(self) -> np.ndarray:
        """Returns the ids of the tokens that may occur in text, in order."""
        return np.flatnonzero(self.text_bias_V() == 0).astype(np.int32)

    def exported_bias_V(self) -> np.ndarray:
        """Returns a bias for logits: -inf for the unused ids at the end, which no export has."""
        return np.where(np.arange(self.padded_size) < self.size, 0, -np.inf).astype(np.float32)


class Nll(NamedTuple):
    """The result of `Denoiser.nll`.

    Attributes:
      total: sum(weights * nll), the only part that is differentiable.
      nll_BxL: -log softmax(logits + bias)[target] where the weight is not 0, and 0 elsewhere.
      routers: the RouterSums of a network with experts; else None.
    """

    total: jax.Array
    nll_BxL: jax.Array
    routers: Any = None


class Denoiser(NamedTuple):
    """The network with its weights, as objectives and samplers use it.

    Attributes:
      forward: (inputs, t_BxL, layout) -> (logits_BxLxV in float32, routers as in `Nll`). inputs are
        tokens_BxL or a Noisy. With Gaussian diffusion's head="embedding" the outputs are BxLxE.
      nll: (inputs, t_BxL, layout, targets_BxL, weights_BxL, bias_V) -> Nll.
      table_VxE: Gaussian diffusion's embeddings, rows of norm 1.
      schedule: the vector of parameters of Gaussian diffusion's noise schedule; size 0 if fixed.
      cached: the network with a cache of keys and values; None if it does not support one.
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
        """Returns a Denoiser whose `nll` is computed from all logits (the plain form).

        Args:
          forward: the function `forward`.
          **others: further fields.
        """

        def nll(inputs, t_BxL, layout, targets_BxL, weights_BxL, bias_V):
            logits_BxLxV, routers = forward(inputs, t_BxL, layout)
            return Nll(*plain_nll(logits_BxLxV, targets_BxL, weights_BxL, bias_V), routers)

        return cls(forward, nll, **others)

    @classmethod
    def from_logits(cls, logits, **others) -> "Denoiser":
        """Returns the plain form of a network without routers.

        Args:
          logits: (inputs, t_BxL, layout) -> logits_BxLxV.
          **others: further fields.
        """
        return cls.from_forward(lambda *inputs: (logits(*inputs), None), **others)


class Cached(NamedTuple):
    """A network with a cache of keys and values.

    Attributes:
      empty: (rows, length) -> an empty cache, a pytree of arrays whose second axis is the rows.
      logits: (inputs_BxC, t_BxC, layout, start_B, cache) -> (logits_BxCxV, cache). It reads C
        positions of each row, from index start_B on, writes their keys and values to the cache, and
        lets them attend to the cache. `layout` has the cache's whole length and sets the mask.
    """

    empty: Callable[[int, int], Any]
    logits: Callable[..., tuple[jax.Array, Any]]


def plain_nll(logits_BxLxV, targets_BxL, weights_BxL, bias_V):
    """Returns (total, nll_BxL) of `Nll`, computed from logits_BxLxV."""
    logits_BxLxV = logits_BxLxV.astype(jnp.float32) + bias_V[None, None, :]
    target_BxL = jnp.take_along_axis(logits_BxLxV, targets_BxL[..., None], axis=-1)[..., 0]
    nll_BxL = jax.nn.logsumexp(logits_BxLxV, axis=-1) - target_BxL
    # A position of weight 0 may have a target of probability 0, and 0 * inf is NaN.
    nll_BxL = jnp.where(weights_BxL != 0, nll_BxL, 0.0)
    return jnp.sum(weights_BxL * nll_BxL), jax.lax.stop_gradient(nll_BxL)


class Loss(NamedTuple):
    """A loss as sums over tokens (or pairs of rows), so that micro-batches add up.

    Attributes:
      total: the summed loss; the caller divides it by the global sum of `count`.
      count: the number of tokens (or pairs) in `total`, an integer.
      metrics: further sums, by name.
      routers: as in `Nll`, from the pass that has gradients.
    """

    total: jax.Array
    count: jax.Array  # type: ignore[assignment]  # it hides tuple.count
    metrics: dict[str, jax.Array]
    routers: Any = None


def example_keys(key: jax.Array, row_B: Array) -> jax.Array:
    """Returns one key for each row, a function only of the key and the row's global index."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, row_B)


def example_uniform(key: jax.Array, row_B: Array, length: int) -> jax.Array:
    """Returns uniform_BxL in [0, 1), drawn for each row from its own key."""
    return jax.vmap(lambda k: jax.random.uniform(k, (length,)))(example_keys(key, row_B))
