"""The network: isolation of documents, causality, equal forms of one computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlms_jax.config import ModelConfig
from dlms_jax.models import Transformer, count_parameters, head_kernel_DxV, train_flops
from dlms_jax.models.layers import rotary_angles, rotate

SMALL = dict(width=32, num_layers=2, num_heads=4, num_kv_heads=2, feed_forward=48, dtype="float32")
ROWS, L = 128, 12
SEGMENTS = jnp.asarray([[1] * 5 + [2] * 5 + [0] * 2])
POSITIONS = jnp.asarray([[*range(5), *range(5), 0, 0]])
TOKENS = jax.random.randint(jax.random.key(0), (1, L), 0, 100)


def network(**settings):
    model = Transformer(ModelConfig(**SMALL | settings), ROWS)
    params = model.init(jax.random.key(1), TOKENS, SEGMENTS, POSITIONS, "full")["params"]
    # At its initial scale the network hardly mixes positions, and equalities would say little.
    return model, jax.tree.map(lambda x: x * 8 if x.ndim == 3 else x, params)


@pytest.mark.parametrize("attention", ["full", "causal"])
def test_documents_are_isolated_bit_for_bit(attention):
    """Another document in the row changes neither a document's logits nor sends it a gradient."""
    model, params = network()
    apply = jax.jit(
        lambda tokens: model.apply({"params": params}, tokens, SEGMENTS, POSITIONS, attention)
    )
    logits = apply(TOKENS)
    changed = apply(TOKENS.at[0, 5:].set(3))
    np.testing.assert_array_equal(logits[0, :5], changed[0, :5])
    assert not np.array_equal(logits[0, 5:10], changed[0, 5:10])

    def first_document(embedding):
        p = params | {"embed": {"embedding": embedding}}
        tokens = jnp.arange(L)[None]  # one symbol a position, so that rows of the table tell which
        return model.apply({"params": p}, tokens, SEGMENTS, POSITIONS, attention)[0, 4].sum()

    gradient = jax.grad(first_document)(params["embed"]["embedding"])
    assert (np.abs(gradient[:5]).max(axis=1) > 0).all()
    assert (gradient[5:] == 0).all()


def test_causal_attention_sees_nothing_later_and_full_attention_does():
    model, params = network()

    def apply(tokens, attention):
        return model.apply({"params": params}, tokens, SEGMENTS, POSITIONS, attention)

    changed = TOKENS.at[0, 4].add(1)
    np.testing.assert_array_equal(apply(TOKENS, "causal")[0, :4], apply(changed, "causal")[0, :4])
    assert (apply(TOKENS, "full")[0, :4] != apply(changed, "full")[0, :4]).any(axis=-1).all()


def test_a_documents_logits_do_not_depend_on_its_place_in_the_row():
    """Positions count from the document's start, so a packed document is as one alone."""
    model, params = network()
    apply = lambda *x: model.apply({"params": params}, *x, "full")  # noqa: E731
    packed = apply(TOKENS, SEGMENTS, POSITIONS)[0, 5:10]
    alone = apply(TOKENS[:, 5:10], jnp.ones((1, 5), jnp.int32), jnp.arange(5)[None])[0]
    np.testing.assert_allclose(packed, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("scan", "remat"), [(True, "dots"), (True, "full"), (False, "none"), (False, "full")]
)
def test_scan_and_remat_change_nothing(scan, remat):
    model, params = network()
    other, _ = network(scan_layers=scan, remat=remat)

    def loss(m):
        def f(p):
            logits = m.apply({"params": p}, TOKENS, SEGMENTS, POSITIONS, "full")
            return jnp.sum(jax.nn.log_softmax(logits)[..., 0])

        return jax.jit(jax.value_and_grad(f))(params)

    (value, gradient), (expected, expected_gradient) = loss(other), loss(model)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(
        lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-3, atol=1e-4),
        gradient,
        expected_gradient,
    )


def test_grouped_queries_are_full_attention_with_repeated_keys_and_values():
    model, params = network()
    full, _ = network(num_kv_heads=4)
    attn = params["layers"]["attn"]

    def repeat(kernel_NxDxO):
        n, d, _ = kernel_NxDxO.shape
        return jnp.repeat(kernel_NxDxO.reshape(n, d, 2, 8), 2, axis=2).reshape(n, d, 32)

    repeated = attn | {k: {"kernel": repeat(attn[k]["kernel"])} for k in ("k_proj", "v_proj")}
    p = params | {"layers": params["layers"] | {"attn": repeated}}
    np.testing.assert_allclose(
        full.apply({"params": p}, TOKENS, SEGMENTS, POSITIONS, "full"),
        model.apply({"params": params}, TOKENS, SEGMENTS, POSITIONS, "full"), rtol=1e-4, atol=1e-4,
    )  # fmt: skip


def test_rotary_products_depend_on_the_distance_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 8))

    def product(i, j):
        turn = lambda x, p: rotate(x[None, None, None], rotary_angles(jnp.array([[p]]), 8, 1e4))  # noqa: E731
        return float((turn(q, i) * turn(k, j)).sum())

    assert product(3, 1) == pytest.approx(product(103, 101), rel=1e-4)
    assert product(3, 1) != pytest.approx(product(3, 2), rel=1e-2)


@pytest.mark.parametrize(
    "settings",
    [{}, {"tie_embeddings": True}, {"qkv_bias": True}, {"qk_norm": False}, {"head_size": 6}],
)
def test_parameter_formula_counts_what_is_there(settings):
    model, params = network(**settings)
    assert count_parameters(model.config, ROWS) == sum(x.size for x in jax.tree.leaves(params))
    kernel = head_kernel_DxV(params)
    assert kernel.shape == (32, ROWS)
    h = model.apply({"params": params}, TOKENS, SEGMENTS, POSITIONS, "full", method="features")
    logits = model.apply({"params": params}, TOKENS, SEGMENTS, POSITIONS, "full")
    np.testing.assert_allclose(h @ kernel, logits, rtol=1e-4, atol=1e-5)


def test_flops_formula_agrees_with_the_compiler_on_an_unrolled_network():
    model, params = network(scan_layers=False, width=64, num_heads=4, feed_forward=128)
    length = 64
    x = jnp.zeros((1, length), jnp.int32)
    forward = jax.jit(lambda p: model.apply({"params": p}, x, x + 1, x, "full"))
    counted = forward.lower(params).compile().cost_analysis()["flops"]
    formula = length * train_flops(model.config, ROWS, length, "full", 1.0) / 3
    assert counted == pytest.approx(
        formula, rel=0.15
    )  # the compiler adds norms, softmax, rotations
