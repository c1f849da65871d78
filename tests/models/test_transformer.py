"""The network: isolation of documents, causality, equal forms of one computation, sizes."""

import jax
import jax.numpy as jnp
from models.small import (
    ROWS,
    L,
    forward,
    initial,
    network,
    packed,
    times_of,
    tokens_of,
    with_change,
)
import numpy as np
import pytest

from dlms_jax.diffusion import Layout
from dlms_jax.models import Transformer, count_parameters, head_kernel_DxV, train_flops
from dlms_jax.models.layers import rotary_angles, rotate
from dlms_jax.testing import small_config

LAYOUT = packed(((5, 5), (9, 1), (12,)))
TOKENS, TIMES = tokens_of(LAYOUT), times_of(LAYOUT)


@pytest.mark.parametrize("attention", ["full", "causal"])
def test_documents_are_isolated_bit_for_bit(attention):
    """Another document in the row changes neither a document's logits nor sends it a gradient."""
    model, params = network()
    apply = forward(model, params, attention)
    other = TOKENS.copy()
    other[0, 5:] = 3
    logits, changed = (np.asarray(apply(x, TIMES, LAYOUT)) for x in (TOKENS, other))
    np.testing.assert_array_equal(logits[0, :5], changed[0, :5])
    np.testing.assert_array_equal(logits[1:], changed[1:])
    assert not np.array_equal(logits[0, 5:10], changed[0, 5:10])


def test_documents_send_each_other_no_gradient():
    model, params = network()

    def first_document(embedding):
        p = params | {"embed": {"embedding": embedding}}
        tokens = jnp.arange(L)[None] + jnp.zeros((3, 1), int)  # a symbol a position: the table's
        return model.apply({"params": p}, tokens, TIMES, LAYOUT, "full")[0, 4].sum()  # rows tell

    gradient = np.abs(jax.jit(jax.grad(first_document))(params["embed"]["embedding"]))
    assert (gradient[:5].max(axis=1) > 0).all()
    assert (gradient[5:] == 0).all()


def test_causal_attention_sees_nothing_later_and_full_attention_does():
    model, params = network()

    def both(attention):
        apply = forward(model, params, attention)
        return (np.asarray(apply(x, TIMES, LAYOUT))[0, :4] for x in (TOKENS, changed))

    changed = with_change(TOKENS, (0, 4))
    np.testing.assert_array_equal(*both("causal"))
    assert np.not_equal(*both("full")).any(axis=-1).all()


def test_a_documents_logits_do_not_depend_on_its_place_in_the_row():
    """Positions count from the document's start, so a packed document is as one alone."""
    model, params = network()
    packed_alike = np.asarray(forward(model, params)(TOKENS, TIMES, LAYOUT))[0, 5:10]
    alone = forward(model, params)(TOKENS[:1, 5:10], TIMES[:1, 5:10], packed(((5,),), 5))[0]
    np.testing.assert_allclose(packed_alike, alone, rtol=1e-5, atol=1e-5)


def test_scan_and_remat_change_nothing():
    """With time and a source, so that every kind of layer is there."""
    heard = (LAYOUT.segments_BxL > 0) & ~LAYOUT.prompt_mask_BxL

    def gradient(**settings):
        model, params = network(conditioning="film", prompt_encoder="cross_attention", **settings)

        def loss(p):
            logits = model.apply({"params": p}, TOKENS, TIMES, LAYOUT, "full")
            return jnp.sum(jnp.where(heard[..., None], jax.nn.log_softmax(logits), 0)[..., 0])

        return jax.tree.leaves(jax.jit(jax.grad(loss))(params))

    expected = gradient()
    for scan, remat in ((True, "dots"), (False, "full"), (True, "offload")):
        for g, e in zip(gradient(scan_layers=scan, remat=remat), expected, strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-3, atol=1e-5 * float(np.abs(e).max()))


def test_grouped_queries_are_full_attention_with_repeated_keys_and_values():
    model, params = network()
    full, _ = network(num_kv_heads=4)
    attn = params["layers"]["attn"]

    def repeat(kernel_NxDxO):
        n, d, _ = kernel_NxDxO.shape
        return np.repeat(kernel_NxDxO.reshape(n, d, 2, 8), 2, axis=2).reshape(n, d, 32)

    repeated = attn | {k: {"kernel": repeat(attn[k]["kernel"])} for k in ("k_proj", "v_proj")}
    p = params | {"layers": params["layers"] | {"attn": repeated}}
    np.testing.assert_allclose(
        forward(full, p)(TOKENS, TIMES, LAYOUT),
        forward(model, params)(TOKENS, TIMES, LAYOUT), rtol=1e-4, atol=1e-4,
    )  # fmt: skip


