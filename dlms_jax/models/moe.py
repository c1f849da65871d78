"""Mixture of experts: a layer has E MLPs instead of one, and each token uses a few of them.

A router assigns tokens to experts (`Choice`). The tokens of an expert are sorted together, and one
grouped product (`jax.lax.ragged_dot`) multiplies each group by its expert's kernels, so no token is
dropped however uneven the load is. Names and layout are those of Qwen3-MoE. Letters besides those
of layers.py: E experts, S choices of a row, A all choices, T all tokens.

XLA has kernels for ragged_dot on TPU and GPU. On CPU it computes E dense products, so experts save
no time there.
"""

from collections.abc import Callable
from typing import NamedTuple

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from dlms_jax.config import ModelConfig
from dlms_jax.models.layers import INIT_STD, MATMUL, Linear, output_std

ROUTER = "router"  # the collection for RouterSums; a pass fills it if it is mutable


class Choice(NamedTuple):
    """S pairs (expert, token) for each row.

    Attributes:
      expert_BxS: the index of the expert; E marks an unused pair.
      token_BxS: the index of the token in the row.
      weight_BxS: the factor of the expert's output.
    """

    expert_BxS: jax.Array
    token_BxS: jax.Array
    weight_BxS: jax.Array


class RouterSums(NamedTuple):
    """Statistics of a layer's router, as sums over all tokens except padding.

    The sums of the parts of a batch add up to those of the batch.

    Attributes:
      load_E: the number of tokens that each expert got.
      balance: the load-balance loss (`_balance`).
      z: the router z-loss, logsumexp(logits)^2.
      unrouted: the number of tokens that no expert got.
      tokens: the number of tokens.
    """

    load_E: jax.Array
    balance: jax.Array
    z: jax.Array
    unrouted: jax.Array
    tokens: jax.Array


class MoE(nn.Module):
    """The sum over a token's experts of weight * SwiGLU(x); 0 for padding, which is not routed.

    Attributes:
      config: the sizes and the kind of routing.
      outputs: `expert_outputs`, or its version for a mesh (parallel/experts.py).
    """

    config: ModelConfig
    outputs: Callable

    @nn.compact
    def __call__(self, x_BxLxD, valid_BxL) -> jax.Array:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        # Full float32 on any hardware: rounding must not change the routing.
        with jax.default_matmul_precision("highest"):
            logits_BxLxE = Linear(c.experts, jnp.dtype("float32"), name="gate")(x_BxLxD)
        probs_BxLxE = jax.nn.softmax(logits_BxLxE)
        if c.routing == "token_choice":
            choice = token_choice(probs_BxLxE, valid_BxL, c.experts_per_token, c.normalise_routing)
        else:
            choice = expert_choice(probs_BxLxE, valid_BxL, c.experts_per_token)
        self.sow(
            ROUTER,
            "sums",
            router_sums(c, logits_BxLxE, probs_BxLxE, choice, valid_BxL),
            init_fn=lambda: None,
            reduce_fn=lambda _, sums: sums,
        )
        kernels = Experts(c, name="experts")()
        return self.outputs(x_BxLxD, choice, [kernel.astype(dtype) for kernel in kernels])


class Experts(nn.Module):
    """Holds (gate_ExDxF, up_ExDxF, down_ExFxD) of all experts."""

    config: ModelConfig

    @nn.compact
    def __call__(self):
        c = self.config
        inwards, outwards = (c.width, c.expert_hidden), (c.expert_hidden, c.width)
        return (
            Stacked((c.experts, *inwards), INIT_STD, name="gate_proj")(),
            Stacked((c.experts, *inwards), INIT_STD, name="up_proj")(),
            Stacked((c.experts, *outwards), output_std(c), name="down_proj")(),
        )


class Stacked(nn.Module):
    """Holds one kernel for each expert, stacked along the first axis."""

    shape: tuple[int, ...]
    std: float

    @nn.compact
    def __call__(self):
        return self.param("kernel", nn.initializers.normal(self.std), self.shape)


def token_choice(probs_BxLxE, valid_BxL, number: int, normalise: bool) -> Choice:
    """Returns the Choice in which each token takes its most probable experts.

    Args:
      probs_BxLxE: the router's probabilities, which become the weights.
      valid_BxL: False for padding.
      number: how many experts a token takes.
      normalise: whether the weights of a token are scaled to sum 1 (Qwen3-MoE's norm_topk_prob).
    """
    weight_BxLxK, expert_BxLxK = jax.lax.top_k(probs_BxLxE, number)
    if normalise:
        weight_BxLxK /= jnp.sum(weight_BxLxK, axis=-1, keepdims=True)
    expert_BxLxK = jnp.where(valid_BxL[..., None], expert_BxLxK, probs_BxLxE.shape[-1])
    token_1xLx1 = jnp.arange(probs_BxLxE.shape[1])[None, :, None]
    return Choice(
        *(
            x.reshape(len(x), -1)
            for x in (expert_BxLxK, jnp.broadcast_to(token_1xLx1, expert_BxLxK.shape), weight_BxLxK)
        )
    )


