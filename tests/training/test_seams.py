"""The train step takes any loss: of a student and its teacher, of pairs of rows, of an adapter.

Each on 8 devices: the same with and without accumulation, and bit for bit the same after a resume.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.test_step import TOKENIZER, assert_same_training, rows_of_text

from dlms_jax.config import CheckpointConfig, MeshConfig
from dlms_jax.denoiser import make_denoiser, make_network, vocabulary_of
from dlms_jax.diffusion import Loss, make_objective, shifted
from dlms_jax.parallel.mesh import make_mesh, replicated, to_global
from dlms_jax.runtime.checkpoint_manager import Checkpoints
from dlms_jax.testing import small_config
from dlms_jax.training.first_weights import random_params
from dlms_jax.training.frozen import describe_frozen
from dlms_jax.training.optimizer import make_optimizer
from dlms_jax.training.pretraining import as_batch
from dlms_jax.training.state import abstract_state, sharded_state
from dlms_jax.training.step import make_train_step

VOCABULARY = vocabulary_of(TOKENIZER)
ROWS = rows_of_text(32)


class Setting:
    """A small network on a mesh of 8 devices, whose weights are functions of a seed."""

    def __init__(self, name):
        self.mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
        self.config = small_config(objective__name=name)
        self.objective = make_objective(self.config, VOCABULARY)
        self.network = make_network(self.config, VOCABULARY.padded_size, self.mesh)

    def params(self, seed):
        return random_params(self.network, self.mesh, seed)

    def denoiser(self, params):
        return make_denoiser(self.config, self.network, params, self.objective, self.mesh)

    def train(self, folder, loss_fn, frozen, batch, params, prepare):
        """Returns the metrics of three steps; checks what every loss must keep to. params: makes
        the weights at step 0."""
        runs, batch = [], to_global(batch, self.mesh)
        for accumulation in (1, 2):
            config = dataclasses.replace(self.config.training, accumulation_steps=accumulation)
            tx = make_optimizer(self.config.optimizer, config.steps)
            abstract = abstract_state(config, tx, self.mesh, params())
            step = make_train_step(config, loss_fn, tx, self.mesh, abstract, frozen, prepare)
            state, history = sharded_state(config, tx, self.mesh, params()), []
            checkpoints = Checkpoints(folder / str(accumulation), CheckpointConfig(), print)
            for number in range(3):
                state, metrics = step(state, frozen, batch)
                history.append(jax.device_get(metrics))
                if number == 0:
                    checkpoints.save(1, state, {"frozen": describe_frozen("there", frozen)}, None)
            again, metadata = checkpoints.restore_latest(abstract)
            for _ in range(2):
                again, metrics = step(again, frozen, batch)
            checkpoints.finish()
            jax.tree.map(np.testing.assert_array_equal, *jax.device_get((again, state)))
            assert metadata["frozen"] == describe_frozen("there", frozen)
            assert step._cache_size() == 1  # nothing of `frozen` is a constant of the program
            runs.append((jax.device_get(state.params), history))
        assert_same_training(*runs)
        return runs[0][1]


def test_distillation_from_a_frozen_teacher(tmp_path):
    """KL(teacher || student) at the masks; 0 where they are one."""
    setting = Setting("masked")
    objective = setting.objective

    def loss_fn(params, frozen, batch, key, step):
        t_BxL = objective.draw_times(batch, key)
        inputs_BxL, t_BxL, hidden_BxL = objective.corrupt(batch, t_BxL, key)
        student, teacher = (
            jax.nn.log_softmax(setting.denoiser(p).logits(inputs_BxL, t_BxL, batch.layout))
            for p in (params, frozen)
        )
        kl_BxL = jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
        hidden = jnp.sum(hidden_BxL)
        return Loss(jnp.sum(kl_BxL * batch.weights_BxL * hidden_BxL), hidden, {"masked": hidden})

    rows, teacher = ROWS.take(slice(16)), setting.params(1)
    student = lambda: setting.params(2)  # noqa: E731
    history = setting.train(tmp_path, loss_fn, teacher, rows, student, as_batch)
    assert history[0]["loss"] > history[2]["loss"] > 1e-4 and history[0]["masked"] == 1
    batch = as_batch(to_global(rows, setting.mesh))
    same = jax.jit(loss_fn)(teacher, teacher, batch, jax.random.key(0), 0)
    assert abs(same.total / same.count) < 1e-6 and same.count > 100


def test_preference_on_pairs_of_rows_with_a_frozen_reference(tmp_path):
    """DPO (arXiv 2305.18290): -log sigmoid(margin of the log-ratios), log 2 at the reference."""
    setting, reference = Setting("autoregressive"), 3

    def log_p(params, batch):
        logits_BxLxV = shifted(setting.denoiser(params)).logits(
            batch.tokens_BxL, jnp.zeros(batch.tokens_BxL.shape), batch.layout
        )
        log_p_BxLxV = jax.nn.log_softmax(logits_BxLxV)
        log_p_BxL = jnp.take_along_axis(log_p_BxLxV, batch.tokens_BxL[..., None], axis=-1)[..., 0]
        return jnp.sum(batch.weights_BxL * log_p_BxL, axis=1)

    def loss_fn(params, frozen, pairs, key, step):
        chosen_B, rejected_B = (log_p(params, batch) - log_p(frozen, batch) for batch in pairs)
        losses_B = -jax.nn.log_sigmoid(chosen_B - rejected_B)
        right = jnp.sum(chosen_B > rejected_B)
        return Loss(jnp.sum(losses_B), jnp.int32(len(losses_B)), {"right": right})

    pairs = ROWS.take(slice(16)), ROWS.take(slice(16, 32))
    history = setting.train(
        tmp_path, loss_fn, setting.params(reference), pairs, lambda: setting.params(reference),
        lambda pairs: tuple(map(as_batch, pairs)),
    )  # fmt: skip
    assert history[0]["loss"] == pytest.approx(np.log(2)) and history[2]["loss"] < 0.3
    assert history[2]["right"] == 1


def test_one_low_rank_adapter_on_a_frozen_base(tmp_path):
    """Of W + A B only B is trained; at B = 0 the loss is the base's."""
    setting = Setting("masked")
    a_DxR = jax.device_put(np.random.default_rng(0).normal(size=(32, 4)), replicated(setting.mesh))
    frozen = {"base": setting.params(1), "a": a_DxR.astype(jnp.float32)}

    def loss_fn(params, frozen, batch, key, step):
        base = frozen["base"]
        kernel = base["lm_head"]["kernel"] + frozen["a"] @ params["lm_head"]["kernel"]
        merged = base | {"lm_head": {"kernel": kernel}}
        return setting.objective.loss(setting.denoiser(merged), batch, key, step)

    def adapter():
        shape = jax.ShapeDtypeStruct((4, VOCABULARY.padded_size), jnp.float32)
        sharding = jax.tree.map(lambda x: x.sharding, frozen["base"]["lm_head"])["kernel"]
        return {"lm_head": {"kernel": jnp.zeros_like(shape, device=sharding)}}

    rows = ROWS.take(slice(16))
    history = setting.train(tmp_path, loss_fn, frozen, rows, adapter, as_batch)
    batch, key = as_batch(to_global(rows, setting.mesh)), jax.random.key(0)
    base = jax.jit(lambda p: setting.objective.loss(
        setting.denoiser(p), batch, jax.random.fold_in(key, 0)).total / batch.num_scored
    )(frozen["base"])  # fmt: skip
    assert history[0]["loss"] == pytest.approx(float(base), rel=1e-5)
    assert history[2]["loss"] != history[0]["loss"]


def test_frozen_weights_are_known_by_their_path_and_every_bit():
    mesh, tree = make_mesh(MeshConfig(data=8)), {"b": jnp.arange(16.0), "a": {"c": jnp.ones(8)}}
    described = describe_frozen("runs/teacher/checkpoints/3", tree)
    assert described["path"] == "runs/teacher/checkpoints/3"
    assert describe_frozen(described["path"], to_global(tree, mesh)) == described
    assert describe_frozen(described["path"], dict(reversed(tree.items()))) == described
    others = (
        tree | {"b": tree["b"].at[3].add(1e-6)}, {"b": tree["b"], "a": {"d": jnp.ones(8)}},
        tree | {"b": tree["b"].reshape(2, 8)}, tree | {"b": tree["b"].astype(jnp.bfloat16)},
    )  # fmt: skip
    assert len({describe_frozen("", x)["sha256"] for x in (tree, *others)}) == 5
