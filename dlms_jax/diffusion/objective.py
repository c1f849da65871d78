"""What all objectives have in common."""

import abc
import dataclasses

import jax

from dlms_jax.config import Traits
from dlms_jax.diffusion.protocol import Batch, Corrupted, Denoiser, Loss, Vocabulary
from dlms_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Objective(abc.ABC):
    """A way to learn the distribution of documents.

    `loss` is `draw_times`, `corrupt` and the network's answer, after the batch is made what a step
    of training sees. All draws of a row are a function of (key, batch.row_B) alone, whatever rows
    stand beside it. `draw_times` and `corrupt` may be given the same key.
    """

    vocabulary: Vocabulary

    @property
    @abc.abstractmethod
    def traits(self) -> Traits:
        """What the rest of the program asks of the objective."""

    @property
    @abc.abstractmethod
    def protocol(self) -> str:
        """How the bound is made, in a few words."""

    @abc.abstractmethod
    def draw_times(self, batch: Batch, key: jax.Array) -> jax.Array:
        """Returns t_BxL in (0, 1], uniform, one for each document (or block)."""

    @abc.abstractmethod
    def corrupt(
        self, batch: Batch, t_BxL: jax.Array, key: jax.Array, denoise: Denoiser | None = None
    ) -> Corrupted:
        """Returns one draw of the forward process at the given times.

        Args:
          batch: of which only scored tokens are corrupted.
          t_BxL: as of `draw_times`.
          key: as of `loss`.
          denoise: what holds the embeddings and the noise schedule; only Gaussian diffusion reads
            it, and needs it.
        """

    def corrupt_with(self, batch: Batch, hidden_BxL: jax.Array) -> Corrupted:
        """Returns the batch with the given tokens hidden. Raises UserError where the process is
        not one of masks."""
        name = type(self).__name__
        raise UserError(f"{name} has no masks to set; use corrupt, or objective masked or block")

    @abc.abstractmethod
    def loss(
        self, denoise: Denoiser, batch: Batch, key: jax.Array, step: jax.Array | int = 0
    ) -> Loss:
        """Returns the training loss of one draw of the corruption, at a step of training; the count
        is that of the batch's scored tokens, whatever further parts of documents are given."""

    @abc.abstractmethod
    def bound(
        self, denoise: Denoiser, batch: Batch, key: jax.Array, sample: int, num_samples: int
    ) -> jax.Array:
        """Returns nats_BxL whose mean over the samples 0..num_samples-1 estimates, without bias,
        each document's upper bound on -log p (summed over its tokens), with 0 where not scored."""
