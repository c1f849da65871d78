"""Samplers against the exact joint, or against their own Markov chain, enumerated."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from oracle import Joint
import pytest
from scipy import stats

from dlms_jax.data.tokenizers import ByteTokenizer
from dlms_jax.diffusion import Cosine, Layout, Linear
from dlms_jax.errors import UserError
from dlms_jax.sampling import Ancestral, Canvas, NextToken, make_canvas, parse_infill
from dlms_jax.sampling.ancestral import draw

SAMPLES = 20_000


def open_canvas(joint: Joint, rows: int, given: dict[int, int] | None = None) -> Canvas:
    """Returns canvases of BOS and holes, but for the symbols given by place (0-based)."""
    tokens = np.full((rows, joint.length + 1), joint.vocabulary.mask_id, np.int32)
    tokens[:, 0] = joint.vocabulary.bos_id
    for place, symbol in (given or {}).items():
        tokens[:, place + 1] = symbol
    holes = tokens == joint.vocabulary.mask_id
    positions = np.tile(np.arange(joint.length + 1, dtype=np.int32), (rows, 1))
    return Canvas(
        jnp.asarray(tokens), jnp.asarray(holes), Layout(jnp.ones_like(positions), positions)
    )


def sample(joint, sampler, denoise, given=None, rows=SAMPLES, seed=0) -> np.ndarray:
    """Returns how often each text of the joint was drawn."""
    canvas = open_canvas(joint, rows, given)
    keys = jax.random.split(jax.random.key(seed), rows)
    steps = sampler.num_steps(canvas)
    run = jax.jit(lambda c, k: sampler.run(denoise, c, k, 0, steps))
    texts = np.asarray(run(canvas, keys).tokens_BxL)[:, 1:]
    index = {tuple(text): i for i, text in enumerate(joint.texts)}
    return np.bincount([index[tuple(text)] for text in texts], minlength=len(joint.texts))


def chi_square(counts, p) -> float:
    """Returns the p-value of the counts under p; texts expected less than 5 times are one class."""
    expected = p * counts.sum()
    rare = expected < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] < 1e-9:
        assert observed[-1] == 0
        observed, expected = observed[:-1], expected[:-1]
    return stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue


def enumerate_ancestral(joint, schedule, steps, temperature=1.0, guidance=0.0, given=None):
    """Returns the distribution over texts of the ancestral sampler's own chain with the exact
    denoiser, by summing over all canvases (symbols, or None where masked)."""
    given = given or {}

    def prediction(canvas, place):
        agree = np.array([
            all(c is None or c == s for c, s in zip(canvas, text, strict=True))
            for text in joint.texts
        ])  # fmt: skip
        p = np.bincount(joint.texts[:, place], joint.p * agree, minlength=joint.symbols)
        return p / p.sum()

    def guided(canvas, place):
        p = prediction(canvas, place)
        if guidance:
            without = tuple(None if i in given else c for i, c in enumerate(canvas))
            p = p ** (1 + guidance) / prediction(without, place) ** guidance
        p = p ** (1 / temperature)
        return p / p.sum()

    state = {tuple(given.get(i) for i in range(joint.length)): 1.0}
    for step in range(steps):
        t, s = 1 - step / steps, 1 - (step + 1) / steps
        reveal = 1.0 if step + 1 == steps else float(1 - schedule.masked(s) / schedule.masked(t))
        following = {}
        for canvas, weight in state.items():
            choices = []
            for place, symbol in enumerate(canvas):
                if symbol is not None:
                    choices.append([(symbol, 1.0)])
                else:
                    p = guided(canvas, place) * reveal
                    choices.append([(None, 1 - reveal), *enumerate(p)])
            for picks in itertools.product(*choices):
                probability = weight * np.prod([p for _, p in picks])
                if probability > 0:
                    new = tuple(symbol for symbol, _ in picks)
                    following[new] = following.get(new, 0.0) + probability
        state = following
    return np.array([state.get(tuple(text), 0.0) for text in joint.texts.tolist()])


JOINT = Joint(3, 3, seed=2)
DENOISE = JOINT.masked_denoiser()


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
def test_ancestral_follows_its_own_chain(schedule, steps):
    counts = sample(JOINT, Ancestral(JOINT.vocabulary, schedule, steps), DENOISE)
    assert chi_square(counts, enumerate_ancestral(JOINT, schedule, steps)) > 1e-3


def test_the_chain_tends_to_the_joint_and_its_distance_is_reported():
    distance = {}
    for steps in (1, 2, 4, 8, 16, 64):
        p = enumerate_ancestral(JOINT, Linear(), steps)
        distance[steps] = 0.5 * np.abs(p - JOINT.p).sum()
    print("ancestral, total variation from the joint by steps:", distance)
    values = list(distance.values())
    assert values[0] > 0.1  # one step draws the tokens independently
    assert (np.diff(values) < 0).all() and values[-1] < values[0] / 20


def test_ancestral_with_many_steps_draws_from_the_joint():
    counts = sample(JOINT, Ancestral(JOINT.vocabulary, Linear(), 150), DENOISE, rows=1500)
    assert chi_square(counts, JOINT.p) > 1e-3
    one_step = sample(JOINT, Ancestral(JOINT.vocabulary, Linear(), 1), DENOISE, rows=1500)
    assert chi_square(one_step, JOINT.p) < 1e-6  # the test can tell


@pytest.mark.parametrize(
    ("temperature", "guidance", "given"),
    [
        (0.5, 0.0, None),
        (1.5, 0.0, {0: 1}),
        (1.0, 1.0, {0: 1}),
        (0.7, 2.0, {1: 2}),
        (1.0, 0.0, {1: 0}),
    ],
)
def test_temperature_guidance_and_given_symbols_follow_their_own_chain(
    temperature, guidance, given
):
    sampler = Ancestral(JOINT.vocabulary, Linear(), 3, temperature, guidance)
    counts = sample(JOINT, sampler, DENOISE, given)
    p = enumerate_ancestral(JOINT, Linear(), 3, temperature, guidance, given)
    assert chi_square(counts, p) > 1e-3
    for place, symbol in (given or {}).items():
        assert counts[JOINT.texts[:, place] != symbol].sum() == 0


def test_guidance_at_one_hole_has_its_closed_form():
    """p proportional to p(x | given)^(1+w) / p(x)^w, in any number of steps."""
    joint, w = Joint(3, 2, seed=1), 1.5
    counts = sample(
        joint, Ancestral(joint.vocabulary, Linear(), 4, 1.0, w), joint.masked_denoiser(), {0: 2}
    )
    conditional = joint.p[joint.texts[:, 0] == 2]
    marginal = np.bincount(joint.texts[:, 1], joint.p)
    p = (conditional / conditional.sum()) ** (1 + w) / marginal**w
    assert chi_square(counts[joint.texts[:, 0] == 2], p / p.sum()) > 1e-3


def test_greedy_takes_the_likeliest():
    counts = sample(JOINT, Ancestral(JOINT.vocabulary, Linear(), 1, 0.0), DENOISE, rows=8)
    likeliest = [np.bincount(JOINT.texts[:, i], JOINT.p).argmax() for i in range(3)]
    assert counts[(JOINT.texts == likeliest).all(axis=1)] == 8


@pytest.mark.parametrize("given", [None, {0: 1}])
def test_next_token_draws_from_the_joint(given):
    counts = sample(JOINT, NextToken(JOINT.vocabulary), JOINT.next_token_denoiser(), given)
    p = JOINT.p * np.all([JOINT.texts[:, i] == s for i, s in (given or {}).items()], axis=0)
    assert chi_square(counts, p / p.sum()) > 1e-3


def test_next_token_at_a_temperature_follows_its_own_chain():
    joint, temperature = Joint(3, 2, seed=1), 0.5
    counts = sample(joint, NextToken(joint.vocabulary, temperature), joint.next_token_denoiser())
    table = joint.p.reshape(3, 3)
    first = table.sum(axis=1) ** (1 / temperature)
    second = (table / table.sum(axis=1, keepdims=True)) ** (1 / temperature)
    p = first[:, None] / first.sum() * second / second.sum(axis=1, keepdims=True)
    assert chi_square(counts, p.ravel()) > 1e-3


def test_next_token_refuses_holes_before_text():
    with pytest.raises(UserError, match="left to right"):
        NextToken(JOINT.vocabulary).num_steps(open_canvas(JOINT, 1, {2: 0}))


def test_rare_symbols_occur_at_their_rate():
    """100 symbols of probability 1e-6: float32 Gumbel noise without mode="high" is too short-tailed
    to give rare symbols their due (arXiv 2409.02908)."""
    logits_V = jnp.log(jnp.concatenate([jnp.array([1 - 1e-4]), jnp.full(100, 1e-6)]))
    draws = jax.jit(lambda key: (draw(key, jnp.tile(logits_V, (100_000, 1)), 1.0) > 0).sum())
    rare = sum(int(draws(jax.random.key(i))) for i in range(10))
    assert stats.poisson.cdf(rare, 100) > 1e-3 and stats.poisson.sf(rare, 100) > 1e-3


def test_steps_can_be_run_in_parts():
    """A stream that shows every step draws what one call draws."""
    sampler, canvas = Ancestral(JOINT.vocabulary, Linear(), 6), open_canvas(JOINT, 16)
    keys = jax.random.split(jax.random.key(0), 16)
    whole = sampler.run(DENOISE, canvas, keys, 0, 6)
    for first in range(0, 6, 2):
        canvas = sampler.run(DENOISE, canvas, keys, first, first + 2)
    np.testing.assert_array_equal(whole.tokens_BxL, canvas.tokens_BxL)


class TestCanvas:
    tokenizer = ByteTokenizer()

    def test_texts_stay_and_numbers_become_holes(self):
        canvas = make_canvas(["ab", 3, "c"], self.tokenizer, context=100, rows=2)
        t = self.tokenizer
        expected = [t.bos_id, 97, 98, t.mask_id, t.mask_id, t.mask_id, 99]
        assert canvas.tokens_BxL[1, :7].tolist() == expected
        assert canvas.holes_BxL[1].nonzero()[0].tolist() == [3, 4, 5]
        assert (canvas.layout.segments_BxL[0] == ([1] * 7 + [0] * 57)).all()

    def test_too_long_for_the_context_is_one_line(self):
        with pytest.raises(
            UserError, match=r"3 tokens.*10 to fill.*context of 12.*9 tokens or fewer"
        ):
            make_canvas(["ab", 10], self.tokenizer, context=12, rows=1)
        make_canvas(["ab", 9], self.tokenizer, context=12, rows=1)

    def test_infill_templates(self):
        assert parse_infill("The {} of {12} is", 8) == ["The ", 8, " of ", 12, " is"]
        assert parse_infill("{}", 3) == [3]
        for template in ("no hole", "", "{0}"):
            with pytest.raises(UserError, match="has no hole"):
                parse_infill(template, 8)
