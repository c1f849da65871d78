"""A checkpoint of ours that is to be exported."""

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
    """item: "params", or "ema" for the moving average."""

    checkpoint: Checkpoint
    item: str

    @property
    def folder(self) -> pathlib.Path:
        return self.checkpoint.folder

    @property
    def metadata(self) -> dict[str, Any]:
        return self.checkpoint.metadata

    @functools.cached_property
    def config(self) -> Config:
        return self.checkpoint.portable_config

    @property
    def tokenizer(self) -> Tokenizer:
        return self.checkpoint.tokenizer

    @property
    def arrays(self) -> CheckpointArrays:
        return CheckpointArrays(self.folder / self.item)

    @property
    def tensors(self) -> list[Tensor]:
        return list(tensors_of(self.config, vocabulary_of(self.tokenizer).rows))


def open_export_source(path: str | pathlib.Path, ema: bool | None = None) -> ExportSource:
    """Returns the checkpoint of a run's workdir or checkpoints/STEP. ema: whether to take the
    moving average of the weights; None: where there is one."""
    checkpoint = open_checkpoint(path)
    has_ema = checkpoint.weights.name == "ema"
    if ema and not has_ema:
        raise UserError(
            f"{checkpoint.folder} has no moving average of the weights; leave --ema out"
        )
    return ExportSource(checkpoint, "ema" if has_ema and ema is not False else "params")


def arrays_of(tensor: Tensor, arrays: CheckpointArrays) -> Iterator:
    """Yields (PyTorch's name, array) of a parameter's tensors."""
    parts = arrays.layers(tensor.path) if tensor.stack else [arrays.read(tensor.path)]
    if len(tensor.stack) == 2:
        parts = (expert for layer in parts for expert in layer)
    for name, array in zip(tensor.names(), parts, strict=True):
        yield name, array.T if tensor.transposed else array
