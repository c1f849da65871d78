"""What is drawn from: guidance, temperature, cuts and draws against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampling.chains import cut
from scipy import stats

from dlms_jax.diffusion import Denoiser, Layout
from dlms_jax.sampling.guidance import predict
from dlms_jax.sampling.prediction import Prediction

P_RxS = np.random.default_rng(0).dirichlet(np.full(40, 0.3), size=6)


def log_softmax(x):
    return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.6},
        {"temperature": 1.7},
        {"top_k": 1},
        {"top_k": 7},
        {"top_p": 0.9},
        {"top_p": 0.05},
        {"temperature": 0.8, "top_k": 9, "top_p": 0.7},
    ],
)
def test_cuts_are_their_definitions(vocabulary, settings):
    log_p = Prediction(vocabulary, **settings).cut(jnp.log(jnp.asarray(P_RxS, jnp.float32)))
    expected = np.stack([cut(p_S, **settings) for p_S in P_RxS])
    np.testing.assert_allclose(np.exp(log_p), expected, rtol=2e-5, atol=1e-30)


def test_cuts_that_keep_all_change_nothing_and_sort_nothing(vocabulary):
    log_p = jnp.log(jnp.asarray(P_RxS, jnp.float32))
    for settings in ({}, {"temperature": 0.0, "top_k": 3, "top_p": 0.5}):
        prediction = Prediction(vocabulary, **settings)
        np.testing.assert_array_equal(prediction.cut(log_p), log_p)
        assert "sort" not in str(jax.make_jaxpr(prediction.cut)(log_p))
        assert "top_k" not in str(jax.make_jaxpr(prediction.cut)(log_p))
    for number in (40, 41, 1000):  # more than there are
        np.testing.assert_allclose(
            Prediction(vocabulary, top_k=number).cut(log_p), log_p, rtol=1e-5
        )


def test_the_likeliest_is_kept_however_small_top_p_and_ties_are_kept(vocabulary):
    p_S = jnp.array([0.1, 0.4, 0.1, 0.2, 0.2])
    one_hot = [0, 1, 0, 0, 0]
    for top_p in (1e-30, 0.39):
        np.testing.assert_allclose(
            jnp.exp(Prediction(vocabulary, top_p=top_p).cut(jnp.log(p_S))), one_hot, atol=1e-7
        )
    with_ties = [0, 0.5, 0, 0.25, 0.25]
    for settings in ({"top_k": 2}, {"top_k": 3}, {"top_p": 0.5}):
        log_p = Prediction(vocabulary, **settings).cut(jnp.log(p_S))
        np.testing.assert_allclose(jnp.exp(log_p), with_ties, atol=1e-6)


@pytest.mark.parametrize("temperature", [1e-30, 1e-3, 1e30])
def test_no_temperature_is_too_low_or_too_high(vocabulary, temperature):
    log_p_S = jnp.array([-0.7, -60.0, -jnp.inf, -0.8])
    p_S = jnp.exp(Prediction(vocabulary, temperature).cut(log_p_S))
    expected = [1 / 3, 1 / 3, 0, 1 / 3] if temperature > 1 else [1, 0, 0, 0]
    np.testing.assert_allclose(p_S, expected, atol=1e-6)


def fake_network(vocabulary, dtype=jnp.float32):
    """Returns (denoiser, shapes of its calls); its logits depend on all tokens, t and the class."""
    table_VxV = (
        np.random.default_rng(1).normal(size=(vocabulary.padded_size,) * 2).astype(np.float32)
    )
    calls = []

    def logits(tokens_BxL, t_BxL, layout):
        calls.append(tokens_BxL.shape)
        row_BxV = jnp.asarray(table_VxV)[tokens_BxL].sum(axis=1) * (1 + layout.class_B)[:, None]
        logits_BxLxV = row_BxV[:, None] * (1 + t_BxL)[..., None]
        return logits_BxLxV.astype(dtype)

    return Denoiser.from_logits(logits), calls


def log_p_of(prediction, denoise, *inputs):
    return prediction.log_p(*predict(denoise, prediction, *inputs))


def canvas_of(vocabulary):
    v = vocabulary
    tokens_BxL = jnp.array([[v.bos_id, 1, v.mask_id, 3], [v.bos_id, v.mask_id, 2, 0]])
    positions_BxL = jnp.tile(jnp.arange(4)[None], (2, 1))
    prompt_mask_BxL = (tokens_BxL != v.mask_id) & (positions_BxL > 0)
    prompt_mask_BxL = prompt_mask_BxL.at[0, 3].set(False)  # a hole that is filled is not given
    layout = Layout(jnp.ones_like(positions_BxL), positions_BxL, prompt_mask_BxL, jnp.array([2, 1]))
    return tokens_BxL, jnp.array([[0.3] * 4, [0.9] * 4]), layout


@pytest.mark.parametrize("w", [0.5, 2.0, 7.5, -1.0])
def test_guidance_is_its_formula_and_one_batch(vocabulary, w):
    """(1+w) log p(. | prompt, class) - w log p(. | prompt masked, no class), renormalised."""
    v, (denoise, calls) = vocabulary, fake_network(vocabulary)
    tokens_BxL, t_BxL, layout = canvas_of(v)
    guided = log_p_of(Prediction(v, guidance=w), denoise, tokens_BxL, t_BxL, layout)
    assert calls == [(4, 4)]

    without_BxL = jnp.array([[v.bos_id, v.mask_id, v.mask_id, 3], [v.bos_id] + [v.mask_id] * 3])
    without = layout._replace(class_B=jnp.zeros(2, jnp.int32))
    text = np.flatnonzero(v.text_bias_V() == 0)
    given, hidden = (
        log_softmax(np.asarray(denoise.logits(*inputs), np.float64)[..., text])
        for inputs in ((tokens_BxL, t_BxL, layout), (without_BxL, t_BxL, without))
    )
    expected = log_softmax((1 + w) * given - w * hidden)
    np.testing.assert_allclose(guided[..., text], expected, rtol=1e-4, atol=1e-4)
    others = np.setdiff1d(np.arange(v.padded_size), text)
    assert np.isneginf(guided[..., others]).all()
    if w == -1:  # the unconditional model itself
        np.testing.assert_allclose(guided[..., text], hidden, rtol=1e-4, atol=1e-4)


def test_guidance_comes_before_temperature_and_cuts(vocabulary):
    v, (denoise, _) = vocabulary, fake_network(vocabulary)
    settings = {"temperature": 0.7, "top_k": 4, "top_p": 0.8}
    log_p = log_p_of(Prediction(v, **settings, guidance=1.5), denoise, *canvas_of(v))
    guided = log_p_of(Prediction(v, guidance=1.5), denoise, *canvas_of(v))
    for at in np.ndindex(2, 4):
        expected = cut(np.exp(np.asarray(guided[at], np.float64)), **settings)
        np.testing.assert_allclose(np.exp(log_p[at]), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("w", [0.0, 1.0])
def test_bfloat16_logits_become_a_float32_distribution(vocabulary, w):
    denoise, _ = fake_network(vocabulary, jnp.bfloat16)
    prediction = Prediction(vocabulary, 0.9, 5, 0.95, w)
    log_p = log_p_of(prediction, denoise, *canvas_of(vocabulary))
    assert log_p.dtype == jnp.float32
    np.testing.assert_allclose(jnp.exp(log_p).sum(axis=-1), 1, rtol=1e-5)


@pytest.mark.slow
def test_rare_symbols_occur_at_their_rate(vocabulary):
    """100 symbols of probability 1e-6, which float32 noise must still tell from never."""
    log_p_V = jnp.log(jnp.concatenate([jnp.array([1 - 1e-4]), jnp.full(100, 1e-6)]))
    draw = Prediction(vocabulary).draw
    draws = jax.jit(lambda key: (draw(key, jnp.tile(log_p_V, (100_000, 1))) > 0).sum())
    rare = sum(int(draws(jax.random.key(i))) for i in range(10))
    assert stats.poisson.cdf(rare, 100) > 1e-3 and stats.poisson.sf(rare, 100) > 1e-3


def test_each_place_is_drawn_in_the_mode_of_the_finer_tail(vocabulary):
    """The default mode gives a symbol of probability 1e-7 half its due (its noise comes in steps of
    2^-23 of probability), which no test of a few seconds could tell by counting."""
    log_p_LxV = jnp.log(jnp.asarray(P_RxS, jnp.float32))
    key = jax.random.key(3)
    expected = [
        jax.random.categorical(jax.random.fold_in(key, at), log_p_V, mode="high")
        for at, log_p_V in enumerate(log_p_LxV)
    ]
    np.testing.assert_array_equal(Prediction(vocabulary).draw(key, log_p_LxV), expected)


def test_places_are_drawn_independently_and_whatever_comes_after_them(vocabulary):
    """Draws of a row must not depend on how far it is padded, as those of one call with
    mode="high" do."""
    log_p_V = jnp.log(jnp.asarray(P_RxS[0], jnp.float32))
    draw = Prediction(vocabulary).draw
    long_L = draw(jax.random.key(0), jnp.tile(log_p_V, (8_000, 1)))
    short_L = draw(jax.random.key(0), jnp.tile(log_p_V, (200, 1)))
    np.testing.assert_array_equal(short_L, long_L[:200])
    table = np.zeros((40, 40), int)
    np.add.at(table, (long_L[::2], long_L[1::2]), 1)
    often = P_RxS[0] > 0.02
    assert stats.chi2_contingency(table[often][:, often]).pvalue > 1e-3


def test_at_temperature_0_the_likeliest_is_drawn_of_equals_the_first(vocabulary):
    draw = Prediction(vocabulary, temperature=0.0).draw
    drawn = draw(jax.random.key(0), jnp.array([[-2.0, -1.0, -1.0], [-jnp.inf, -jnp.inf, 0.0]]))
    assert drawn.tolist() == [1, 2]
