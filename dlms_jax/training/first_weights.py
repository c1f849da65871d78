"""Initial weights of pretraining; warm_start.py has those that come from another run."""

from typing import Any

import jax
import numpy as np

from dlms_jax.config import GaussianConfig
from dlms_jax.denoiser import initial_params
from dlms_jax.errors import UserError
from dlms_jax.models import Network
from dlms_jax.parallel import rules
from dlms_jax.parallel.mesh import AnyMesh


def random_params(network: Network, mesh: AnyMesh, seed: int) -> Any:
    """Returns random parameters on a mesh; each device computes only its own part."""

    def begin():
        return initial_params(network, jax.random.key(seed))

    return jax.jit(begin, out_shardings=rules.shardings(jax.eval_shape(begin), mesh))()


def with_file_embeddings(params: Any, network: Network) -> Any:
    """Returns the parameters, with the table of config.gaussian.embedding_file if it is set.

    Args:
      params: the parameters of the network.
      network: the network, which has the settings of Gaussian diffusion.

    Raises:
      UserError: the file is not a table for this vocabulary.
    """
    if network.gaussian is None or not network.gaussian.embedding_file:
        return params
    table_VxE, old = read_table(network.gaussian, network.vocab_size), params["embed"]["table"]
    table = jax.make_array_from_callback(old.shape, old.sharding, lambda index: table_VxE[index])
    return params | {"embed": params["embed"] | {"table": table}}


def check_embeddings(network: Network):
    """Raises UserError if config.gaussian.embedding_file is not a table for a network."""
    if network.gaussian is not None and network.gaussian.embedding_file:
        read_table(network.gaussian, network.vocab_size)


def read_table(gaussian: GaussianConfig, rows: int) -> np.ndarray:
    """Returns table_VxE from an .npy file, padded with random rows for the unused tokens.

    No row may be 0, since all are scaled to norm 1.

    Args:
      gaussian: names the file and the embedding size.
      rows: the padded size of the vocabulary.

    Raises:
      UserError: the file is not a table for this vocabulary.
    """
    where = f"config.gaussian.embedding_file={gaussian.embedding_file}"
    try:
        table_VxE = np.load(gaussian.embedding_file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{where} cannot be read as .npy ({error})") from None
    size = gaussian.embedding_size
    fits = table_VxE.ndim == 2 and table_VxE.shape[1] == size
    if not fits or not rows - 128 < len(table_VxE) <= rows:
        raise UserError(
            f"{where} has the shape {table_VxE.shape}; it should have a row for each token of the "
            f"vocabulary ({rows - 127} to {rows}) and config.gaussian.embedding_size={size} columns"
        )
    if not np.isfinite(table_VxE).all() or not table_VxE.any(axis=1).all():
        raise UserError(
            f"{where} has rows that are 0 or not finite, which cannot be scaled to norm 1; fix them"
        )
    unused = np.random.default_rng(0).normal(size=(rows - len(table_VxE), size))
    return np.concatenate([table_VxE, unused]).astype(np.float32)
