"""Losses and metrics of the routers of experts.

They are computed from RouterSums with a leading layer axis. These are sums over tokens, so those of
micro-batches and devices add up.
"""

import jax
import jax.numpy as jnp

from dlms_jax.config import ModelConfig
from dlms_jax.diffusion import Batch
from dlms_jax.models import RouterSums

METRICS = ("load_balance", "router_z", "busiest_expert", "load_entropy", "unrouted")


def router_loss(c: ModelConfig, sums: RouterSums | None) -> jax.Array | float:
    """Returns the weighted load-balance and z losses, summed over tokens and averaged over layers.

    It is 0 if there are no routers.
    """
    if sums is None:
        return 0.0
    return jnp.mean(c.load_balance_weight * sums.balance + c.z_loss_weight * sums.z)


def routed_tokens(batch: Batch, copies: int) -> jax.Array:
    """Returns the number of tokens that a pass over a batch routes: all except padding.

    Args:
      batch: the batch.
      copies: how many copies of a row the network reads (2 in block diffusion).
    """
    return jnp.maximum(copies * jnp.sum(batch.layout.segments_BxL > 0), 1).astype(jnp.float32)


def router_metrics(sums: RouterSums | None) -> dict[str, jax.Array]:
    """Returns the METRICS of a step by name; {} if there are no routers.

    load_balance: the load-balance loss, 1 at perfect balance; 0 with expert_choice, which does not
        need it.
    router_z: the z-loss.
    busiest_expert: the largest share of a layer's choices that go to one expert; at best 1 / E.
    load_entropy: the entropy of these shares divided by log E, averaged over layers; at best 1.
    unrouted: the share of tokens that no expert took; 0 with token_choice.
    """
    if sums is None:
        return {}
    number = sums.load_E.shape[1]  # sums.load_E is NxE here
    share_NxE = sums.load_E / jnp.maximum(jnp.sum(sums.load_E, axis=1, keepdims=True), 1.0)
    logs_NxE = jnp.log(jnp.maximum(share_NxE, 1e-30))
    entropy = -jnp.mean(jnp.sum(share_NxE * logs_NxE, axis=1))
    tokens = jnp.maximum(jnp.sum(sums.tokens), 1.0)
    values = (
        jnp.sum(sums.balance) / tokens,
        jnp.sum(sums.z) / tokens,
        jnp.max(share_NxE),
        entropy / jnp.log(float(number)) if number > 1 else jnp.ones(()),
        jnp.sum(sums.unrouted) / tokens,
    )
    return dict(zip(METRICS, values, strict=True))
