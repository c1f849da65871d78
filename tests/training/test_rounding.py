"""Moments in bfloat16: unbiased, moving where rounding to the nearest stands still."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlms_jax.config import OptimizerConfig
from dlms_jax.training.optimizer import make_optimizer
from dlms_jax.training.rounding import in_bfloat16, round_by_chance

PARAMS = {
    "layers": {"mlp": {"up_proj": {"kernel": jnp.ones((2, 8, 12))}}},
    "embed": {"embedding": jnp.ones((16, 8))},
}


def test_rounding_is_to_a_neighbour_and_right_on_average():
    x = jnp.array([1.001, -3.14159, 1e-30, 1e30, 0.0, 2.0, 1.0 + 2.0**-9])
    draws = jax.vmap(lambda key: round_by_chance(x, key))(jax.random.split(jax.random.key(0), 4000))
    assert draws.dtype == jnp.bfloat16
    draws = np.asarray(draws, np.float64)
    for column, value in zip(draws.T, np.asarray(x, np.float64), strict=True):
        values = np.unique(column)
        assert len(values) <= 2 and values.min() <= value <= values.max()
        error = max(np.std(column) / np.sqrt(len(column)), 1e-300)
        assert abs(column.mean() - value) < 4.5 * error + 1e-12 * abs(value)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_stays(value):
    np.testing.assert_array_equal(
        np.asarray(round_by_chance(jnp.full(64, value), jax.random.key(0)), np.float32),
        np.full(64, value, np.float32),
    )


def test_a_slow_second_moment_moves_where_the_nearest_stands_still():
    """1 drifts towards 0.5 by a thousandth of the rest a step: less than half a last bit."""
    stochastic = jnp.ones(4096, jnp.bfloat16)
    nearest = jnp.ones(4096, jnp.bfloat16)
    move = lambda x: 0.999 * x.astype(jnp.float32) + 0.001 * 0.5  # noqa: E731
    step = jax.jit(lambda x, n: round_by_chance(move(x), jax.random.fold_in(jax.random.key(1), n)))
    for number in range(300):
        stochastic = step(stochastic, number)
        nearest = move(nearest).astype(jnp.bfloat16)
    expected = 0.5 + 0.5 * 0.999**300
    assert float(jnp.mean(stochastic.astype(jnp.float32))) == pytest.approx(expected, abs=2e-3)
    assert float(nearest[0]) == 1.0


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_all_moments_are_bfloat16_and_the_draw_is_the_seeds_and_the_steps(name):
    config = OptimizerConfig(name, warmup_steps=0, moments="bfloat16")

    def run(seed):
        tx = make_optimizer(config, 10, seed)
        state, key = tx.init(PARAMS), jax.random.key(3)
        for number in range(2):
            grads = jax.tree.map(
                lambda x, n=number: jax.random.normal(jax.random.fold_in(key, n), x.shape), PARAMS
            )
            updates, state = jax.jit(tx.update)(grads, state, PARAMS)
        return updates, state

    updates, state = run(0)
    assert {x.dtype for x in jax.tree.leaves(updates)} == {np.dtype(np.float32)}
    kinds = {x.dtype.name for x in jax.tree.leaves(state) if x.ndim > 1}
    assert kinds == {"bfloat16"}
    jax.tree.map(np.testing.assert_array_equal, run(0), (updates, state))
    other = jax.tree.leaves(run(1)[1])
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(state), other, strict=True))


def test_it_learns_as_float32_does():
    """Least squares by Adam with b2=0.999: both come down, and stay together."""
    key = jax.random.key(0)
    a, truth = jax.random.normal(key, (64, 16)), jnp.arange(16.0) / 8
    loss = lambda w: jnp.mean((a @ (w - truth)) ** 2)  # noqa: E731

    def losses(tx):
        @jax.jit
        def step(w, state):
            value, grad = jax.value_and_grad(loss)(w)
            updates, state = tx.update(grad, state, w)
            return optax.apply_updates(w, updates), state, value

        w = jnp.zeros(16)
        state, history = tx.init(w), []
        for _ in range(300):
            w, state, value = step(w, state)
            history.append(float(value))
        return np.array(history)

    adam = optax.adam(0.01, 0.9, 0.999)
    exact, rounded = losses(adam), losses(in_bfloat16(adam, 0))
    assert exact[-1] < 0.02 * exact[0]
    np.testing.assert_allclose(np.sqrt(rounded), np.sqrt(exact), atol=0.02 * np.sqrt(exact[0]))
