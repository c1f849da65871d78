"""Learning-rate schedules, what weight decay touches, and Muon on scanned kernels."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlms_jax.config import GaussianConfig, ModelConfig, OptimizerConfig
from dlms_jax.denoiser import initial_params
from dlms_jax.diffusion import Layout
from dlms_jax.models import Transformer
from dlms_jax.models.unet import UNet
from dlms_jax.parallel.rules import path_string
from dlms_jax.training.optimizer import (
    decay_mask,
    learning_rate,
    make_optimizer,
    muon_or_adam,
)

N, D, F = 3, 8, 12
PARAMS = {
    "embed": {"embedding": jnp.ones((16, D)), "schedule": jnp.ones(7)},
    "layers": {
        "attn": {"q_proj": {"kernel": jnp.ones((N, D, F)), "bias": jnp.ones((N, F))}},
        "attn_modulation": {"proj": {"kernel": jnp.ones((N, 4, D))}},
        "attn_norm": {"scale": jnp.ones((N, D))},
    },
    "lm_head": {"kernel": jnp.ones((D, 16))},
    "up_0_0": {"in_conv": {"kernel": jnp.ones((D, F))}},
}
GRADS = jax.tree.map(
    lambda x, k: jax.random.normal(k, x.shape),
    PARAMS,
    jax.tree.unflatten(jax.tree.structure(PARAMS), list(jax.random.split(jax.random.key(0), 8))),
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
        "embed": {"embedding": False, "schedule": False},
        "layers": {
            "attn": {"q_proj": {"kernel": True, "bias": False}}, "attn_norm": {"scale": False},
            "attn_modulation": {"proj": {"kernel": True}},
        },
        "lm_head": {"kernel": True},
        "up_0_0": {"in_conv": {"kernel": True}},
    }  # fmt: skip


ATTENTION = {f"attn/{name}_proj" for name in "qkvo"}
LAYER = ATTENTION | {f"mlp/{name}_proj" for name in ("gate", "up", "down")}
BLOCK = ATTENTION | {"in_conv", "out_conv"}
HIDDEN = {
    "transformer": {f"layers/{name}" for name in LAYER | {f"cross_{name}" for name in ATTENTION}}
    | {f"source_layers/{name}" for name in LAYER},
    "unet": {f"{part}/{name}" for part in ("down", "mid", "up") for name in BLOCK}
    | {"up/merge", "shorten", "lengthen"},
}


@pytest.mark.parametrize("gaussian", [None, GaussianConfig(embedding_size=8)])
@pytest.mark.parametrize("network", [Transformer, UNet])
def test_every_parameter_of_a_network_is_in_its_group(network, gaussian):
    """Muon has the hidden matrices; decay pulls at all matrices and at nothing else."""
    name = network.__name__.lower()
    encoder = "cross_attention" if name == "transformer" else "none"
    config = ModelConfig(
        name=name, width=32, num_layers=2, num_heads=4, feed_forward=48, qkv_bias=True, classes=2,
        conditioning="adaln_zero", prompt_encoder=encoder, unet_levels=2, unet_blocks=1,
    )  # fmt: skip
    model = network(config, 128, gaussian=gaussian, schedule_size=5 if gaussian else 0)
    params = jax.eval_shape(lambda: initial_params(model, jax.random.key(0)))

    def chosen(tree, value):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {path_string(path) for path, leaf in leaves if leaf == value}

    muon = chosen(muon_or_adam(params), "muon")
    assert {re.sub(r"_\d+", "", path).removesuffix("/kernel") for path in muon} == HIDDEN[name]
    decayed = chosen(decay_mask(params), True)
    kernels = {path for path in chosen(jax.tree.map(lambda _: 1, params), 1) if "kernel" in path}
    assert decayed == kernels and decayed > muon
    outside = {re.sub(r"/.*", "", path) for path in decayed - muon if "modulation" not in path}
    assert outside == {"conditioning", "lm_head"} | ({"embed"} if gaussian else set())


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


def test_muon_orthogonalises_a_matrix_without_a_layer_axis():
    update = one_update(name="muon")["up_0_0"]["in_conv"]["kernel"]
    alone, params = optax.contrib.muon(0.1), PARAMS["up_0_0"]["in_conv"]["kernel"]
    expected, _ = alone.update(GRADS["up_0_0"]["in_conv"]["kernel"], alone.init(params), params)
    np.testing.assert_allclose(update, expected, rtol=1e-4, atol=1e-6)


def test_muon_leaves_the_rest_to_adam():
    muon, adam = one_update(name="muon"), one_update(name="adamw")
    same = jax.tree.map(lambda a, b: bool((a == b).all()), muon, adam)
    assert same == {
        "embed": {"embedding": True, "schedule": True},
        "layers": {
            "attn": {"q_proj": {"kernel": False, "bias": True}}, "attn_norm": {"scale": True},
            "attn_modulation": {"proj": {"kernel": True}},
        },
        "lm_head": {"kernel": True},
        "up_0_0": {"in_conv": {"kernel": False}},
    }  # fmt: skip


def test_one_update_of_muon_is_the_same_whether_layers_run_as_a_scan_or_unrolled():
    config = OptimizerConfig("muon", warmup_steps=0, peak_learning_rate=1e-2, epsilon=1e-4)
    tx = make_optimizer(config, 10)
    tokens, segments = jnp.arange(16).reshape(2, 8), jnp.ones((2, 8), jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(8), (2, 8))
    layout = Layout(segments, positions, positions == 3, None)

    def update(scan):
        model = Transformer(
            ModelConfig(
                width=32, num_layers=2, num_heads=4, feed_forward=48, dtype="float32",
                scan_layers=scan, conditioning="film", conditioning_size=16,
            ), 128,
        )  # fmt: skip

        def loss(params):
            logits = model.apply({"params": params}, tokens, positions / 8, layout, "full")
            return jnp.mean(jax.nn.log_softmax(logits)[..., 0])

        def step(key):
            params = initial_params(model, key)
            return tx.update(jax.grad(loss)(params), tx.init(params), params)[0]

        return jax.tree.leaves(jax.jit(step)(jax.random.key(0)))

    for one, other in zip(update(True), update(False), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * float(jnp.abs(other).max()))


def test_clipping_scales_the_whole_gradient():
    config = OptimizerConfig(
        name="adamw", clip_norm=1e-3, epsilon=1.0, warmup_steps=0,
        schedule="constant", peak_learning_rate=1.0, weight_decay=0.0,
    )  # fmt: skip
    tx = make_optimizer(config, 10)
    update, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    # With epsilon far above the gradient, Adam's first update is -rate * gradient.
    assert optax.tree.norm(update) == pytest.approx(1e-3, rel=0.01)