def expert_choice(probs_BxLxE, valid_BxL, number: int) -> Choice:
    """Returns the Choice in which each expert takes its most probable tokens (arXiv 2202.09368).

    In a row of n tokens, each expert takes ceil(number * n / E) of them. All experts get the same
    load; a token gets `number` experts on average, possibly none. An expert compares the tokens of
    a row, so the choice depends on the documents packed in the same row but not on other rows.

    Args:
      probs_BxLxE: the router's probabilities, which become the weights.
      valid_BxL: False for padding, which no expert takes.
      number: how many experts a token gets on average.
    """
    rows, length, experts = probs_BxLxE.shape
    places = -(-number * length // experts)
    number_B = -(-number * jnp.sum(valid_BxL, axis=1) // experts)
    score_BxExL = jnp.where(valid_BxL[..., None], probs_BxLxE, -1.0).swapaxes(1, 2)
    weight_BxExC, token_BxExC = jax.lax.top_k(score_BxExL, places)
    taken_BxExC = jnp.arange(places)[None, None] < number_B[:, None, None]
    taken_BxExC = taken_BxExC & (weight_BxExC >= 0)
    expert_BxExC = jnp.where(taken_BxExC, jnp.arange(experts)[None, :, None], experts)
    weight_BxExC = jnp.where(taken_BxExC, weight_BxExC, 0.0)
    return Choice(*(x.reshape(rows, -1) for x in (expert_BxExC, token_BxExC, weight_BxExC)))


def expert_outputs(x_BxLxD, choice: Choice, kernels, first=0) -> jax.Array:
    """Returns y_BxLxD, the sum of weight * SwiGLU(x) over those experts of a token that are given.

    Args:
      x_BxLxD: the input.
      choice: the experts of each token.
      kernels: (gate_ExDxF, up_ExDxF, down_ExFxD) of consecutive experts.
      first: the index of the first of these experts.
    """
    gate_ExDxF, up_ExDxF, down_ExFxD = kernels
    experts, (rows, length, _) = len(gate_ExDxF), x_BxLxD.shape
    token_A = (choice.token_BxS + length * jnp.arange(rows)[:, None]).reshape(-1)
    expert_A = choice.expert_BxS.reshape(-1) - first
    expert_A = jnp.where((expert_A >= 0) & (expert_A < experts), expert_A, experts)
    order_A = jnp.argsort(expert_A)  # by expert; pairs of no expert given here come last
    group_E = jnp.sum(expert_A[:, None] == jnp.arange(experts)[None], axis=0, dtype=jnp.int32)
    token_A, weight_A = token_A[order_A], choice.weight_BxS.reshape(-1)[order_A]
    # ragged_dot does not define the rows of no group: mask them here and in the result, so that
    # neither values nor gradients leak.
    here_Ax1 = (expert_A[order_A] < experts)[:, None]
    x_TxD = jnp.reshape(x_BxLxD, (rows * length, -1))
    x_AxD = jnp.where(here_Ax1, x_TxD[token_A], 0)

    def product(x_AxI, kernel_ExIxO):
        return checkpoint_name(jax.lax.ragged_dot(x_AxI, kernel_ExIxO, group_E), MATMUL)

    hidden_AxF = jax.nn.silu(product(x_AxD, gate_ExDxF)) * product(x_AxD, up_ExDxF)
    y_AxD = product(hidden_AxF, down_ExFxD)
    y_AxD = weight_A[:, None] * jnp.where(here_Ax1, y_AxD, 0).astype(jnp.float32)
    y_TxD = jnp.zeros(x_TxD.shape, jnp.float32).at[token_A].add(y_AxD)
    return y_TxD.reshape(x_BxLxD.shape).astype(x_BxLxD.dtype)


def router_sums(c: ModelConfig, logits_BxLxE, probs_BxLxE, choice: Choice, valid_BxL):
    """Returns the RouterSums of a layer."""
    experts, rows = c.experts, jnp.arange(len(valid_BxL))[:, None]
    pairs_BxS = choice.expert_BxS < experts
    load_BxE = jnp.zeros((len(valid_BxL), experts), jnp.float32)
    load_BxE = load_BxE.at[rows, choice.expert_BxS].add(1.0, mode="drop")
    got_BxL = jnp.zeros(valid_BxL.shape, bool).at[rows, choice.token_BxS].max(pairs_BxS)
    z_BxL = jax.nn.logsumexp(logits_BxLxE, axis=-1) ** 2
    balance = jnp.zeros((), jnp.float32)
    if c.routing == "token_choice":
        balance = _balance(load_BxE, probs_BxLxE, valid_BxL, c.experts_per_token)
    return RouterSums(
        jnp.sum(load_BxE, axis=0),
        balance,
        jnp.sum(jnp.where(valid_BxL, z_BxL, 0.0)),
        jnp.sum(valid_BxL & ~got_BxL, dtype=jnp.float32),
        jnp.sum(valid_BxL, dtype=jnp.float32),
    )


def _balance(load_BxE, probs_BxLxE, valid_BxL, number: int):
    """Returns the load-balance loss (Switch Transformer, arXiv 2101.03961, eq. 4), as a row sum.

    A row of n tokens adds n * E sum_e f_e P_e: f_e is the share of the row's choices that went to
    expert e, P_e the mean probability of e. A perfectly balanced row adds n.

    f and P are means over a row, not over the batch: the product of batch means is not a sum over
    micro-batches, so accumulation would change the loss. The loss therefore asks for balance within
    every row (as DeepSeek-V3, arXiv 2412.19437, eq. 17).
    """
    probs_BxE = jnp.sum(jnp.where(valid_BxL[..., None], probs_BxLxE, 0.0), axis=1)
    tokens_B = jnp.maximum(jnp.sum(valid_BxL, axis=1), 1)
    products_B = jnp.sum(load_BxE * probs_BxE, axis=1) / (number * tokens_B)
    return probs_BxLxE.shape[-1] * jnp.sum(products_B)
