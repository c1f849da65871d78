"""All that a training run carries from step to step."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from dlms_jax.config import Config, GaussianConfig
from dlms_jax.denoiser.network import initial_params
from dlms_jax.errors import UserError
from dlms_jax.models import Network
from dlms_jax.parallel import rules
from dlms_jax.training.spikes import nothing_seen


class TrainState(NamedTuple):
    """step: steps done. params, ema: float32 trees (ema is None where it is off).
    skipped: steps that were bad, and changed nothing; skipped_in_a_row: those since the last good
    step. recent: losses and gradient norms of the last good steps, 2xW (None where no spike is
    looked for)."""

    step: jax.Array
    params: Any
    ema: Any
    optimizer: Any
    skipped: jax.Array
    skipped_in_a_row: jax.Array
    recent: Any = None

    @property
    def weights(self) -> Any:
        """The parameters to evaluate and to sample from."""
        return self.params if self.ema is None else self.ema


def initialise(
    config: Config, model: Network, tx: optax.GradientTransformation, params=None
) -> TrainState:
    """Returns the state at step 0 (to be traced: see `sharded_state`), with random parameters where
    none are given."""
    if params is None:
        params = initial_params(model, jax.random.key(config.training.seed))
    zero = jnp.zeros((), jnp.int32)
    ema = jax.tree.map(jnp.copy, params) if config.training.ema_decay else None
    recent = nothing_seen() if config.training.spike_factor else None
    return TrainState(zero, params, ema, tx.init(params), zero, zero, recent)


def sharded_state(config: Config, model: Network, tx, mesh: Mesh, params=None) -> TrainState:
    """Returns the state at step 0, each device having computed its own part of it only.

    params: on the mesh already, and consumed; where None, random ones. The table of
    config.gaussian.embedding_file takes the place of either's.
    Raises UserError where that is not a table for this vocabulary.
    """
    shardings = abstract_shardings(config, model, tx, mesh)

    @functools.partial(jax.jit, out_shardings=shardings, donate_argnums=0)
    def begin(params):
        return initialise(config, model, tx, params)

    state = begin(params)
    if model.gaussian is None or not model.gaussian.embedding_file:
        return state
    table_VxE = read_table(model.gaussian, model.rows)
    put = lambda old: jax.make_array_from_callback(  # noqa: E731
        old.shape, old.sharding, lambda index: table_VxE[index]
    )
    return state._replace(
        params=_with_table(state.params, put), ema=state.ema and _with_table(state.ema, put)
    )


def abstract_state(config: Config, model: Network, tx, mesh: Mesh) -> TrainState:
    """Returns the state as ShapeDtypeStructs with shardings: what a checkpoint is restored into."""
    return rules.abstract(jax.eval_shape(lambda: initialise(config, model, tx)), mesh)


def abstract_shardings(config: Config, model: Network, tx, mesh: Mesh):
    """Returns the NamedSharding of every leaf of the state."""
    return rules.shardings(jax.eval_shape(lambda: initialise(config, model, tx)), mesh)


def read_table(gaussian: GaussianConfig, rows: int) -> np.ndarray:
    """Returns the embeddings of a file (V x E, .npy), with noise in the head's unused rows: none of
    them may be 0, for all are brought to length 1."""
    where = f"config.gaussian.embedding_file={gaussian.embedding_file}"
    try:
        table_VxE = np.load(gaussian.embedding_file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{where} cannot be read as .npy ({error})") from None
    size = gaussian.embedding_size
    fits = table_VxE.ndim == 2 and table_VxE.shape[1] == size
    if not fits or not rows - 128 < len(table_VxE) <= rows:
        raise UserError(
            f"{where} has the shape {table_VxE.shape}; it should have a row for each symbol of the "
            f"vocabulary ({rows - 127} to {rows}) and config.gaussian.embedding_size={size} columns"
        )
    if not np.isfinite(table_VxE).all() or not table_VxE.any(axis=1).all():
        raise UserError(f"{where} has rows that are 0 or not finite, which have no direction")
    unused = np.random.default_rng(0).normal(size=(rows - len(table_VxE), size))
    return np.concatenate([table_VxE, unused]).astype(np.float32)


def _with_table(params, put):
    return params | {"embed": params["embed"] | {"table": put(params["embed"]["table"])}}
