"""The train step that is planned: the same network, objective, optimizer and layout as Trainer's,
with shapes in place of arrays. No corpus is read and no tokenizer trained."""

from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, Mesh
import numpy as np

from dlms_jax.config import Config
from dlms_jax.data.packing import Rows
from dlms_jax.data.tokenizers import SPECIAL_TOKENS, make_tokenizer
from dlms_jax.denoiser import make_network, vocabulary_of
from dlms_jax.diffusion import Objective, Vocabulary, make_objective
from dlms_jax.models import Network, train_flops
from dlms_jax.parallel.mesh import batch_sharding, batch_shards, check_rows
from dlms_jax.training.optimizer import make_optimizer
from dlms_jax.training.state import TrainState, abstract_state
from dlms_jax.training.step import make_train_step


class Program(NamedTuple):
    """state, rows: what the step takes, as ShapeDtypeStructs with their shardings."""

    config: Config
    mesh: Mesh | AbstractMesh
    objective: Objective
    network: Network
    tx: Any
    state: TrainState
    rows: Rows

    @property
    def head_rows(self) -> int:
        return self.objective.vocabulary.rows

    @property
    def local_rows(self) -> int:
        """Rows that a device works on at one time."""
        training = self.config.training
        return training.batch_size // training.accumulation_steps // batch_shards(self.mesh)

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.config.training.batch_size * self.config.data.sequence_length

    @property
    def head_share(self) -> float:
        """The part of positions whose logits the loss needs, on average."""
        some = self.config.objective.name in ("masked", "block")
        return 0.5 if some and self.config.training.loss_implementation == "fused" else 1.0

    def flops(self) -> float:
        """Returns the FLOPs of a step by formula, of all devices, as `mfu` in a run counts them."""
        share = 0.5 if self.config.objective.name in ("masked", "block") else 1.0
        length = self.config.data.sequence_length
        return self.tokens * train_flops(self.config, self.head_rows, length, head_share=share)

    def step(self):
        """Returns the jitted train step."""
        return make_train_step(self.config, self.network, self.objective, self.tx, self.mesh)


def make_program(config: Config, mesh: Mesh | AbstractMesh) -> Program:
    """Returns the step of a config on a mesh. Raises UserError for sizes that do not divide."""
    training = config.training
    check_rows(mesh, training.batch_size // training.accumulation_steps, "training.batch_size")
    objective = make_objective(config, vocabulary_from(config))
    network = make_network(config, objective.vocabulary.rows, mesh)
    tx = make_optimizer(config.optimizer, training.steps)
    state = abstract_state(config, network, tx, mesh)
    cells = training.batch_size, config.data.sequence_length

    def rows(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))

    batch = Rows(
        *(rows(cells, np.int32) for _ in range(3)), rows(cells, bool), rows(cells[:1], np.int32)
    )
    return Program(config, mesh, objective, network, tx, state, batch)


def vocabulary_from(config: Config) -> Vocabulary:
    """Returns a vocabulary of the size that a config's tokenizer will have."""
    c = config.tokenizer
    if c.name in ("bytes", "hf") or c.path:
        return vocabulary_of(make_tokenizer(c, ()))
    special = len(SPECIAL_TOKENS)  # where they stand changes no shape
    return Vocabulary(c.vocab_size, *range(c.vocab_size - special, c.vocab_size))
