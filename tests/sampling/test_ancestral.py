"""The full reverse process of masked diffusion against its own Markov chain and the joint."""

import jax
import numpy as np
import pytest
from sampling.chains import (
    Exact,
    SmallJoint,
    ancestral,
    chi_square,
    fill,
    follow,
    open_canvas,
    over_texts,
    sample,
    total_variation,
)

from dlms_jax.diffusion import Cosine, Linear
from dlms_jax.sampling.prediction import Prediction
from dlms_jax.sampling.processes.ancestral import Ancestral

JOINT = SmallJoint(3, 3, seed=0)
DENOISE = JOINT.masked_denoiser()


def distribution(schedule, steps, spacing="uniform", **settings) -> np.ndarray:
    exact = Exact(JOINT, **settings)
    kernel = ancestral(exact, schedule, steps, spacing)
    return over_texts(JOINT, follow(kernel, range(steps), exact.start))


@pytest.mark.parametrize(
    ("schedule", "steps", "spacing", "settings"),
    [
        (Linear(), 1, "uniform", {}),
        (Cosine(), 3, "uniform", {}),
        (Linear(), 3, "cosine", {"given": {0: 1}, "temperature": 0.7, "guidance": 2.0}),
        (Cosine(), 2, "quantile", {"given": {1: 2}, "top_p": 0.8, "guidance": 0.5}),
        (Linear(), 2, "uniform", {"temperature": 1.5, "top_k": 2}),
    ],
)
def test_it_follows_its_own_chain(schedule, steps, spacing, settings):
    given = settings.get("given")
    others = {name: value for name, value in settings.items() if name != "given"}
    sampler = Ancestral(Prediction(JOINT.vocabulary, **others), schedule, steps, spacing)
    counts = sample(JOINT, sampler, DENOISE, given)
    assert chi_square(counts, distribution(schedule, steps, spacing, **settings)) > 1e-3
    # The test can tell: one step more, or any of the settings left out.
    wrong = [distribution(schedule, steps + 1, spacing, **settings)]
    for name in settings:
        less = {key: value for key, value in settings.items() if key != name}
        wrong.append(distribution(schedule, steps, spacing, **less))
    assert all(chi_square(counts, p) < 1e-6 for p in wrong)


def test_its_chain_tends_to_the_joint():
    values = [total_variation(distribution(Linear(), n), JOINT.p) for n in (1, 2, 4, 8, 16, 64)]
    assert values[0] > 0.1  # one step draws the tokens independently
    assert (np.diff(values) < 0).all() and values[-1] < values[0] / 20


@pytest.mark.parametrize("given", [None, {1: 0}])
def test_with_many_steps_it_draws_from_the_joint(given):
    sampler = Ancestral(Prediction(JOINT.vocabulary), Linear(), 100)
    counts = sample(JOINT, sampler, DENOISE, given, rows=1500)
    assert chi_square(counts, Exact(JOINT, given).conditional()) > 1e-3


def test_guidance_at_one_hole_has_its_closed_form():
    """p proportional to p(x | given)^(1+w) / p(x)^w, in any number of steps."""
    joint, w = SmallJoint(3, 2, seed=1), 1.5
    sampler = Ancestral(Prediction(joint.vocabulary, guidance=w), Linear(), 4)
    counts = sample(joint, sampler, joint.masked_denoiser(), {0: 2}, rows=20_000)
    conditional = joint.p[joint.texts[:, 0] == 2]
    marginal = np.bincount(joint.texts[:, 1], joint.p)
    p = (conditional / conditional.sum()) ** (1 + w) / marginal**w
    assert chi_square(counts[joint.texts[:, 0] == 2], p / p.sum()) > 1e-3


def test_greedy_takes_the_likeliest():
    sampler = Ancestral(Prediction(JOINT.vocabulary, temperature=0.0), Linear(), 1)
    counts = sample(JOINT, sampler, DENOISE, rows=8)
    likeliest = [np.bincount(JOINT.texts[:, i], JOINT.p).argmax() for i in range(3)]
    assert counts[(JOINT.texts == likeliest).all(axis=1)] == 8


def test_whether_a_token_is_revealed_does_not_depend_on_what_it_would_be():
    """Whether and which are two draws: a cut or a temperature moves no token to another step."""
    canvas, keys_B = open_canvas(JOINT, 500), jax.random.split(jax.random.key(0), 500)
    revealed = []
    for settings in ({}, {"temperature": 0.3, "top_k": 2}):
        sampler = Ancestral(Prediction(JOINT.vocabulary, **settings), Linear(), 3)
        tokens_BxL = fill(sampler, DENOISE, canvas, keys_B, steps=1)
        revealed.append(tokens_BxL != JOINT.vocabulary.mask_id)
    assert 400 < revealed[0].sum() - 500 < 600  # a third of 1500, besides BOS
    np.testing.assert_array_equal(*revealed)
