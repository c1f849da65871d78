"""ReMDM against its own Markov chains."""

import jax
import numpy as np
import pytest
from sampling.chains import (
    Exact,
    SmallJoint,
    canvases,
    chi_square,
    fill,
    follow,
    open_canvas,
    over_texts,
    remasking,
    sample,
    start_remasking,
    total_variation,
)

from dlms_jax.diffusion import Cosine, Linear
from dlms_jax.sampling.prediction import Prediction
from dlms_jax.sampling.processes.ancestral import Ancestral
from dlms_jax.sampling.processes.remasking import Remasking
from dlms_jax.sampling.sampler import run_sampler

JOINT = SmallJoint(3, 3, seed=0)
KINDS = "cap", "rescale", "confidence"


def states(joint, schedule, steps, kind, eta, stop=None, **settings) -> dict:
    exact = Exact(joint, **settings)
    kernel = remasking(exact, schedule, steps, kind, eta, holes=exact.holes)
    start = start_remasking(exact.start)
    return canvases(follow(kernel, range(steps if stop is None else stop), start))


@pytest.mark.parametrize(
    ("kind", "eta", "schedule", "steps", "settings"),
    [
        ("cap", 0.4, Linear(), 4, {}),
        ("cap", 0.8, Cosine(), 3, {"given": {0: 1}, "temperature": 0.7, "guidance": 1.0}),
        ("rescale", 0.8, Linear(), 3, {"top_p": 0.8}),
        ("confidence", 1.0, Cosine(), 4, {"given": {1: 2}, "guidance": 0.5}),
    ],
)
def test_they_follow_their_own_chains(kind, eta, schedule, steps, settings):
    given = settings.get("given")
    others = {name: value for name, value in settings.items() if name != "given"}
    sampler = Remasking(Prediction(JOINT.vocabulary, **others), schedule, steps, kind=kind, eta=eta)
    counts = sample(JOINT, sampler, JOINT.masked_denoiser(), given)

    def p(eta, **settings):
        return over_texts(JOINT, states(JOINT, schedule, steps, kind, eta, **settings))

    assert chi_square(counts, p(eta, **settings)) > 1e-3
    assert chi_square(counts, p(0.0, **settings)) < 1e-6  # the test can tell


def test_what_was_unlikely_is_masked_again_first():
    """The weights of confidence: enumerated on one that they change most, two tokens to a row."""
    joint, settings = SmallJoint(3, 2, seed=4), {"temperature": 3.0}
    sampler = Remasking(
        Prediction(joint.vocabulary, **settings), Linear(), 4, kind="confidence", eta=1.0
    )
    counts = sample(joint, sampler, joint.masked_denoiser())
    p = over_texts(joint, states(joint, Linear(), 4, "confidence", 1.0, **settings))
    assert chi_square(counts, p) > 1e-3


@pytest.mark.parametrize("kind", ["cap", "rescale"])
def test_remasking_leaves_the_share_of_masks_as_it_was(kind):
    for eta in (0.0, 0.5, 1.0):
        for stop in (1, 2, 3):
            reached = states(JOINT, Cosine(), 4, kind, eta, stop)
            masks = sum(p * canvas.count(None) for canvas, p in reached.items())
            assert masks / 3 == pytest.approx(float(Cosine().masked(1 - stop / 4)), rel=1e-5)


def test_no_token_is_left_masked_and_given_ones_stay_whatever_eta():
    given, keys_B = {0: 1}, jax.random.split(jax.random.key(0), 300)
    canvas = open_canvas(JOINT, 300, given)
    for kind in KINDS:
        sampler = Remasking(Prediction(JOINT.vocabulary), Linear(), 3, kind=kind, eta=1.0)
        tokens_BxL = fill(sampler, JOINT.masked_denoiser(), canvas, keys_B)
        assert (tokens_BxL[:, 1] == 1).all()
        assert (tokens_BxL[:, 2:] < JOINT.symbols).all()


@pytest.mark.parametrize("kind", KINDS)
def test_eta_0_is_the_ancestral_process(kind):
    """Token by token: of the same keys."""
    prediction, keys_B = Prediction(JOINT.vocabulary), jax.random.split(jax.random.key(0), 300)
    canvas, denoise = open_canvas(JOINT, 300), JOINT.masked_denoiser()
    np.testing.assert_array_equal(
        fill(Remasking(prediction, Cosine(), 5, kind=kind, eta=0.0), denoise, canvas, keys_B),
        fill(Ancestral(prediction, Cosine(), 5), denoise, canvas, keys_B),
    )


def test_written_tokens_are_masked_again():
    sampler = Remasking(Prediction(JOINT.vocabulary), Linear(), 4, kind="rescale", eta=1.0)
    canvas, keys_B = open_canvas(JOINT, 300), jax.random.split(jax.random.key(0), 300)
    denoise, mask_id = JOINT.masked_denoiser(), JOINT.vocabulary.mask_id
    go = jax.jit(lambda state: run_sampler(sampler, denoise, state, 1))
    one = go(sampler.start(denoise, canvas, keys_B))
    two = go(one)
    # From t = 3/4, alpha 1/4, to 1/2: all written tokens, for limit is min(1, 2).
    assert (np.asarray(two.tokens_BxL)[np.asarray(one.tokens_BxL) < JOINT.symbols] == mask_id).all()


def test_its_chains_tend_to_the_joint_too():
    for kind, eta in (("cap", 0.1), ("rescale", 0.3)):
        p = [over_texts(JOINT, states(JOINT, Linear(), n, kind, eta)) for n in (2, 8, 24)]
        values = [total_variation(each, JOINT.p) for each in p]
        assert (np.diff(values) < 0).all() and values[-1] < values[0] / 5
