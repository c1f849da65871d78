"""Mixture of experts: in place of a layer's one MLP there are E, of which each token uses a few.

A router says who goes where (`Choice`); what goes to one expert is brought together and multiplied
by its kernels in one grouped product (`jax.lax.ragged_dot`), so that no token is dropped however
uneven the load is. Laid out and named as Qwen3-MoE's. Letters besides those of layers.py: E
experts, S choices of a row, A all choices, T all tokens.

ragged_dot by device: on TPU and GPU XLA has kernels for it (megablox, in jax.experimental.pallas,
is the TPU's by hand); on CPU it is E dense products, so there experts cost time and save none.
"""

from collections.abc import Callable
from typing import NamedTuple

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from dlms_jax.config import ModelConfig
from dlms_jax.models.layers import INIT_STD, MATMUL, Linear, output_std

ROUTER = "router"  # the collection in which a pass leaves its RouterSums, where that is mutable


class Choice(NamedTuple):
    """S pairs of each row: this expert gets that token, and its output is multiplied by the weight.

    expert_BxS: from 0; E where the pair is none. token_BxS: a place of the row.
    """

    expert_BxS: jax.Array
    token_BxS: jax.Array
    weight_BxS: jax.Array


class RouterSums(NamedTuple):
    """What a layer's router did, as sums over the tokens that are no padding, so that sums of parts
    of a batch are those of the batch.

    load_E: tokens that each expert got. balance: the load-balance loss (`_balance`). z: squares of
    the log of the sum of exp(logits). unrouted: tokens that no expert got. tokens: all of them.
    """

    load_E: jax.Array
    balance: jax.Array
    z: jax.Array
    unrouted: jax.Array
    tokens: jax.Array


class MoE(nn.Module):
    """sum over a token's experts of weight * SwiGLU(x); 0 at padding, which no expert gets.

    outputs: `expert_outputs`, or that over the devices of a mesh.
    """

    config: ModelConfig
    outputs: Callable

    @nn.compact
    def __call__(self, x_BxLxD, valid_BxL) -> jax.Array:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        # In full float32 on any hardware: rounding must not decide who goes where.
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
    """Holds one kernel of every expert."""

    shape: tuple[int, ...]
    std: float

    @nn.compact
    def __call__(self):
        return self.param("kernel", nn.initializers.normal(self.std), self.shape)


def token_choice(probs_BxLxE, valid_BxL, number: int, normalise: bool) -> Choice:
    """Returns the Choice in which each token takes the `number` experts that are likeliest for it,
    by their probabilities, which `normalise` brings to the sum 1 (Qwen3-MoE's norm_topk_prob)."""
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
    """Returns the Choice in which each expert takes the tokens of a row for which it is likeliest,
    by their probabilities (arXiv 2202.09368): of n tokens number * n / E, rounded up, so that all
    experts are equally busy and a token has `number` of them on average, or none.

    The group of tokens that is compared is the row: other rows do not matter, documents packed in
    the same one do. Padding takes no place.
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
    """Returns y_BxLxD: of sum of weight * SwiGLU(x) over a token's experts the part of those whose
    kernels (gate_ExDxF, up_ExDxF, down_ExFxD) are given, of which the first is number `first`."""
    gate_ExDxF, up_ExDxF, down_ExFxD = kernels
    experts, (rows, length, _) = len(gate_ExDxF), x_BxLxD.shape
    token_A = (choice.token_BxS + length * jnp.arange(rows)[:, None]).reshape(-1)
    expert_A = choice.expert_BxS.reshape(-1) - first
    expert_A = jnp.where((expert_A >= 0) & (expert_A < experts), expert_A, experts)
    order_A = jnp.argsort(expert_A)  # by expert; last, those of no expert here
    group_E = jnp.sum(expert_A[:, None] == jnp.arange(experts)[None], axis=0, dtype=jnp.int32)
    token_A, weight_A = token_A[order_A], choice.weight_BxS.reshape(-1)[order_A]
    # What ragged_dot leaves in rows of no group is not said; neither it nor its gradient may leak.
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
    """Returns the sum over rows of n * E sum_e f_e P_e: n tokens of a row, of whose choices the
    share f_e went to expert e, whose probability was P_e on average (Switch Transformer, arXiv
    2101.03961, eq. 4; n times 1 where all are equally busy).

    f and P are those of a row, not of the batch: their product is no sum over parts of a batch, so
    that with the batch's, micro-batches would change what is learned. It asks a little more:
    experts are to be equally busy in every row (as in DeepSeek-V3, arXiv 2412.19437, eq. 17).
    """
    probs_BxE = jnp.sum(jnp.where(valid_BxL[..., None], probs_BxLxE, 0.0), axis=1)
    tokens_B = jnp.maximum(jnp.sum(valid_BxL, axis=1), 1)
    products_B = jnp.sum(load_BxE * probs_BxE, axis=1) / (number * tokens_B)
    return probs_BxLxE.shape[-1] * jnp.sum(products_B)
