"""All that a training run carries from step to step."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from dlms_jax.config import TrainingConfig
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
        """The weights that are evaluated and sampled: the moving average, if there is one."""
        return self.params if self.ema is None else self.ema


def initialise(config: TrainingConfig, tx: optax.GradientTransformation, params: Any) -> TrainState:
    """Returns the state at step 0 (to be traced: see `sharded_state`)."""
    zero = jnp.zeros((), jnp.int32)
    ema = jax.tree.map(jnp.copy, params) if config.ema_decay else None
    recent = nothing_seen() if config.spike_factor else None
    return TrainState(zero, params, ema, tx.init(params), zero, zero, recent)


def abstract_state(config: TrainingConfig, tx, mesh: Mesh, params: Any) -> TrainState:
    """Returns the state as ShapeDtypeStructs with shardings, of parameters (or their shapes): what
    the train step is made for, and what a checkpoint is restored into."""
    begin = functools.partial(initialise, config, tx)
    return rules.abstract(jax.eval_shape(begin, params), mesh)


def sharded_state(config: TrainingConfig, tx, mesh: Mesh, params: Any) -> TrainState:
    """Returns the state at step 0, each device having computed its own part of it only. params: on
    the mesh already, and consumed."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(config, tx, mesh, params))
    begin = functools.partial(initialise, config, tx)
    return jax.jit(begin, out_shardings=shardings, donate_argnums=0)(params)
