"""The train step: one optimizer update for any loss, as a single jitted program.

A loss is a function loss_fn(params, frozen, batch, key, step) -> Loss. `params` are trained;
`frozen` are not (a teacher, a reference, the base of an adapter); `batch` is any pytree whose
leaves have rows as their first axis.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dlms_jax.config import TrainingConfig
from dlms_jax.diffusion import Loss
from dlms_jax.parallel.mesh import AnyMesh, batch_sharding, batch_shards, constrain, replicated
from dlms_jax.training.spikes import is_good, with_step
from dlms_jax.training.state import TrainState

LossFn = Callable[[Any, Any, Any, jax.Array, jax.Array], Loss]


def means(loss: Loss, count: jax.Array) -> dict[str, jax.Array]:
    """Returns the metrics of a loss divided by `count`."""
    return {name: value / count for name, value in loss.metrics.items()}


def make_train_step(
    config: TrainingConfig,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    mesh: AnyMesh,
    state: TrainState,
    frozen: Any = (),
    prepare: Callable[[Any], Any] | None = None,
    summarise: Callable[[Loss, jax.Array], dict[str, jax.Array]] = means,
):
    """Returns the jitted function step(state, frozen, batch) -> (state, metrics).

    The step minimises the sum of `total` divided by the sum of `count`, both over all devices and
    micro-batches. It donates the state. metrics are float32 scalars by name. The key depends only
    on (config.seed, state.step), not on the mesh or on accumulation; `loss_fn` folds in the index
    of each row. A bad step (spikes.py) changes only the counters. After config.max_skipped_steps
    bad steps in a row every step counts as bad.

    Args:
      config: the section config.training.
      loss_fn: the loss of a micro-batch.
      tx: the optimizer.
      mesh: the device mesh.
      state: the state, or its ShapeDtypeStructs, with shardings.
      frozen: the weights that are not trained, or their ShapeDtypeStructs; () if there are none.
      prepare: batch -> batch, applied to the whole global batch before accumulation splits it by
        rows. It may add scalars, which every micro-batch gets. None: the batch is unchanged.
      summarise: (the Loss of the whole batch, its count as a float32 of at least 1) -> metrics.
    """
    shardings, frozen_shardings = jax.tree.map(lambda x: x.sharding, (state, frozen))

    def total_and_all(params, frozen, batch, key, step):
        loss = loss_fn(params, frozen, batch, key, step)
        return loss.total, loss

    grad = jax.grad(total_and_all, has_aux=True)

    @functools.partial(
        jax.jit,
        in_shardings=(shardings, frozen_shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
    def step(state: TrainState, frozen, batch) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        batch = batch if prepare is None else prepare(batch)

        def graded(batch):
            return grad(state.params, frozen, batch, key, state.step)

        grads, summed = _in_parts(graded, batch, config.accumulation_steps, mesh)
        count = jnp.maximum(summed.count, 1).astype(jnp.float32)
        loss, grads = summed.total / count, jax.tree.map(lambda g: g / count, grads)
        grad_norm = optax.tree.norm(grads)
        good = is_good(loss, grad_norm, state.recent, config.spike_factor)
        good &= state.skipped_in_a_row < config.max_skipped_steps
        updated = _updated(config, tx, state, grads)
        if state.recent is not None:
            updated = updated._replace(recent=with_step(state.recent, loss, grad_norm))
        state = _keep_if(good, updated, _skipped(state))
        metrics = {
            "loss": loss,
            "grad_norm": grad_norm,
            "param_norm": optax.tree.norm(state.params),
            "skipped": state.skipped,
            "skipped_in_a_row": state.skipped_in_a_row,
            **summarise(summed, count),
        }
        return state, jax.tree.map(lambda x: x.astype(jnp.float32), metrics)

    return step


def _in_parts(function, batch, parts: int, mesh: AnyMesh):
    """Returns the sum of a function's results on the parts of a batch, computed one by one."""
    if parts == 1:
        return function(batch)
    batches = jax.tree.map(lambda x: _split_rows(x, parts, mesh), batch)
    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], batches))

    def add(sums, part):
        part = jax.tree.map(lambda x: constrain(x, mesh) if x.ndim else x, part)
        return jax.tree.map(jnp.add, sums, function(part)), None

    return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, shapes), batches)[0]


def _split_rows(x: jax.Array, parts: int, mesh: AnyMesh) -> jax.Array:
    """Returns x[B, ...] as [parts, B / parts, ...]; a scalar is repeated for each part.

    Each part gets a contiguous piece of every device's rows, so no row moves to another device.
    """
    if not x.ndim:
        return jnp.broadcast_to(x, parts)
    shards = batch_shards(mesh)
    x = x.reshape(shards, parts, -1, *x.shape[1:])
    return jnp.swapaxes(x, 0, 1).reshape(parts, -1, *x.shape[3:])


def _updated(config: TrainingConfig, tx, state: TrainState, grads: Any) -> TrainState:
    updates, optimizer = tx.update(grads, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        # A smaller decay at first, so that the average forgets the initial weights.
        decay = jnp.minimum(config.ema_decay, (1 + state.step) / (10 + state.step))
        ema = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, ema, params)
    return state._replace(
        step=state.step + 1,
        params=params,
        ema=ema,
        optimizer=optimizer,
        skipped_in_a_row=jnp.zeros_like(state.skipped),
    )


def _skipped(state: TrainState) -> TrainState:
    return state._replace(
        step=state.step + 1,
        skipped=state.skipped + 1,
        skipped_in_a_row=state.skipped_in_a_row + 1,
    )


def _keep_if(good, updated: TrainState, skipped: TrainState) -> TrainState:
    return jax.tree.map(lambda new, old: jnp.where(good, new, old), updated, skipped)
