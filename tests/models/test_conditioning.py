"""Time and class in the Transformer: against the reference, token by token, and at the start."""

import jax
import jax.numpy as jnp
from models.reference import logits, mask
from models.small import forward, initial, network, packed, times_of, tokens_of, with_change
import numpy as np
import pytest

from dlms_jax.models.conditioning import time_features

LAYOUT = packed()
TOKENS, TIMES = tokens_of(LAYOUT), times_of(LAYOUT)
# The Transformer without conditioning: names that releases and checkpoints rely on.
PLAIN = {
    "embed/embedding", "final_norm/scale", "lm_head/kernel", "layers/attn_norm/scale",
    "layers/mlp_norm/scale", "layers/attn/q_norm/scale", "layers/attn/k_norm/scale",
    *(f"layers/attn/{name}_proj/kernel" for name in "qkvo"),
    *(f"layers/mlp/{name}_proj/kernel" for name in ("gate", "up", "down")),
}  # fmt: skip


def paths(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}


@pytest.mark.parametrize(
    ("settings", "kind"),
    [({}, "causal"), ({"conditioning": "film", "qkv_bias": True, "qk_norm": False}, "full"),
     ({"conditioning": "adaln_zero", "classes": 2}, "full")],
)  # fmt: skip
def test_network_is_the_reference(settings, kind):
    model, params = network(**settings)
    found = forward(model, params, kind)(TOKENS, TIMES, LAYOUT)
    x_BxLxD = params["embed"]["embedding"][TOKENS]
    expected = logits(params, model.config, x_BxLxD, TIMES, LAYOUT, mask(LAYOUT, LAYOUT, kind))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_without_conditioning_time_and_class_do_not_enter():
    model, params = network()
    assert paths(params) == PLAIN
    apply = forward(model, params)
    other = LAYOUT._replace(class_B=LAYOUT.class_B + 1)
    np.testing.assert_array_equal(apply(TOKENS, TIMES, LAYOUT), apply(TOKENS, 1 - TIMES, other))


def test_film_begins_as_if_it_were_not_there():
    """The same parameters drawn, the same logits, at any time and in any class."""
    plain, _ = network()
    film, _ = network(conditioning="film", classes=2)
    params = initial(film)
    base = {name: params[name] for name in ("embed", "final_norm", "lm_head")}
    base["layers"] = {k: v for k, v in params["layers"].items() if "modulation" not in k}
    assert paths(base) == PLAIN
    jax.tree.map(np.testing.assert_array_equal, base, initial(plain))
    found = forward(film, params)(TOKENS, TIMES, LAYOUT)
    np.testing.assert_array_equal(found, forward(plain, base)(TOKENS, TIMES, LAYOUT))


def test_adaln_zero_begins_with_every_branch_closed():
    model, _ = network(conditioning="adaln_zero")
    params = initial(model)
    found = forward(model, params, method="features")(TOKENS, TIMES, LAYOUT)
    x = np.asarray(params["embed"]["embedding"])[TOKENS]
    expected = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + model.config.norm_epsilon)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_begins_at_zero_learns():
    """A closed branch hides its scale and shift; its gate has a gradient from the first step on."""
    model, _ = network(conditioning="adaln_zero", classes=2)
    params = initial(model)

    def loss(params):
        logits_BxLxV = model.apply({"params": params}, TOKENS, TIMES, LAYOUT, "full")
        return jnp.sum(jax.nn.log_softmax(logits_BxLxV)[..., 0])

    gradient = jax.jit(jax.grad(loss))(params)
    width = model.config.width
    for name in ("attn_modulation", "mlp_modulation"):
        gate_NxCxD = gradient["layers"][name]["proj"]["kernel"][..., 2 * width :]
        assert gate_NxCxD.shape[-1] == width and (np.abs(gate_NxCxD).max(axis=1) > 0).all()
    assert (np.abs(gradient["final_modulation"]["proj"]["kernel"]).max(axis=0) > 0).all()


def test_a_documents_times_reach_its_tokens_alone():
    model, params = network(conditioning="adaln_zero", classes=2)
    apply = forward(model, params)
    logits_BxLxV = np.asarray(apply(TOKENS, TIMES, LAYOUT))
    changed = np.asarray(apply(TOKENS, with_change(TIMES, (0, 6), -0.3), LAYOUT))
    np.testing.assert_array_equal(logits_BxLxV[1:], changed[1:])
    np.testing.assert_array_equal(logits_BxLxV[0, :5], changed[0, :5])
    assert (logits_BxLxV[0, 5:10] != changed[0, 5:10]).any(axis=-1).all()
    # By the token's own layers it changes more than by its neighbours': each has its own time.
    distance = np.abs(logits_BxLxV - changed)[0].mean(axis=-1)
    assert distance.argmax() == 6

    other = np.asarray(apply(TOKENS, TIMES, LAYOUT._replace(class_B=np.array([0, 2, 2]))))
    np.testing.assert_array_equal(logits_BxLxV[[0, 2]], other[[0, 2]])
    assert (logits_BxLxV[1] != other[1]).any(axis=-1).all()


def test_no_class_is_class_0():
    model, params = network(conditioning="adaln_zero", classes=2)
    apply = forward(model, params)
    none = np.asarray(apply(TOKENS, TIMES, LAYOUT._replace(class_B=None)))
    zero = apply(TOKENS, TIMES, LAYOUT._replace(class_B=np.zeros(3, np.int32)))
    np.testing.assert_array_equal(none, zero)
    assert (none[1] != apply(TOKENS, TIMES, LAYOUT)[1]).any()  # whose class is 1


def test_features_tell_all_times_apart():
    """Times 0.001 apart differ by a fair share of the features' size, as no two others coincide."""
    t = np.linspace(0, 1, 1001, dtype=np.float32)
    features = np.asarray(jax.jit(time_features)(t[None]))[0]
    distance = np.sqrt(np.maximum(2 * (0.5 - features @ features.T / features.shape[1]), 0))
    assert np.isfinite(features).all()
    assert np.diagonal(distance, 1).min() > 0.1
    assert (distance + 9 * np.eye(1001)).min() > 0.1


def test_bfloat16_is_float32_rounded():
    """To a few roundings of 2^-8 in each of some twenty operations, extreme times included."""
    model, params = network(conditioning="adaln_zero", classes=2)
    half, _ = network(conditioning="adaln_zero", classes=2, dtype="bfloat16")
    t_BxL = np.where(TIMES < 0.5, 0.0, 1.0).astype(np.float32)
    expected = np.asarray(forward(model, params)(TOKENS, t_BxL, LAYOUT))
    found = np.asarray(forward(half, params)(TOKENS, t_BxL, LAYOUT))
    assert found.dtype == np.float32
    error = np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean())
    assert 1e-4 < error < 0.05
