"""The U-Net: a float64 reference by documents, their isolation, any length, time, learning."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from unet_reference import (
    ROWS,
    SMALL,
    B,
    L,
    Reference,
    jitted,
    layout_of,
    random_inputs,
    random_params,
    random_segments,
    whole_config,
)

from dlms_jax.config import GaussianConfig
from dlms_jax.diffusion import Denoiser, Noisy, Vocabulary, make_batch, make_objective
from dlms_jax.models import UNet, noise_table
from dlms_jax.models.unet_cells import joined, make_cells, with_neighbours


@pytest.fixture(scope="module")
def network():
    """Returns (model, params, apply) of the small network."""
    model = UNet(SMALL, ROWS)
    return model, random_params(model), jitted(model)


def alone(documents, length):
    """Returns documents (tuples of arrays along a document), each at the start of its own row."""
    return tuple(
        np.stack([np.pad(x, (0, length - len(x))) for x in column])
        for column in zip(*documents, strict=True)
    )


# Cells


def cells_by_rule(segments_L):
    """Returns [[array places of a cell's tokens], ...] by array place of the cell."""
    cells = {}
    for document in set(segments_L.tolist()) - {0}:
        places = np.flatnonzero(segments_L == document).tolist()
        number = len(places) // 2
        for q in range(number):
            end = 2 * q + 2 if q < number - 1 else len(places)
            cell = places[0] // 2 + q
            assert cell not in cells, "two documents would share a cell"
            cells[cell] = places[2 * q : end]
    return cells


@pytest.mark.parametrize("length", [1, 2, 3, 8, 13])
def test_cells_follow_the_rule(length):
    segments = random_segments(length, 40, length)
    x = np.random.default_rng(0).normal(size=(40, length, 2)).astype(np.float32)
    y = np.random.default_rng(1).normal(size=(40, max(length // 2, 1), 3, 2)).astype(np.float32)

    @jax.jit
    def computed(segments, x, y):
        cells = make_cells(segments)
        return cells.gather(x), cells.mean(x), cells.spread(y), with_neighbours(x, joined(segments))

    gathered, mean, spread, sides = jax.device_get(computed(segments, x, y))
    expected, expected_mean = np.zeros_like(gathered), np.zeros_like(mean)
    expected_spread, expected_sides = np.zeros_like(x), np.zeros((*x.shape[:2], 3, 2))
    for b, row in enumerate(segments):
        for cell, places in cells_by_rule(row).items():
            expected[b, cell, : len(places)] = x[b, places]
            expected_mean[b, cell] = x[b, places].mean(axis=0)
            expected_spread[b, places] = y[b, cell, : len(places)]
        for i in range(length):
            for tap, j in enumerate((i - 1, i, i + 1)):
                if j == i or (0 <= j < length and row[i] == row[j] != 0):
                    expected_sides[b, i, tap] = x[b, j]
    np.testing.assert_array_equal(gathered, expected)
    np.testing.assert_array_equal(spread, expected_spread)
    np.testing.assert_array_equal(sides, expected_sides.reshape(*x.shape[:2], 6))
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-6, atol=1e-6)


# The network, against one that knows a single document, in float64


@pytest.mark.parametrize(
    "settings", [{}, {"conditioning": "adaln_zero", "unet_levels": 2, "unet_blocks": 2}]
)
def test_packed_rows_are_as_the_reference_has_each_document(settings):
    model = UNet(dataclasses.replace(SMALL, **settings), ROWS)
    params = random_params(model)
    reference = Reference(model.config, params)
    segments, (tokens, t, class_B) = random_segments(0), random_inputs(0)
    logits = np.asarray(jitted(model)(params, tokens, t, layout_of(segments, class_B)))
    lengths = set()
    for b in range(12):
        for document in range(1, segments[b].max() + 1):
            at = segments[b] == document
            lengths.add(int(at.sum()))
            expected = reference.logits(tokens[b, at], t[b, at], class_B[b])
            np.testing.assert_allclose(logits[b, at], expected, rtol=2e-4, atol=2e-4)
    assert {1, 2, 3, 5, 7} <= lengths


# What does not touch a document


def test_other_documents_and_padding_change_nothing_bit_for_bit(network):
    """Neither their tokens nor their times."""
    _, params, apply = network
    segments, (tokens, t, class_B) = random_segments(1), random_inputs(1)
    layout = layout_of(segments, class_B)
    logits = np.asarray(apply(params, tokens, t, layout))
    assert np.isfinite(logits).all()
    for seed in (2, 3):
        other_tokens, other_t, _ = random_inputs(seed)
        chosen_B = np.random.default_rng(seed).integers(1, segments.max(axis=1) + 1)
        changed_BxL = (segments == chosen_B[:, None]) | (segments == 0)
        for new_tokens, new_t in ((other_tokens, t), (tokens, other_t)):
            changed = np.asarray(apply(
                params, np.where(changed_BxL, new_tokens, tokens), np.where(changed_BxL, new_t, t),
                layout,
            ))  # fmt: skip
            np.testing.assert_array_equal(changed[~changed_BxL], logits[~changed_BxL])
            assert (changed != logits)[changed_BxL & (segments > 0)].any(axis=-1).all()


def test_a_document_is_the_same_wherever_it_stands_and_however_far_its_row_is_padded(network):
    _, params, apply = network
    segments, (tokens, t, class_B) = random_segments(4), random_inputs(4)
    logits = np.asarray(apply(params, tokens, t, layout_of(segments, class_B)))
    found = [
        (b, segments[b] == document)
        for b in range(B)
        for document in range(1, segments[b].max() + 1)
    ][:B]
    documents = [(tokens[b, at], t[b, at], segments[b, at] > 0) for b, at in found]
    assert {at.argmax() % 4 for _, at in found} == {0, 1, 2, 3}
    rows = alone(documents, L)
    moved = apply(params, *rows[:2], layout_of(rows[2], class_B[[b for b, _ in found]]))
    for i, (b, at) in enumerate(found):
        np.testing.assert_allclose(moved[i, : at.sum()], logits[b, at], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 13])
def test_any_length_is_as_the_same_row_padded(network, length):
    _, params, apply = network
    tokens, t, class_B = random_inputs(5)
    segments = (np.arange(L) < length)[None].repeat(B, axis=0).astype(np.int32)
    padded = apply(params, tokens, t, layout_of(segments, class_B))[:2, :length]
    short = apply(
        params, tokens[:2, :length], t[:2, :length], layout_of(segments[:2, :length], class_B[:2])
    )
    np.testing.assert_allclose(short, padded, rtol=1e-4, atol=1e-5)


def test_every_token_reaches_every_token_of_its_document_and_none_of_another(network):
    _, params, apply = network
    segments_L = np.asarray([1] * 9 + [2] * 13 + [0] * 2)
    tokens, t, class_B = (np.repeat(x[:1], B, axis=0) for x in random_inputs(6))
    tokens[:L] = (tokens[:L] + np.eye(L, dtype=np.int32)) % 100  # row i: token i is another
    logits = np.asarray(apply(params, tokens, t, layout_of(np.tile(segments_L, (B, 1)), class_B)))
    reached_LxL = (logits[:L] != logits[L][None]).any(axis=-1)
    text_L = segments_L > 0
    same_LxL = segments_L[:, None] == segments_L[None]
    np.testing.assert_array_equal(reached_LxL[:, text_L], same_LxL[:, text_L])


# Time, class, forms of one computation


def test_film_starts_as_no_conditioning_and_adaln_zero_with_its_branches_closed():
    tokens, t, class_B = random_inputs(7, (2, 8))
    layout = layout_of(np.ones((2, 8), np.int32), class_B)
    plain = UNet(dataclasses.replace(SMALL, conditioning="none", classes=0, unet_levels=1), ROWS)
    params = random_params(plain)
    expected = jitted(plain)(params, tokens, t, layout)
    np.testing.assert_array_equal(expected, jitted(plain)(params, tokens, 1 - t, layout))

    def at_start(kind):
        model = UNet(dataclasses.replace(SMALL, conditioning=kind, unet_levels=1), ROWS)
        rest = random_params(model)
        for name, part in params.items():
            rest[name] |= part
        return jitted(model), scaled(rest, "modulation", 0)

    apply, film = at_start("film")
    np.testing.assert_allclose(apply(film, tokens, t, layout), expected, rtol=1e-4, atol=1e-5)
    apply, closed = at_start("adaln_zero")
    logits = apply(closed, tokens, t, layout)
    for part in ("out_conv", "o_proj"):
        np.testing.assert_array_equal(apply(scaled(closed, part, 2), tokens, t, layout), logits)


def scaled(params, part: str, factor: float):
    """Returns parameters, those of a part by name multiplied."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: factor * x if part in jax.tree_util.keystr(path) else x, params
    )


def test_time_and_class_are_heard(network):
    _, params, apply = network
    tokens, t, class_B = random_inputs(8)
    segments = random_segments(8)
    logits = apply(params, tokens, t, layout_of(segments, class_B))
    for other in (
        apply(params, tokens, 1 - t, layout_of(segments, class_B)),
        apply(params, tokens, t, layout_of(segments, (class_B + 1) % 4)),
    ):
        assert np.abs(logits - other)[segments > 0].max(axis=-1).min() > 1e-3


def gradient(model, params, tokens, t, layout):
    """Returns (d loss / d params, logits) of some loss."""

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def of(p):
        logits = model.apply({"params": p}, tokens, t, layout, "full")
        return jnp.mean(jax.nn.log_softmax(logits)[..., 0]), logits

    return jax.device_get(of(params))


def test_remat_changes_nothing():
    tokens, t, class_B = random_inputs(9, (2, 8))
    layout = layout_of(random_segments(9, 2, 8), class_B)
    found = [
        gradient(model, random_params(model), tokens, t, layout)[0]
        for remat in ("none", "full")
        for model in [UNet(dataclasses.replace(SMALL, unet_levels=1, remat=remat), ROWS)]
    ]
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-3, atol=1e-6), *found)


def test_in_bfloat16_logits_are_near_float32s_and_every_parameter_has_a_gradient():
    exact = dataclasses.replace(
        SMALL, conditioning="adaln_zero", unet_levels=2, unet_attention_levels=1
    )
    model, exact = UNet(dataclasses.replace(exact, dtype="bfloat16"), ROWS), UNet(exact, ROWS)
    params = random_params(model)
    tokens, t, class_B = random_inputs(11, (4, L))
    segments = random_segments(11, 4)
    layout = layout_of(segments, class_B)
    gradients, logits = gradient(model, params, tokens, t, layout)
    for path, g in jax.tree_util.tree_leaves_with_path(gradients):
        assert g.dtype == np.float32 and np.isfinite(g).all() and np.abs(g).max() > 0, path
    error = (logits - jitted(exact)(params, tokens, t, layout))[segments > 0]
    assert logits.dtype == np.float32
    assert np.sqrt((error**2).mean()) < 0.05 * np.std(logits)


def test_one_sided_attention_is_refused():
    model = UNet(SMALL, ROWS)
    tokens = jnp.zeros((1, 2), jnp.int32)
    with pytest.raises(ValueError, match="causal"):
        jax.eval_shape(
            lambda: model.init(jax.random.key(0), tokens, tokens, layout_of(tokens), "causal")
        )


# In use


def test_noisy_embeddings_are_read():
    """Gaussian diffusion's inputs and outputs, and its table where `noise_table` looks for it."""
    gaussian = GaussianConfig(embedding_size=8, head="embedding")
    model = UNet(dataclasses.replace(SMALL, unet_levels=1), ROWS, gaussian=gaussian)
    params = random_params(model, gaussian)
    table_VxE = noise_table(params, gaussian)
    tokens, t, class_B = random_inputs(10)
    segments = random_segments(10)
    layout, apply = layout_of(segments, class_B), jitted(model)
    clean = table_VxE[tokens]
    outputs = apply(params, Noisy(clean, jnp.zeros_like(clean)), t, layout)
    assert outputs.shape == (B, L, 8)
    guided = apply(params, Noisy(clean, clean), t, layout)
    assert np.abs(guided - outputs)[segments > 0].max(axis=-1).min() > 1e-3


def test_it_learns():
    """Masked diffusion on 8 texts: far below what the frequencies of their symbols give."""
    config = whole_config(
        model__unet_levels=2, model__unet_blocks=1, model__unet_attention_levels=1,
        model__conditioning="none", objective__prompt_drop=0.0,
    )  # fmt: skip
    vocabulary = Vocabulary(size=24, pad_id=20, bos_id=21, eos_id=22, mask_id=23)
    model, objective = (
        UNet(config.model, vocabulary.padded_size),
        make_objective(config, vocabulary),
    )
    layout = layout_of(np.asarray([[1] * 15 + [2] * 17] * 8))
    tokens = np.tile(np.random.default_rng(0).integers(0, 20, (4, 32)), (2, 1))
    tokens = np.where(layout.positions_BxL == 0, vocabulary.bos_id, tokens).astype(np.int32)
    scored = layout.positions_BxL > 0
    batch = make_batch(jnp.asarray(tokens), *layout[:2], scored, jnp.arange(8))
    number = int(scored.sum())
    optimizer = optax.adam(3e-3)

    def denoiser(params):
        return Denoiser.from_logits(
            lambda inputs, t, layout: model.apply({"params": params}, inputs, t, layout, "full")
        )

    def step(carry, key):
        params, state = carry
        gradient = jax.grad(lambda p: objective.loss(denoiser(p), batch, key).total / number)(
            params
        )
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def bound_after(params, keys):
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        one = lambda i: objective.bound(denoiser(params), batch, jax.random.key(1), i, 8)  # noqa: E731
        return jnp.sum(jax.lax.map(one, jnp.arange(8))) / 8 / number

    params = random_params(model)
    for part, factor in (("out_conv", 0.1), ("o_proj", 0.1), ("lm_head", 0.2)):
        params = scaled(params, part, factor)  # nearly as it is initialised
    bound = float(bound_after(params, jax.random.split(jax.random.key(0), 80)))
    shares = np.bincount(tokens[scored], minlength=20) / number
    unigram = -(shares * np.log(shares)).sum()
    assert bound < 0.4 * unigram
