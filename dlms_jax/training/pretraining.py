"""The loss of pre-training: an objective's, and that of the routers of experts."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dlms_jax.config import Config
from dlms_jax.data.packing import Rows
from dlms_jax.denoiser import make_denoiser
from dlms_jax.diffusion import Batch, Loss, Objective, make_batch
from dlms_jax.models import Network
from dlms_jax.training.router import routed_tokens, router_loss, router_metrics
from dlms_jax.training.step import means


class Prepared(NamedTuple):
    """scored_per_routed: the scored tokens of the global batch over those that its pass routes."""

    batch: Batch
    scored_per_routed: jax.Array


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """The loss_fn, `prepare` and `summarise` of `make_train_step`, on data.packing.Rows.

    network: with config.model.matmuls, by which only training multiplies.
    """

    config: Config
    network: Network
    objective: Objective
    mesh: Mesh

    def prepare(self, rows: Rows) -> Prepared:
        """Returns a global batch with its rows numbered."""
        batch = as_batch(rows)
        scored = jnp.maximum(batch.num_scored, 1).astype(jnp.float32)
        routed = routed_tokens(batch, self.objective.traits.copies)
        return Prepared(batch, scored / routed)

    def loss_fn(self, params, frozen, prepared: Prepared, key: jax.Array, step) -> Loss:
        """Returns the objective's loss, and the routers' as a mean over routed tokens."""
        denoise = make_denoiser(self.config, self.network, params, self.objective, self.mesh)
        loss = self.objective.loss(denoise, prepared.batch, key, step)
        # The step divides all by the number of scored tokens; the routers' sums are over others.
        routers = prepared.scored_per_routed * router_loss(self.config.model, loss.routers)
        return loss._replace(total=loss.total + routers)

    def summarise(self, loss: Loss, count: jax.Array) -> dict[str, jax.Array]:
        """Returns the metrics of a step."""
        return means(loss, count) | router_metrics(loss.routers)


def as_batch(rows: Rows) -> Batch:
    """Returns the rows of a step's global batch as a Batch, numbered from 0."""
    row_B = jnp.arange(rows.tokens_RxL.shape[0])
    return make_batch(*rows.cells, row_B, rows.class_R)
