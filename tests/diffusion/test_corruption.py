"""Which tokens are masked, and when: times, rates, and what the draws depend on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlms_jax.diffusion import (
    Autoregressive,
    Batch,
    Cosine,
    Denoiser,
    Layout,
    Linear,
    Masked,
    Vocabulary,
)
from dlms_jax.diffusion.times import document_times

VOCABULARY = Vocabulary(size=9, pad_id=5, bos_id=6, eos_id=7, mask_id=8)


def packed(rows: int, lengths=(5, 9, 3)) -> Batch:
    """Returns rows of documents of these lengths (BOS included), then two cells of padding."""
    segments = np.concatenate([np.full(n, i + 1) for i, n in enumerate(lengths)] + [np.zeros(2)])
    positions = np.concatenate([np.arange(n) for n in lengths] + [np.zeros(2)])
    tokens = np.where(segments == 0, 5, np.where(positions == 0, 6, 1))
    tile = lambda x: jnp.asarray(np.tile(x, (rows, 1)), jnp.int32)  # noqa: E731
    layout = Layout(tile(segments), tile(positions))
    weights_BxL = (layout.positions_BxL > 0).astype(jnp.float32)
    return Batch(tile(tokens), layout, jnp.arange(rows), weights_BxL)


def corrupt(objective, batch, key):
    """Returns the corruption of one draw of the times, as of a loss."""
    return objective.corrupt(batch, objective.draw_times(batch, key), key)


def times(rows, key=0, documents=1):
    segments = jnp.tile(jnp.arange(1, documents + 1), (rows, 1))
    return np.asarray(document_times(jax.random.key(key), jnp.arange(rows), segments))


@pytest.mark.parametrize("rows", [49, 98, 392, 784])
def test_times_are_in_range_and_as_many_as_rows(rows):
    t = times(rows)[:, 0]
    assert t.shape == (rows,)
    assert (t > 0).all() and (t <= 1).all()
    assert len(np.unique(t)) == rows


@pytest.mark.parametrize("rows", [49, 98, 392])
@pytest.mark.parametrize("key", range(5))
def test_times_are_of_low_discrepancy_in_the_batch_and_in_each_eighth(rows, key):
    """The star discrepancy of n golden-ratio points is at most a few (log n) / n; that of n
    uniform draws is about 1 / sqrt(n), which fails this."""
    t = times(rows, key)[:, 0]
    for part in [t, *np.array_split(t, 8)]:
        n = len(part)
        ordered, grid = np.sort(part), np.arange(n)
        discrepancy = max((ordered - grid / n).max(), ((grid + 1) / n - ordered).max())
        assert discrepancy < 1.2 * (1 + np.log(n)) / n


def test_times_are_uniform_over_keys():
    t = np.array([times(1, key)[0, 0] for key in range(400)])
    ordered, grid = np.sort(t), np.arange(400) / 400
    assert np.abs(ordered - grid).max() < 1.63 / np.sqrt(400)  # Kolmogorov-Smirnov at 1%


def test_documents_of_a_row_have_their_own_time():
    batch = packed(4)
    t_BxL = np.asarray(corrupt(Masked(VOCABULARY, Linear()), batch, jax.random.key(0)).t_BxL)
    segments_BxL = np.asarray(batch.layout.segments_BxL)
    for row in range(4):
        of_documents = [np.unique(t_BxL[row][segments_BxL[row] == s]) for s in (1, 2, 3)]
        assert [len(t) for t in of_documents] == [1, 1, 1]
        assert len(np.unique(of_documents)) == 3


@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
def test_masking_rate_is_that_of_the_schedule(schedule):
    batch = packed(64, lengths=(40, 40))
    draw = jax.jit(functools.partial(corrupt, Masked(VOCABULARY, schedule)))
    expected, masked, variance = 0.0, 0.0, 0.0
    for step in range(20):
        _, t_BxL, masked_BxL = draw(batch, jax.random.key(step))
        p = np.where(batch.scored_BxL, schedule.masked(t_BxL), 0.0)
        expected, variance = expected + p.sum(), variance + (p * (1 - p)).sum()
        masked += np.asarray(masked_BxL).sum()
    assert abs(masked - expected) < 4 * np.sqrt(variance)


def test_only_scored_tokens_are_masked():
    batch = packed(32)
    inputs, _, masked = corrupt(Masked(VOCABULARY, Linear()), batch, jax.random.key(0))
    assert not (masked & ~batch.scored_BxL).any()
    np.testing.assert_array_equal(inputs == VOCABULARY.mask_id, masked)
    np.testing.assert_array_equal(inputs[~masked], batch.tokens_BxL[~masked])


@pytest.mark.parametrize("objective", [Masked(VOCABULARY, Linear()), Autoregressive(VOCABULARY)])
def test_prompts_are_given_and_only_answers_are_scored(objective):
    """The first places of each document are a prompt: no draw hides it, and how well a network
    would predict it changes neither loss nor bound."""
    batch = packed(8, lengths=(8, 10))
    answers_BxL = batch.layout.positions_BxL >= 4
    batch = batch._replace(weights_BxL=answers_BxL.astype(jnp.float32))

    def denoiser(at_prompts):
        def logits(inputs_BxL, t_BxL, layout):
            assert not ((inputs_BxL == VOCABULARY.mask_id) & ~answers_BxL).any()
            here_BxL = answers_BxL
            if objective.traits.exact:  # position i predicts token i + 1
                here_BxL = jnp.pad(answers_BxL[:, 1:], ((0, 0), (0, 1)))
            flat_BxLxV = jnp.zeros((*inputs_BxL.shape, VOCABULARY.padded_size))
            peak_BxLxV = flat_BxLxV.at[..., 2].set(at_prompts)
            return jnp.where(here_BxL[..., None], flat_BxLxV, peak_BxLxV)

        return Denoiser.from_logits(logits)

    key = jax.random.key(1)
    for other in (3.0, -50.0):
        losses = [objective.loss(denoiser(x), batch, key).total for x in (0.0, other)]
        bounds = [objective.bound(denoiser(x), batch, key, 0, 2) for x in (0.0, other)]
        np.testing.assert_array_equal(*losses)
        np.testing.assert_array_equal(*bounds)
        assert (np.asarray(bounds[0])[np.asarray(~answers_BxL)] == 0).all()
        assert losses[0] > 0


def test_a_rows_corruption_does_not_depend_on_its_neighbours():
    batch, key = packed(16), jax.random.key(3)
    part = jax.tree.map(lambda x: x[4:9], batch)
    objective = Masked(VOCABULARY, Linear())
    for whole, alone in zip(
        corrupt(objective, batch, key), corrupt(objective, part, key), strict=True
    ):
        np.testing.assert_array_equal(whole[4:9], alone)


def test_masks_do_not_repeat_between_steps():
    batch, objective = packed(16), Masked(VOCABULARY, Linear())
    first, second = (
        corrupt(objective, batch, jax.random.fold_in(jax.random.key(0), step)).hidden_BxL
        for step in (7, 8)
    )
    assert (first != second).mean() > 0.1


def test_the_mask_is_never_predicted():
    """Even a network that is sure of the mask gives it, BOS and padding no probability."""
    bias_V = VOCABULARY.text_bias_V()
    logits_V = np.where(np.arange(VOCABULARY.padded_size) == VOCABULARY.mask_id, 1e4, 0.0) + bias_V
    p_V = np.asarray(jax.nn.softmax(logits_V))
    assert p_V[[5, 6, 8]].tolist() == [0.0, 0.0, 0.0]
    assert p_V[VOCABULARY.size :].sum() == 0
    np.testing.assert_allclose(p_V[[0, 1, 2, 3, 4, 7]], 1 / 6, rtol=1e-6)


def test_a_document_that_is_all_bos_scores_nothing_and_breaks_nothing():
    batch = packed(4, lengths=(1, 6))
    objective = Masked(VOCABULARY, Linear())
    denoise = Denoiser.from_logits(
        lambda x, t, layout: jnp.zeros((*x.shape, VOCABULARY.padded_size))
    )
    nats_BxL = objective.bound(denoise, batch, jax.random.key(0), 0, 4)
    loss = objective.loss(denoise, batch, jax.random.key(0))
    assert np.isfinite(nats_BxL).all() and np.isfinite(loss.total)
    assert (np.asarray(nats_BxL)[:, 0] == 0).all()
    assert (np.asarray(nats_BxL)[np.asarray(~batch.scored_BxL)] == 0).all()
