"""What the routers of experts add to the loss and to the metrics.

All from sums over tokens (models' RouterSums, each with a leading layer axis), which those of
micro-batches and of devices add up to.
"""

import jax
import jax.numpy as jnp

from dlms_jax.config import ModelConfig
from dlms_jax.diffusion import Batch
from dlms_jax.models import RouterSums

METRICS = ("load_balance", "router_z", "busiest_expert", "load_entropy", "unrouted")


def router_loss(c: ModelConfig, sums: RouterSums | None) -> jax.Array | float:
    """Returns the load-balance and z losses with their weights, summed over tokens, as means over
    layers; 0 where there are no routers."""
    if sums is None:
        return 0.0
    return jnp.mean(c.load_balance_weight * sums.balance + c.z_loss_weight * sums.z)


def routed_tokens(batch: Batch, copies: int) -> jax.Array:
    """Returns how many tokens a pass over a batch routes: all but padding, of each copy of a row
    that the network reads."""
    return jnp.maximum(copies * jnp.sum(batch.layout.segments_BxL > 0), 1).astype(jnp.float32)


def router_metrics(sums: RouterSums | None) -> dict[str, jax.Array]:
    """Returns the METRICS of a step; none where there are no routers.

    load_balance: the loss, 1 where all experts are equally busy (0 where experts choose, and it is
    not needed). router_z: the z loss. busiest_expert: the largest share of a layer's choices that
    one expert has (1 / E at best). load_entropy: of these shares, over log E (1 at best), the mean
    over layers. unrouted: share of tokens that no expert took; 0 where tokens choose.
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
