"""The checkpoint that an export reads."""

from collections.abc import Iterator
import dataclasses
import functools
import pathlib
from typing import Any

import ml_dtypes
import numpy as np

from dlms_jax.checkpoints.checkpoint import Checkpoint, open_checkpoint
from dlms_jax.config import Config
from dlms_jax.conversion.checkpoint_arrays import CheckpointArrays
from dlms_jax.conversion.names import Tensor, tensors_of
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.denoiser import vocabulary_of
from dlms_jax.errors import UserError

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclasses.dataclass(frozen=True)
class ExportSource:
    """A checkpoint, and which of its weights to export.

    Attributes:
      checkpoint: the checkpoint.
      item: "params" for the parameters, "ema" for their moving average.
    """

    checkpoint: Checkpoint
    item: str

    @property
    def folder(self) -> pathlib.Path:
        """The folder checkpoints/STEP."""
        return self.checkpoint.folder

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata of the checkpoint."""
        return self.checkpoint.metadata

    @functools.cached_property
    def config(self) -> Config:
        """The config of the run, for devices of any kind."""
        return self.checkpoint.portable_config

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the run."""
        return self.checkpoint.tokenizer

    @property
    def arrays(self) -> CheckpointArrays:
        """The arrays of the weights."""
        digests = self.metadata.get("digests", {}).get(self.item)
        return CheckpointArrays(self.folder / self.item, digests)

    @property
    def tensors(self) -> list[Tensor]:
        """The Tensor of each parameter, in the order of the tree."""
        return list(tensors_of(self.config, vocabulary_of(self.tokenizer).padded_size))


def open_export_source(path: str | pathlib.Path, ema: bool | None = None) -> ExportSource:
    """Returns the weights of a checkpoint as the source of an export.

    Args:
      path: a run's workdir (its newest checkpoint), or its checkpoints/STEP.
      ema: whether to take the moving average of the weights; None takes it if the run kept one.

    Raises:
      UserError: there is no checkpoint, or no moving average though `ema` is True.
    """
    try:
        path = pathlib.Path(path).absolute()
        if ".." in path.parts:  # tensorstore refuses it, and a release has the name of the folder
            path = path.resolve()
        checkpoint = open_checkpoint(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    has_ema = checkpoint.weights.name == "ema"
    if ema and not has_ema:
        raise UserError(f"{checkpoint.folder} has no moving average of the weights; omit --ema")
    return ExportSource(checkpoint, "ema" if has_ema and ema is not False else "params")


def arrays_of(tensor: Tensor, arrays: CheckpointArrays) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the PyTorch name and the array of each tensor of a parameter."""
    parts = arrays.layers(tensor.path) if tensor.stack else [arrays.read(tensor.path)]
    if len(tensor.stack) == 2:
        parts = (expert for layer in parts for expert in layer)
    for name, array in zip(tensor.names(), parts, strict=True):
        yield name, array.T if tensor.transposed else array
