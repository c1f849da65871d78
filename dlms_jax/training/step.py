"""One optimizer step, a single jitted program."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from dlms_jax.config import Config
from dlms_jax.denoiser import make_denoiser
from dlms_jax.diffusion import Batch, Objective, make_batch
from dlms_jax.models import Network
from dlms_jax.parallel.mesh import batch_sharding, batch_shards, constrain, replicated
from dlms_jax.training.router import routed_tokens, router_loss, router_metrics
from dlms_jax.training.spikes import is_good, with_step
from dlms_jax.training.state import TrainState, abstract_shardings


def make_train_step(config: Config, model: Network, objective: Objective, tx, mesh: Mesh):
    """Returns step(state, rows) -> (state, metrics), jitted; the state passed in is consumed.

    rows: data.packing.Rows of global arrays. metrics: float32 scalars by name. The corruption is a
    function of (training.seed, state.step, row) alone: neither the mesh nor accumulation enters.
    A step whose loss or gradient is not finite, or a spike, changes nothing but the counters; nor
    does any after training.max_skipped_steps of them in a row.
    """
    shardings = abstract_shardings(config, model, tx, mesh)
    learning = model.clone(config=config.model)  # with config.model.quantization
    accumulate = config.training.accumulation_steps

    def microbatch(params, batch, key, step, scored_per_routed):
        routed = {}
        denoise = make_denoiser(config, learning, params, objective, mesh, routed)
        loss = objective.loss(denoise, batch, key, step)
        routers = routed.get("sums")
        # The sums over routed tokens will be divided by the number of scored ones, as all is.
        total = loss.total + scored_per_routed * router_loss(config.model, routers)
        return total, (loss.metrics, routers)

    grad = jax.value_and_grad(microbatch, has_aux=True)

    @functools.partial(
        jax.jit,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
    def step(state: TrainState, rows) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(config.training.seed), state.step)
        batch = as_batch(rows)
        tokens = jnp.maximum(jnp.sum(batch.scored_BxL), 1).astype(jnp.float32)
        same = key, state.step, tokens / routed_tokens(config, batch)
        if accumulate == 1:
            (total, (sums, routers)), grads = grad(state.params, batch, *same)
        else:
            batches = jax.tree.map(lambda x: _split_rows(x, accumulate, mesh), batch)
            first = jax.tree.map(lambda x: x[0], batches)
            zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(grad, state.params, first, *same))

            def add(sums, part):
                part = jax.tree.map(lambda x: constrain(x, mesh), part)
                return jax.tree.map(jnp.add, sums, grad(state.params, part, *same)), None

            ((total, (sums, routers)), grads), _ = jax.lax.scan(add, zeros, batches)

        loss, grads = total / tokens, jax.tree.map(lambda g: g / tokens, grads)
        grad_norm = optax.tree.norm(grads)
        good = is_good(loss, grad_norm, state.recent, config.training.spike_factor)
        good &= state.skipped_in_a_row < config.training.max_skipped_steps
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
            **{name: value / tokens for name, value in sums.items()},
            **router_metrics(routers),
        }
        return state, jax.tree.map(lambda x: x.astype(jnp.float32), metrics)

    return step


def as_batch(rows) -> Batch:
    """Returns the rows of a step's global batch as a Batch, numbered from 0."""
    row_B = jnp.arange(rows.tokens_RxL.shape[0])
    return make_batch(*rows.cells, row_B, rows.class_R)


def _split_rows(x: jax.Array, parts: int, mesh: Mesh) -> jax.Array:
    """Returns x[B, ...] as [parts, B / parts, ...]: of every device's rows a contiguous piece to
    each part, so that no row moves to another device."""
    shards = batch_shards(mesh)
    x = x.reshape(shards, parts, -1, *x.shape[1:])
    return jnp.swapaxes(x, 0, 1).reshape(parts, -1, *x.shape[3:])


def _updated(config: Config, tx, state: TrainState, grads: Any) -> TrainState:
    updates, optimizer = tx.update(grads, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    ema, decay = state.ema, config.training.ema_decay
    if ema is not None:
        # A short memory at first, so that the average does not keep the initial weights.
        decay = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
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
