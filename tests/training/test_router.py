"""What routers add to a training step: under every objective, with either head, beside Muon."""

import jax
import numpy as np
import optax
import pytest
from training.test_step import after, assert_same_training, build, rows_of_text

from dlms_jax.denoiser import abstract_params, make_denoiser, make_network
from dlms_jax.models import RouterSums
from dlms_jax.parallel.mesh import to_global
from dlms_jax.testing import small_config
from dlms_jax.training.optimizer import make_optimizer, muon_or_adam
from dlms_jax.training.pretraining import as_batch
from dlms_jax.training.router import METRICS, router_loss, router_metrics

MOE = dict(model__experts=4, model__experts_per_token=2, model__expert_feed_forward=24)
SUMS = RouterSums(
    np.array([[6.0, 2.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0]]), np.array([8.0, 4.0]),
    np.array([2.0, 6.0]), np.array([1.0, 0.0]), np.array([4.0, 4.0]),
)  # fmt: skip


def test_metrics_by_hand():
    found = router_metrics(SUMS)
    assert list(found) == list(METRICS)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25)) / np.log(4)
    expected = (12 / 8, 8 / 8, 0.75, (entropy + 1) / 2, 1 / 8)
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-6)
    config = small_config(**MOE, model__load_balance_weight=0.5, model__z_loss_weight=0.25).model
    assert router_loss(config, SUMS) == pytest.approx(0.5 * 6 + 0.25 * 4)
    assert router_metrics(None) == {} and router_loss(config, None) == 0


def test_the_loss_has_the_routers_parts_over_all_tokens_that_are_routed():
    """Whatever share of the tokens is scored."""
    settings = dict(model__load_balance_weight=0.5, model__z_loss_weight=0.25, **MOE)
    rows = rows_of_text()
    rows = rows._replace(loss_mask_RxL=rows.loss_mask_RxL & (np.arange(32) % 3 == 0)[None])
    state, step, objective, mesh = build(**settings)
    config = small_config(training__batch_size=16, **settings)
    model = make_network(config, objective.vocabulary.padded_size, mesh)

    @jax.jit
    def alone(params, batch):
        denoise = make_denoiser(config, model, params, objective, mesh)
        key = jax.random.fold_in(jax.random.key(0), 0)
        return objective.loss(denoise, batch, key).total / batch.num_scored

    expected = float(alone(state.params, as_batch(to_global(rows, mesh))))
    metrics = jax.tree.map(float, step(state, (), to_global(rows, mesh))[1])
    added = 0.5 * metrics["load_balance"] + 0.25 * metrics["router_z"]
    assert metrics["loss"] == pytest.approx(expected + added, rel=1e-5)
    assert metrics["unrouted"] == 0 and 0.25 <= metrics["busiest_expert"] <= 0.5


OBJECTIVES = {
    "autoregressive, plain head": dict(
        objective__name="autoregressive", training__loss_implementation="plain"
    ),
    "gaussian, first estimates": dict(objective__name="gaussian", gaussian__embedding_size=16),
    "uniform": dict(objective__name="uniform"),
    "block": dict(objective__name="block", block__size=4),
    "experts choose": dict(model__routing="expert_choice"),
}


@pytest.mark.parametrize(
    "name",
    [
        name if name.startswith("gaussian") else pytest.param(name, marks=pytest.mark.slow)
        for name in OBJECTIVES
    ],
)
def test_every_objective_trains_the_routers_and_is_the_same_accumulated(name):
    settings = OBJECTIVES[name] | MOE
    one = after(2, **settings)
    assert_same_training(after(2, training__accumulation_steps=2, **settings), one)
    assert all(np.isfinite(step["loss"]) for step in one[1])
    assert one[1][0]["router_z"] == pytest.approx(np.log(4) ** 2, rel=0.1)
    assert set(METRICS) <= set(one[1][0])


@pytest.mark.slow
def test_the_fused_head_trains_as_the_plain_one():
    assert_same_training(after(2, training__loss_implementation="plain", **MOE), after(2, **MOE))


def test_muon_takes_each_expert_for_a_matrix_and_leaves_the_router_to_adam():
    config = small_config(
        optimizer__name="muon", optimizer__weight_decay=0.0, optimizer__clip_norm=0.0, **MOE
    )
    shapes = abstract_params(config, 128)
    kinds = muon_or_adam(shapes)["layers"]["mlp"]
    assert kinds["gate"]["kernel"] == "adam" and kinds["experts"]["up_proj"]["kernel"] == "muon"
    rng = np.random.default_rng(0)
    grads = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    tx = make_optimizer(config.optimizer, 10)
    update = jax.jit(lambda g: tx.update(g, tx.init(g), g)[0])(grads)
    one = optax.contrib.muon(1.0)
    alone = jax.jit(lambda g: one.update(g, one.init(g), g)[0])
    for place in ((0, 0), (1, 3)):
        found = update["layers"]["mlp"]["experts"]["up_proj"]["kernel"][place]
        expected = alone({"m": grads["layers"]["mlp"]["experts"]["up_proj"]["kernel"][place]})["m"]
        np.testing.assert_allclose(
            found / np.linalg.norm(found), expected / np.linalg.norm(expected), atol=1e-4
        )
