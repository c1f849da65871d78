"""Checkpoints of small random networks of every kind."""

import functools
import pathlib

import jax
import numpy as np

from dlms_jax.checkpoints import checkpoint
from dlms_jax.config import Config
from dlms_jax.conversion.export_source import open_export_source
from dlms_jax.data.tokenizers import ByteTokenizer, Tokenizer
from dlms_jax.denoiser import abstract_params, vocabulary_of
from dlms_jax.parallel.rules import path_string
from dlms_jax.testing import small_config


def random_params(config: Config, rows: int, seed: int = 0):
    """Returns random parameters, none of them 0 or 1, with which an error would not show.

    They are larger than initial ones, so that the output at a position depends on the others.
    """
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        x = rng.normal(size=shape.shape).astype(np.float32)
        name = path_string(path)
        if name.endswith("kernel"):
            x /= shape.shape[-2] ** 0.5
        elif name.endswith("scale"):
            x = 1 + 0.2 * x
        elif name.endswith(("bias", "schedule")):
            x *= 0.02
        return x

    return jax.tree_util.tree_map_with_path(draw, abstract_params(config, rows))


def random_checkpoint(
    workdir: pathlib.Path, tokenizer: Tokenizer | None = None, seed: int = 0, **settings
):
    """Writes a checkpoint of a random network to a workdir; returns it as an ExportSource."""
    config, tokenizer = small_config(**settings), tokenizer or ByteTokenizer()
    metadata = {
        "config": config.to_dict(),
        "tokenizer": tokenizer.to_dict(),
        "data": {},
        "versions": checkpoint.versions(),
    }
    params = random_params(config, vocabulary_of(tokenizer).padded_size, seed)
    checkpoint.save_weights(workdir, 7, jax.device_put(params), metadata)
    return open_export_source(workdir)


@functools.cache
def odd_tokenizer(further: int = 5) -> Tokenizer:
    """Returns a tokenizer with additional special tokens, so that its size is no round number."""
    return ByteTokenizer(special_tokens=[f"<|{i}|>" for i in range(further)])


def tree_of(source) -> dict[str, np.ndarray]:
    """Returns every array of a checkpoint by its path."""
    return {tensor.path: source.arrays.read(tensor.path) for tensor in source.tensors}
