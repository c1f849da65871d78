"""Assembles what a config trains on a mesh: objective, network, optimizer, state and step."""

import dataclasses
from typing import Any

import jax
import optax

from dlms_jax.config import Config
from dlms_jax.denoiser import initial_params, make_network
from dlms_jax.diffusion import Objective, Vocabulary, make_objective
from dlms_jax.models import Network, train_flops
from dlms_jax.parallel.mesh import AnyMesh
from dlms_jax.training.first_weights import random_params, with_file_embeddings
from dlms_jax.training.optimizer import make_optimizer
from dlms_jax.training.pretraining import Pretraining
from dlms_jax.training.state import TrainState, abstract_state, sharded_state
from dlms_jax.training.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Assembly:
    """The parts of a training run.

    Attributes:
      config: the config of the run.
      mesh: the device mesh.
      objective: what the network is trained on.
      network: the network, without quantization.
      tx: the optimizer.
      state: the train state as ShapeDtypeStructs with shardings; `initial_state` makes the arrays.
    """

    config: Config
    mesh: AnyMesh
    objective: Objective
    network: Network
    tx: optax.GradientTransformation
    state: TrainState

    @property
    def tokens(self) -> int:
        """The number of tokens of a step."""
        return self.config.training.batch_size * self.config.data.sequence_length

    @property
    def flops(self) -> float:
        """The FLOPs of a step on all devices, by formula; MFU is computed from it."""
        rows, length = self.objective.vocabulary.padded_size, self.config.data.sequence_length
        return self.tokens * train_flops(self.config, rows, length)

    def initial_state(self, params: Any = None) -> TrainState:
        """Returns the state at step 0.

        Args:
          params: parameters on the mesh, which are donated. None: random ones. If
            config.gaussian.embedding_file is set, its table replaces theirs.

        Raises:
          UserError: that file is not a table for this vocabulary.
        """
        if params is None:
            params = random_params(self.network, self.mesh, self.config.training.seed)
        params = with_file_embeddings(params, self.network)
        return sharded_state(self.config.training, self.tx, self.mesh, params)

    def step(self):
        """Returns the jitted step of pretraining: (state, (), rows) -> (state, metrics)."""
        learning = self.network.clone(config=self.config.model)  # with config.model.quantization
        loss = Pretraining(self.config, learning, self.objective, self.mesh)
        return make_train_step(
            self.config.training,
            loss.loss_fn,
            self.tx,
            self.mesh,
            self.state,
            prepare=loss.prepare,
            summarise=loss.summarise,
        )


def assemble(config: Config, vocabulary: Vocabulary, mesh: AnyMesh) -> Assembly:
    """Returns the Assembly of a config, without creating arrays.

    Args:
      config: the config of the run.
      vocabulary: the vocabulary of its tokenizer.
      mesh: the device mesh; an AbstractMesh to plan without devices.

    Raises:
      UserError: a size does not divide over the mesh.
    """
    objective = make_objective(config, vocabulary)
    network = make_network(config, vocabulary.padded_size, mesh)
    training = config.training
    tx = make_optimizer(config.optimizer, training.steps, training.seed)
    shapes = jax.eval_shape(lambda: initial_params(network, jax.random.key(0)))
    state = abstract_state(training, tx, mesh, shapes)
    return Assembly(config, mesh, objective, network, tx, state)
