"""The base class of the objectives."""

import abc
import dataclasses

import jax

from dlms_jax.config import Traits
from dlms_jax.diffusion.protocol import Batch, Corrupted, Denoiser, Loss, Vocabulary
from dlms_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Objective(abc.ABC):
    """A training objective: a forward process, a loss, and a bound on the likelihood.

    `loss` hides prompts, draws times, corrupts the batch and calls the network, in this order. The
    draws for a row depend only on (key, batch.row_B), not on the other rows. `draw_times` and
    `corrupt` may get the same key: they derive different keys from it.

    Attributes:
      vocabulary: the special tokens and the sizes.
    """

    vocabulary: Vocabulary

    @property
    @abc.abstractmethod
    def traits(self) -> Traits:
        """The properties of the objective that the rest of the program depends on."""

    @property
    @abc.abstractmethod
    def protocol(self) -> str:
        """A short description of the bound, for reports."""

    @abc.abstractmethod
    def draw_times(self, batch: Batch, key: jax.Array) -> jax.Array:
        """Returns t_BxL in (0, 1], uniform, one for each document (or block)."""

    @abc.abstractmethod
    def corrupt(
        self, batch: Batch, t_BxL: jax.Array, key: jax.Array, denoise: Denoiser | None = None
    ) -> Corrupted:
        """Returns one draw of the forward process at the given times.

        Args:
          batch: the batch; only its scored tokens are corrupted.
          t_BxL: the times, one for each document (or block).
          key: the key of the step; with the same key, `loss` makes the same draws.
          denoise: holds the embeddings and the noise schedule. Gaussian diffusion needs it; the
            others ignore it.
        """

    def corrupt_with(self, batch: Batch, hidden_BxL: jax.Array) -> Corrupted:
        """Returns the batch with the given tokens masked.

        Raises:
          UserError: the process has no masks.
        """
        name = type(self).__name__
        raise UserError(f"{name} has no masks; use corrupt, or the objectives masked or block")

    @abc.abstractmethod
    def loss(
        self, denoise: Denoiser, batch: Batch, key: jax.Array, step: jax.Array | int = 0
    ) -> Loss:
        """Returns the training loss for one draw of the corruption.

        Its count includes the scored tokens that become prompts by chance (prompts.py).

        Args:
          denoise: the network with its weights.
          batch: the clean batch.
          key: the key of the step.
          step: the number of the step, for schedules; it may be traced.
        """

    @abc.abstractmethod
    def bound(
        self, denoise: Denoiser, batch: Batch, key: jax.Array, sample: int, num_samples: int
    ) -> jax.Array:
        """Returns nats_BxL, one sample of each document's upper bound on -log p.

        Summed over a document's tokens and averaged over the samples 0..num_samples-1, it is an
        unbiased estimate of the bound. It is 0 where a token is not scored.

        Args:
          denoise: the network with its weights.
          batch: the clean batch.
          key: the key of all samples.
          sample: the index of the sample; times are stratified over the samples.
          num_samples: the number of samples.
        """
