"""Reading some positions at a time against a cache is reading all of them at once."""

import jax
import jax.numpy as jnp
from models.small import doubled, forward, network, packed, times_of, tokens_of, with_change
import numpy as np
import pytest

from dlms_jax.denoiser import make_denoiser, make_network
from dlms_jax.diffusion import make_objective
from dlms_jax.models import Transformer
from dlms_jax.testing import small_config

LAYOUT = packed(((12,), (7,), (4, 8)))
TOKENS, TIMES = tokens_of(LAYOUT), times_of(LAYOUT)
L = TOKENS.shape[1]
FILM = {"conditioning": "film", "classes": 2}


def empty(model):
    return jax.tree.map(np.asarray, model.empty_cache(*TOKENS.shape))


def at(start):
    """Returns start_B, the same for all rows."""
    return np.full(len(TOKENS), start, np.int32)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "settings",
    [FILM, {"scan_layers": False, "num_kv_heads": 4, "qk_norm": False, "qkv_bias": True},
     {"conditioning": "adaln_zero", "num_kv_heads": 1}],
)  # fmt: skip
def test_causal_steps_are_one_pass(settings):
    model, params = network(**settings)
    step, text_BxL = forward(model, params, "causal", "step"), LAYOUT.segments_BxL > 0
    expected = np.asarray(forward(model, params, "causal")(TOKENS, TIMES, LAYOUT))
    for chunk in (1, 3):
        cache, found = empty(model), []
        for start in range(0, L, chunk):
            now = slice(start, start + chunk)
            logits_BxCxV, cache = step(TOKENS[:, now], TIMES[:, now], LAYOUT, at(start), cache)
            found.append(logits_BxCxV)
        close(np.concatenate(found, axis=1)[text_BxL], expected[text_BxL])


def test_a_prefill_that_read_too_far_is_written_over():
    """As next-token sampling does: one pass over prompt and masks, then a position at a time."""
    model, params = network(**FILM)
    step = forward(model, params, "causal", "step")
    hidden_BxL = np.where(np.arange(L)[None] < 5, TOKENS, 99)
    _, cache = step(hidden_BxL, TIMES, LAYOUT, at(0), empty(model))
    expected = np.asarray(forward(model, params, "causal")(TOKENS, TIMES, LAYOUT))
    for start in range(5, L):
        now = slice(start, start + 1)
        logits_BxCxV, cache = step(TOKENS[:, now], TIMES[:, now], LAYOUT, at(start), cache)
        close(logits_BxCxV[0], expected[0, now])


