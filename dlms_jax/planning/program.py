"""The train step to plan: the Trainer's step, with shapes in place of arrays.

No corpus is read and no tokenizer is trained.
"""

import dataclasses

import jax
import numpy as np

from dlms_jax.config import Config
from dlms_jax.data.packing import Rows
from dlms_jax.data.tokenizers import SPECIAL_TOKENS, make_tokenizer
from dlms_jax.denoiser import vocabulary_of
from dlms_jax.diffusion import Vocabulary
from dlms_jax.parallel.mesh import AnyMesh, batch_sharding, batch_shards, check_rows
from dlms_jax.training.assembly import Assembly, assemble


@dataclasses.dataclass(frozen=True)
class Program(Assembly):
    """A train step on abstract arrays; `rows` is its batch, as ShapeDtypeStructs with shardings."""

    rows: Rows

    @property
    def head_rows(self) -> int:
        """Returns the padded vocabulary size."""
        return self.objective.vocabulary.padded_size

    @property
    def local_rows(self) -> int:
        """Returns the rows that a device processes at a time."""
        training = self.config.training
        return training.batch_size // training.accumulation_steps // batch_shards(self.mesh)

    @property
    def copies(self) -> int:
        """Returns the number of copies of each row that the network reads."""
        return self.objective.traits.copies

    @property
    def head_share(self) -> float:
        """Returns the average share of positions whose logits the step computes."""
        fused = self.config.training.loss_implementation == "fused"
        return self.objective.traits.logits_share if fused else 1.0

    def lower(self):
        """Returns the step, traced and lowered for these shapes."""
        return self.step().lower(self.state, (), self.rows)


def make_program(config: Config, mesh: AnyMesh) -> Program:
    """Returns the train step of a config on a mesh.

    Raises:
      UserError: sizes do not divide by the mesh.
    """
    training = config.training
    check_rows(mesh, training.batch_size // training.accumulation_steps, "training.batch_size")
    cells = training.batch_size, config.data.sequence_length

    def rows(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))

    tokens, segments, positions = (rows(cells, np.int32) for _ in range(3))
    batch = Rows(tokens, segments, positions, rows(cells, bool), rows(cells[:1], np.int32))
    return Program(**vars(assemble(config, vocabulary_from(config), mesh)), rows=batch)


def vocabulary_from(config: Config) -> Vocabulary:
    """Returns a vocabulary with the size that the config's tokenizer will have."""
    c = config.tokenizer
    if c.name in ("bytes", "hf") or c.path:
        return vocabulary_of(make_tokenizer(c, ()))
    special = len(SPECIAL_TOKENS)  # their ids do not change a shape
    return Vocabulary(c.vocab_size, *range(c.vocab_size - special, c.vocab_size))
