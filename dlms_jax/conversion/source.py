"""A checkpoint of ours that is to be exported."""

from collections.abc import Iterator
import dataclasses
import pathlib
from typing import Any

import ml_dtypes
import numpy as np

from dlms_jax.config import Config
from dlms_jax.conversion.checkpoint_arrays import CheckpointArrays
from dlms_jax.conversion.names import Tensor, tensors_of
from dlms_jax.data import tokenizers
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.errors import UserError
from dlms_jax.training import checkpoint
from dlms_jax.training.denoiser import vocabulary_of

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclasses.dataclass(frozen=True)
class Source:
    """item: "params", or "ema" for the moving average."""

    folder: pathlib.Path
    item: str
    about: dict[str, Any]
    config: Config
    tokenizer: Tokenizer

    @property
    def arrays(self) -> CheckpointArrays:
        return CheckpointArrays(self.folder / self.item)

    @property
    def tensors(self) -> list[Tensor]:
        return list(tensors_of(self.config, vocabulary_of(self.tokenizer).rows))


def open_source(path: str | pathlib.Path, ema: bool | None = None) -> Source:
    """Returns the checkpoint of a run's workdir or checkpoints/STEP. ema: whether to take the
    moving average of the weights; None: where there is one."""
    folder = checkpoint.find_checkpoint(path)
    about = checkpoint.load_about(folder)
    has_ema = (folder / "ema").is_dir()
    if ema and not has_ema:
        raise UserError(f"{folder} has no moving average of the weights; leave --ema out")
    item = "ema" if has_ema and ema is not False else "params"
    config = checkpoint.config_of(about)
    return Source(folder, item, about, config, tokenizers.from_dict(about["tokenizer"]))


def arrays_of(tensor: Tensor, arrays: CheckpointArrays) -> Iterator:
    """Yields (PyTorch's name, array) of a parameter's tensors."""
    parts = arrays.layers(tensor.path) if tensor.stack else [arrays.read(tensor.path)]
    if len(tensor.stack) == 2:
        parts = (expert for layer in parts for expert in layer)
    for name, array in zip(tensor.names(), parts, strict=True):
        yield name, array.T if tensor.transposed else array