@pytest.mark.parametrize(("settings", "kind"), [({}, "block"), (FILM, "block_causal")])
def test_blocks_with_a_cache_are_the_pass_of_training(settings, kind):
    """Each block noisy, then clean, against what was read; in training [x_t, x_0] in one pass."""
    model, params = network(**settings)
    layout, size = packed(((12,), (12,), (7,))), 4
    both = doubled(layout, size)
    noisy_BxL = tokens_of(layout, seed=1)
    inputs, t = np.concatenate([noisy_BxL, TOKENS], 1), np.concatenate([TIMES, 0 * TIMES], 1)
    expected = np.asarray(forward(model, params, kind)(inputs, t, both))

    step, cache = forward(model, params, kind, "step"), empty(model)
    for start in range(0, L, size):
        now = slice(start, start + size)

        def seen(finished):
            clean_BxL = np.broadcast_to(np.arange(L)[None] < finished, TOKENS.shape)
            return layout._replace(blocks_BxL=layout.positions_BxL // size, clean_BxL=clean_BxL)

        text_BxC = layout.segments_BxL[:, now] > 0
        denoised, cache = step(noisy_BxL[:, now], TIMES[:, now], seen(start), at(start), cache)
        close(np.asarray(denoised)[text_BxC], expected[:, now][text_BxC])
        clean, cache = step(TOKENS[:, now], 0 * TIMES[:, now], seen(start + size), at(start), cache)
        close(np.asarray(clean)[text_BxC], expected[:, L:][:, now][text_BxC])


def test_rows_and_positions_of_the_cache_are_their_own():
    """A step writes its positions alone, and what is in one row does not reach another."""
    model, params = network(**FILM)
    step = forward(model, params, "causal", "step")
    rng = np.random.default_rng(0)
    cache = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), empty(model))
    now = slice(4, 7)
    logits_BxCxV, new = jax.tree.map(
        np.asarray, step(TOKENS[:, now], TIMES[:, now], LAYOUT, at(4), cache)
    )
    for before, after in zip(cache, new, strict=True):
        np.testing.assert_array_equal(before[:, :, :4], after[:, :, :4])
        np.testing.assert_array_equal(before[:, :, 7:], after[:, :, 7:])
        assert (before[:, :, 4:7] != after[:, :, 4:7]).all()

    other = jax.tree.map(lambda x: with_change(x, (slice(None), 0)), cache)
    tokens_BxL, t_BxL = with_change(TOKENS, 0), with_change(TIMES, 0)
    changed, others = jax.tree.map(
        np.asarray, step(tokens_BxL[:, now], t_BxL[:, now], LAYOUT, at(4), other)
    )
    assert (logits_BxCxV[0] != changed[0]).any(axis=-1).all()
    np.testing.assert_array_equal(logits_BxCxV[1:], changed[1:])
    for one, two in zip(new, others, strict=True):
        np.testing.assert_array_equal(one[:, 1:], two[:, 1:])


def test_rows_read_from_their_own_positions_on():
    """A step of rows at different positions is the rows of the steps at each."""
    model, params = network(**FILM)
    step = forward(model, params, "causal", "step")
    rng = np.random.default_rng(0)
    cache = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), empty(model))
    start_B = np.array([4, 0, 9], np.int32)
    place_BxC = start_B[:, None] + np.arange(3)[None]
    inputs = (np.take_along_axis(x, place_BxC, axis=1) for x in (TOKENS, TIMES))
    logits_BxCxV, new = step(*inputs, LAYOUT, start_B, cache)
    for row, start in enumerate(start_B):
        now = slice(start, start + 3)
        alone, its = step(TOKENS[:, now], TIMES[:, now], LAYOUT, at(start), cache)
        np.testing.assert_array_equal(logits_BxCxV[row], alone[row])
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[:, row], y[:, row]), new, its)  # noqa: B023


def test_bfloat16_keeps_its_type_and_is_float32_rounded():
    model, params = network(**FILM, dtype="bfloat16")
    cache = empty(model)
    assert {x.dtype for x in cache} == {jnp.dtype("bfloat16")}
    found, new = forward(model, params, "causal", "step")(TOKENS, TIMES, LAYOUT, at(0), cache)
    assert {x.dtype for x in new} == {jnp.dtype("bfloat16")} and found.dtype == jnp.float32
    expected = np.asarray(forward(*network(**FILM), "causal")(TOKENS, TIMES, LAYOUT))[0]
    assert np.square(found[0] - expected).mean() < 0.05**2 * np.square(expected).mean()


def test_a_denoiser_has_a_cache_where_what_was_read_stays_as_it_is(one_device, vocabulary):
    denoisers = {}
    for name in ("masked", "autoregressive"):
        config = small_config(objective__name=name)
        model = make_network(config, vocabulary.padded_size, one_device)
        _, params = network(feed_forward=64)
        objective = make_objective(config, vocabulary)
        denoisers[name] = make_denoiser(config, model, params, objective, one_device)
    assert isinstance(model, Transformer) and denoisers["masked"].cached is None
    denoise = denoisers["autoregressive"]
    cache = denoise.cached.empty(*TOKENS.shape)
    found, _ = jax.jit(denoise.cached.logits)(TOKENS, TIMES, LAYOUT, at(0), cache)
    expected = jax.jit(denoise.logits)(TOKENS, TIMES, LAYOUT)
    close(np.asarray(found)[0], np.asarray(expected)[0])
