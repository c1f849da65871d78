"""The loss of pretraining: an objective's loss, plus the losses of the routers of experts."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlms_jax.config import Config
from dlms_jax.data.packing import Rows
from dlms_jax.denoiser import make_denoiser
from dlms_jax.diffusion import Batch, Loss, Objective, make_batch
from dlms_jax.models import Network
from dlms_jax.parallel.mesh import AnyMesh
from dlms_jax.training.router import routed_tokens, router_loss, router_metrics
from dlms_jax.training.step import means


class Prepared(NamedTuple):
    """A batch for `Pretraining.loss_fn`.

    Attributes:
      batch: the batch.
      scored_per_routed: the scored tokens of the global batch divided by its routed tokens.
    """

    batch: Batch
    scored_per_routed: jax.Array


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """The functions of pretraining for `make_train_step`, whose batches are packed Rows.

    Attributes:
      config: the config of the run.
      network: the network, with config.model.quantization.
      objective: what the network is trained on.
      mesh: the device mesh.
    """

    config: Config
    network: Network
    objective: Objective
    mesh: AnyMesh

    def prepare(self, rows: Rows) -> Prepared:
        """Returns the global batch of a step, with its rows numbered."""
        batch = as_batch(rows)
        scored = jnp.maximum(batch.num_scored, 1).astype(jnp.float32)
        routed = routed_tokens(batch, self.objective.traits.copies)
        return Prepared(batch, scored / routed)

    def loss_fn(self, params, frozen, prepared: Prepared, key: jax.Array, step) -> Loss:
        """Returns the objective's loss plus the routers' losses, for `make_train_step`.

        Args:
          params: the parameters.
          frozen: unused.
          prepared: the batch, or a micro-batch.
          key: the key of the step.
          step: the number of the step.
        """
        denoise = make_denoiser(self.config, self.network, params, self.objective, self.mesh)
        loss = self.objective.loss(denoise, prepared.batch, key, step)
        # The step divides by the number of scored tokens, but the routers' sums are over routed
        # tokens: the factor makes their losses means over routed tokens.
        routers = prepared.scored_per_routed * router_loss(self.config.model, loss.routers)
        return loss._replace(total=loss.total + routers)

    def summarise(self, loss: Loss, count: jax.Array) -> dict[str, jax.Array]:
        """Returns the metrics of a step.

        Args:
          loss: the loss of the whole batch.
          count: the number of its scored tokens.
        """
        return means(loss, count) | router_metrics(loss.routers)


def as_batch(rows: Rows) -> Batch:
    """Returns the rows of a step's global batch as a Batch, numbered from 0."""
    row_B = jnp.arange(rows.tokens_RxL.shape[0])
    return make_batch(*rows.cells, row_B, rows.class_R)
