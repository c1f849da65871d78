"""All that a training run carries from step to step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from dlms_jax.config import Config
from dlms_jax.models import Transformer
from dlms_jax.parallel import rules


class TrainState(NamedTuple):
    """step: steps done. params, ema: float32 trees (ema is None where it is off).
    skipped: steps whose loss or gradient was not finite; skipped_in_a_row: those since the last
    good step."""

    step: jax.Array
    params: Any
    ema: Any
    optimizer: Any
    skipped: jax.Array
    skipped_in_a_row: jax.Array


def initial_params(model: Transformer, key: jax.Array) -> Any:
    """Returns a network's parameters before training."""
    tokens_1x2 = jnp.zeros((1, 2), jnp.int32)
    return model.init(key, tokens_1x2, tokens_1x2, tokens_1x2, "full")["params"]


def initialise(config: Config, model: Transformer, tx: optax.GradientTransformation) -> TrainState:
    """Returns the state at step 0 (to be traced: see `sharded_state`)."""
    params = initial_params(model, jax.random.key(config.training.seed))
    zero = jnp.zeros((), jnp.int32)
    ema = jax.tree.map(jnp.copy, params) if config.training.ema_decay else None
    return TrainState(zero, params, ema, tx.init(params), zero, zero)


def sharded_state(config: Config, model: Transformer, tx, mesh: Mesh) -> TrainState:
    """Returns the state at step 0, each device having computed its own part of it only."""
    return jax.jit(
        lambda: initialise(config, model, tx),
        out_shardings=abstract_shardings(config, model, tx, mesh),
    )()


def abstract_state(config: Config, model: Transformer, tx, mesh: Mesh) -> TrainState:
    """Returns the state as ShapeDtypeStructs with shardings: what a checkpoint is restored into."""
    return rules.abstract(jax.eval_shape(lambda: initialise(config, model, tx)), mesh)


def abstract_shardings(config: Config, model: Transformer, tx, mesh: Mesh):
    """Returns the NamedSharding of every leaf of the state."""
    return rules.shardings(jax.eval_shape(lambda: initialise(config, model, tx)), mesh)