def test_rotary_products_depend_on_the_distance_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 8))

    @jax.jit
    def turned(x, position):
        return rotate(x[None, None, None], rotary_angles(position[None, None], 8, 1e4))

    def product(i, j):
        return float(np.vdot(turned(q, i), turned(k, j)))

    assert product(3, 1) == pytest.approx(product(103, 101), rel=1e-4)
    assert product(3, 1) != pytest.approx(product(3, 2), rel=1e-2)


@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_the_heads_kernel_times_the_features(tied):
    model, params = network(tie_embeddings=tied)
    kernel = head_kernel_DxV(params)
    assert kernel.shape == (32, ROWS) and ("lm_head" in params) != tied
    h = np.asarray(forward(model, params, method="features")(TOKENS, TIMES, LAYOUT))
    logits = forward(model, params)(TOKENS, TIMES, LAYOUT)
    np.testing.assert_allclose(h @ kernel, logits, rtol=1e-4, atol=1e-4)


GAUSSIAN = {"objective__name": "gaussian", "gaussian__embedding_size": 24}
CROSS = {"model__prompt_encoder": "cross_attention", "model__prompt_encoder_layers": 3}
FILM = {"model__conditioning": "film", "model__conditioning_size": 16}
ADALN = FILM | {"model__conditioning": "adaln_zero", "model__classes": 2,
                "data__mixture": {"a": 1.0, "b": 1.0}}  # fmt: skip
SIZES = [
    {}, {"model__tie_embeddings": True}, {"model__qk_norm": False}, {"model__head_size": 6},
    FILM, ADALN, CROSS, ADALN | CROSS | {"model__qkv_bias": True}, GAUSSIAN,
    GAUSSIAN | {"gaussian__head": "embedding", "gaussian__self_conditioning": False} | CROSS | FILM,
]  # fmt: skip


@pytest.mark.parametrize("settings", SIZES)
def test_parameter_formula_counts_what_is_there(settings):
    config = small_config(**settings)
    gaussian = config.gaussian if config.objective.name == "gaussian" else None
    model = Transformer(config.model, ROWS, gaussian=gaussian, schedule_size=7 * bool(gaussian))
    sizes = jax.tree.map(lambda x: x.size, initial(model, jax.eval_shape))
    counted = count_parameters(config, ROWS, schedule_size=7 * bool(gaussian))
    assert counted == sum(jax.tree.leaves(sizes))


@pytest.mark.parametrize(
    "settings",
    [{}, FILM | CROSS, ADALN | GAUSSIAN | {"gaussian__head": "embedding"}],
)
def test_flops_formula_agrees_with_the_compiler_on_an_unrolled_network(settings):
    """The compiler also counts norms, softmax, rotations and modulations, element by element."""
    length = 64
    config = small_config(
        model__scan_layers=False,
        model__width=64,
        model__feed_forward=128,
        **{"objective__name": "uniform"} | settings,  # which needs all logits
    )
    gaussian = config.gaussian if config.objective.name == "gaussian" else None
    model = Transformer(config.model, ROWS, gaussian=gaussian)
    x = np.zeros((1, length), np.int32)
    layout = Layout(x + 1, x, x > 0, x[:, 0])
    inputs = x if gaussian is None else np.zeros((2, 1, length, 24), np.float32)
    t = x.astype(np.float32)
    forward = jax.jit(lambda p: model.apply({"params": p}, inputs, t, layout, "full"))
    compiled = forward.lower(initial(model, jax.eval_shape)).compile()
    formula = length * train_flops(config, ROWS, length) / 3
    assert compiled.cost_analysis()["flops"] == pytest.approx(formula, rel=0.15)


def test_flops_of_training_on_noisy_and_clean_text_together():
    """Twice the matrices of masked diffusion and the pairs of the block mask; one head."""
    config = {
        name: small_config(objective__name=name, block__size=4) for name in ("masked", "block")
    }
    m, length = config["masked"].model, 24
    pair = 6 * m.num_layers * 2 * m.num_heads * m.per_head
    head = 6 * 0.5 * m.width * ROWS
    masked, block = (train_flops(config[name], ROWS, length) - head for name in config)
    assert block == 2 * (masked - pair * length) + pair * (length + 4)
