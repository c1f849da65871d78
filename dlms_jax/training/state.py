"""The state that a training run carries from step to step."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dlms_jax.config import TrainingConfig
from dlms_jax.parallel import rules
from dlms_jax.parallel.mesh import AnyMesh
from dlms_jax.training.spikes import nothing_seen


class TrainState(NamedTuple):
    """The state of training.

    Attributes:
      step: the number of steps done.
      params: the parameters, a float32 tree.
      ema: their moving average; None if it is off.
      optimizer: the state of the optimizer.
      skipped: the number of bad steps, which changed nothing.
      skipped_in_a_row: the number of bad steps since the last good one.
      recent: the losses and gradient norms of the last good steps, 2xW; None if spikes are allowed.
    """

    step: jax.Array
    params: Any
    ema: Any
    optimizer: Any
    skipped: jax.Array
    skipped_in_a_row: jax.Array
    recent: Any = None

    @property
    def weights(self) -> Any:
        """The weights for evaluation and sampling: the moving average, if there is one."""
        return self.params if self.ema is None else self.ema


def initialise(config: TrainingConfig, tx: optax.GradientTransformation, params: Any) -> TrainState:
    """Returns the state at step 0. Call it under jit: see `sharded_state`."""
    zero = jnp.zeros((), jnp.int32)
    ema = jax.tree.map(jnp.copy, params) if config.ema_decay else None
    recent = nothing_seen() if config.spike_factor else None
    return TrainState(zero, params, ema, tx.init(params), zero, zero, recent)


def abstract_state(config: TrainingConfig, tx, mesh: AnyMesh, params: Any) -> TrainState:
    """Returns the state as ShapeDtypeStructs with shardings.

    `make_train_step` needs it, and a checkpoint is restored into it.

    Args:
      config: the section config.training.
      tx: the optimizer.
      mesh: the device mesh.
      params: the parameters, or their shapes.
    """
    begin = functools.partial(initialise, config, tx)
    return rules.abstract(jax.eval_shape(begin, params), mesh)


def sharded_state(config: TrainingConfig, tx, mesh: AnyMesh, params: Any) -> TrainState:
    """Returns the state at step 0; each device computes only its own part.

    Args:
      config: the section config.training.
      tx: the optimizer.
      mesh: the device mesh.
      params: the parameters on the mesh, which are donated.
    """
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(config, tx, mesh, params))
    begin = functools.partial(initialise, config, tx)
    return jax.jit(begin, out_shardings=shardings, donate_argnums=0)(params)
