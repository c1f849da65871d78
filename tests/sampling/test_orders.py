"""The orders of the network's choice against their own Markov chains."""

import jax
import numpy as np
import pytest
from sampling.chains import (
    Exact,
    SmallJoint,
    chi_square,
    fill,
    follow,
    open_canvas,
    ordered,
    over_texts,
    sample,
)

from dlms_jax.diffusion import Cosine, Denoiser, Linear
from dlms_jax.sampling.decoding.orders import Ordered
from dlms_jax.sampling.prediction import Prediction

JOINT = SmallJoint(3, 3, seed=11)
DENOISE = JOINT.masked_denoiser()
ORDERS = "confidence", "margin", "entropy"


def distribution(order, schedule, steps, **settings) -> np.ndarray:
    exact = Exact(JOINT, **settings)
    kernel = ordered(exact, schedule, steps, order, holes=exact.holes)
    return over_texts(JOINT, follow(kernel, range(steps), exact.start))


@pytest.mark.parametrize(
    ("order", "schedule", "steps", "settings"),
    [
        ("confidence", Linear(), 2, {}),
        ("margin", Linear(), 2, {}),
        ("entropy", Linear(), 2, {}),
        ("confidence", Linear(), 3, {"given": {0: 1}, "guidance": 1.0, "temperature": 0.6}),
        ("confidence", Cosine(), 2, {"top_k": 2, "temperature": 1.5}),
        ("entropy", Linear(), 3, {"given": {2: 0}, "guidance": 0.5, "top_p": 0.9}),
    ],
)
def test_they_follow_their_own_chains(order, schedule, steps, settings):
    given = settings.get("given")
    others = {name: value for name, value in settings.items() if name != "given"}
    sampler = Ordered(Prediction(JOINT.vocabulary, **others), schedule, steps, order=order)
    counts = sample(JOINT, sampler, DENOISE, given)
    assert chi_square(counts, distribution(order, schedule, steps, **settings)) > 1e-3
    # The test can tell: another order, or any of the settings left out.
    wrong = [distribution(other, schedule, steps) for other in ORDERS if other != order]
    for name in settings:
        less = {key: value for key, value in settings.items() if key != name}
        wrong.append(distribution(order, schedule, steps, **less))
    assert all(chi_square(counts, p) < 1e-6 for p in wrong)


def test_confidence_is_not_taken_after_the_temperature():
    """At a temperature near 0 what is drawn has probability near 1 everywhere: the order is lost,
    unless confidence is that of the prediction itself."""
    exact = Exact(JOINT, temperature=0.05)

    def after(canvas):
        return exact(canvas)[1], exact(canvas)[1]

    kernel = ordered(after, Linear(), 3, "confidence", holes=exact.holes)
    wrong = over_texts(JOINT, follow(kernel, range(3), exact.start))
    sampler = Ordered(Prediction(JOINT.vocabulary, 0.05), Linear(), 3)
    counts = sample(JOINT, sampler, DENOISE, rows=20_000)
    assert chi_square(counts, distribution("confidence", Linear(), 3, temperature=0.05)) > 1e-3
    assert chi_square(counts, wrong) < 1e-6


@pytest.mark.parametrize("order", ORDERS)
def test_at_temperature_0_nothing_is_random(order):
    sampler = Ordered(Prediction(JOINT.vocabulary, temperature=0.0), Linear(), 2, order=order)
    counts = sample(JOINT, sampler, DENOISE, {1: 2}, rows=64)
    p = distribution(order, Linear(), 2, given={1: 2}, temperature=0.0)
    np.testing.assert_array_equal(counts, 64 * p)


def test_equally_sure_places_are_revealed_from_the_left():
    """A network that knows nothing: places are revealed in order, whatever is drawn there."""
    v = JOINT.vocabulary
    flat = Denoiser.from_logits(lambda tokens, *_: np.zeros((*tokens.shape, v.padded_size)))
    canvas = open_canvas(JOINT, 4)
    keys_B = jax.random.split(jax.random.key(0), 4)
    for order in ORDERS:
        sampler = Ordered(Prediction(v), Linear(), 3, order=order, stop_at_eos=False)
        tokens_BxL = fill(sampler, flat, canvas, keys_B, steps=1)
        np.testing.assert_array_equal(tokens_BxL == v.mask_id, [[0, 0, 1, 1]] * 4)
