"""Learning-rate schedules, what weight decay touches, and Muon on scanned kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlms_jax.config import OptimizerConfig
from dlms_jax.training.optimizer import decay_mask, learning_rate, make_optimizer

N, D, F = 3, 8, 12
PARAMS = {
    "embed": {"embedding": jnp.ones((16, D))},
    "layers": {
        "attn": {"q_proj": {"kernel": jnp.ones((N, D, F)), "bias": jnp.ones((N, F))}},
        "attn_norm": {"scale": jnp.ones((N, D))},
    },
    "lm_head": {"kernel": jnp.ones((D, 16))},
}
GRADS = jax.tree.map(
    lambda x, k: jax.random.normal(k, x.shape),
    PARAMS,
    jax.tree.unflatten(jax.tree.structure(PARAMS), list(jax.random.split(jax.random.key(0), 5))),
)


def rates(steps=100, **settings):
    config = OptimizerConfig(peak_learning_rate=1.0, warmup_steps=10, **settings)
    rate = learning_rate(config, steps, config.peak_learning_rate)
    return np.array([float(rate(step)) for step in range(steps)])


@pytest.mark.parametrize("schedule", ["cosine", "constant", "wsd"])
def test_warm_up_starts_above_zero_and_reaches_the_peak(schedule):
    np.testing.assert_allclose(rates(schedule=schedule)[:10], np.arange(1, 11) / 10, rtol=1e-5)


def test_cosine_falls_to_the_final_fraction():
    r = rates(schedule="cosine", final_fraction=0.1)
    assert r[10] == pytest.approx(1) and r[55] == pytest.approx(0.55, abs=0.02)
    assert r[-1] == pytest.approx(0.1, abs=0.01) and (np.diff(r[10:]) < 0).all()


def test_constant_stays():
    assert (rates(schedule="constant")[10:] == 1).all()


def test_wsd_is_stable_then_falls_in_a_line():
    r = rates(schedule="wsd", decay_fraction=0.2, final_fraction=0.1)
    assert (r[10:80] == 1).all()
    assert r[90] == pytest.approx(0.55, abs=0.01) and r[-1] == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize("schedule", ["cosine", "constant", "wsd"])
def test_a_run_shorter_than_its_warm_up_is_finite(schedule):
    assert np.isfinite(rates(steps=3, schedule=schedule)).all()


def test_decay_touches_matrices_only():
    assert decay_mask(PARAMS) == {
        "embed": {"embedding": False},
        "layers": {
            "attn": {"q_proj": {"kernel": True, "bias": False}}, "attn_norm": {"scale": False},
        },
        "lm_head": {"kernel": True},
    }  # fmt: skip


def one_update(**settings):
    config = OptimizerConfig(
        peak_learning_rate=1e-2, muon_learning_rate=0.1, warmup_steps=0, schedule="constant",
        clip_norm=0.0, weight_decay=0.0, **settings,
    )  # fmt: skip
    tx = make_optimizer(config, 10)
    return tx.update(GRADS, tx.init(PARAMS), PARAMS)[0]


def test_muon_orthogonalises_each_layers_matrix_of_a_scanned_kernel():
    """Singular values of the update are near the rate (times Muon's shape factor), all of them, in
    every layer: Adam's would spread by a factor of ten, one product over layers would mix them."""
    update = np.asarray(one_update(name="muon")["layers"]["attn"]["q_proj"]["kernel"])
    singular = np.linalg.svd(update, compute_uv=False)
    factor = max(1, F / D) ** 0.5
    assert singular.shape == (N, D)
    assert (singular > 0.6 * 0.1 * factor).all() and (singular < 1.3 * 0.1 * factor).all()


def test_muon_on_a_scanned_kernel_is_muon_on_each_layers():
    update = one_update(name="muon")["layers"]["attn"]["q_proj"]["kernel"]
    alone = optax.contrib.muon(0.1)
    for layer in range(N):
        params = PARAMS["layers"]["attn"]["q_proj"]["kernel"][layer]
        grad = GRADS["layers"]["attn"]["q_proj"]["kernel"][layer]
        expected, _ = alone.update(grad, alone.init(params), params)
        np.testing.assert_allclose(update[layer], expected, rtol=1e-4, atol=1e-6)


def test_muon_leaves_the_rest_to_adam():
    muon, adam = one_update(name="muon"), one_update(name="adamw")
    for path in (("embed", "embedding"), ("lm_head", "kernel")):
        a, b = muon, adam
        for key in path:
            a, b = a[key], b[key]
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(
        muon["layers"]["attn"]["q_proj"]["bias"], adam["layers"]["attn"]["q_proj"]["bias"]
    )


def test_clipping_scales_the_whole_gradient():
    config = OptimizerConfig(
        name="adamw", clip_norm=1e-3, epsilon=1.0, warmup_steps=0,
        schedule="constant", peak_learning_rate=1.0, weight_decay=0.0,
    )  # fmt: skip
    tx = make_optimizer(config, 10)
    update, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    # With epsilon far above the gradient, Adam's first update is -rate * gradient.
    assert optax.tree.norm(update) == pytest.approx(1e-3, rel=0.01)
