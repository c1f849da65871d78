"""The train step that is planned: the same network, objective, optimizer and layout as Trainer's,
with shapes in place of arrays. No corpus is read and no tokenizer trained."""

import dataclasses

import jax
from jax.sharding import AbstractMesh, Mesh
import numpy as np

from dlms_jax.config import Config
from dlms_jax.data.packing import Rows
from dlms_jax.data.tokenizers import SPECIAL_TOKENS, make_tokenizer
from dlms_jax.denoiser import vocabulary_of
from dlms_jax.diffusion import Vocabulary
from dlms_jax.parallel.mesh import batch_sharding, batch_shards, check_rows
from dlms_jax.training.assembly import Assembly, assemble


@dataclasses.dataclass(frozen=True)
class Program(Assembly):
    """rows: what the step takes beside the state, as ShapeDtypeStructs with their shardings."""

    rows: Rows

    @property
    def head_rows(self) -> int:
        return self.objective.vocabulary.padded_size

    @property
    def local_rows(self) -> int:
        """Rows that a device works on at one time."""
        training = self.config.training
        return training.batch_size // training.accumulation_steps // batch_shards(self.mesh)

    @property
    def copies(self) -> int:
        """How many copies of each row the network reads."""
        return self.objective.traits.copies

    @property
    def head_share(self) -> float:
        """The share of positions whose logits the step computes, on average."""
        fused = self.config.training.loss_implementation == "fused"
        return self.objective.traits.logits_share if fused else 1.0

    def lower(self):
        """Returns the step, traced and lowered for these shapes."""
        return self.step().lower(self.state, (), self.rows)


def make_program(config: Config, mesh: Mesh | AbstractMesh) -> Program:
    """Returns the step of a config on a mesh. Raises UserError for sizes that do not divide."""
    training = config.training
    check_rows(mesh, training.batch_size // training.accumulation_steps, "training.batch_size")
    cells = training.batch_size, config.data.sequence_length

    def rows(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))

    batch = Rows(
        *(rows(cells, np.int32) for _ in range(3)), rows(cells, bool), rows(cells[:1], np.int32)
    )
    return Program(**vars(assemble(config, vocabulary_from(config), mesh)), rows=batch)


def vocabulary_from(config: Config) -> Vocabulary:
    """Returns a vocabulary of the size that a config's tokenizer will have."""
    c = config.tokenizer
    if c.name in ("bytes", "hf") or c.path:
        return vocabulary_of(make_tokenizer(c, ()))
    special = len(SPECIAL_TOKENS)  # where they stand changes no shape
    return Vocabulary(c.vocab_size, *range(c.vocab_size - special, c.vocab_size))
