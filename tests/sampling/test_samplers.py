"""What samplers of masked diffusion promise: rows are independent, given tokens stay, no mask is
left, and text ends at EOS."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlms_jax.diffusion import Cosine, Denoiser, Layout, Linear, Polynomial, Vocabulary
from dlms_jax.sampling.canvas import Canvas
from dlms_jax.sampling.decoding.orders import Ordered
from dlms_jax.sampling.prediction import Prediction
from dlms_jax.sampling.processes.ancestral import Ancestral
from dlms_jax.sampling.processes.first_hitting import FirstHitting
from dlms_jax.sampling.processes.remasking import Remasking
from dlms_jax.sampling.sampler import row_uniform, run_sampler
from dlms_jax.sampling.timesteps import time

V = Vocabulary(size=9, pad_id=5, bos_id=6, eos_id=7, mask_id=8)
PREDICTION = Prediction(V, temperature=0.8, top_p=0.95, guidance=0.5)
SAMPLERS = {
    "ancestral": Ancestral(PREDICTION, Linear(), 8, "cosine"),
    "confidence": Ordered(PREDICTION, Cosine(), 6),
    "margin, greedy": Ordered(Prediction(V, temperature=0.0), Linear(), 9, "cosine", "margin"),
    "entropy": Ordered(Prediction(V, top_k=3), Linear(), 40, order="entropy"),
    "cap": Remasking(PREDICTION, Linear(), 8, kind="cap", eta=0.3),
    "confidence again": Remasking(PREDICTION, Linear(), 8, kind="confidence", eta=1.0),
    "first-hitting": FirstHitting(PREDICTION, Cosine()),
}
# A row: tokens given, and the numbers of holes between them.
ROWS = ([14], [1, 2, 9], [3, 3, 0, 2, 6, 4], [0, 0, 1, 1, 1], [2, 2, 2, 2])
KINDS = ("h", "tth", "htthth", "ttthh", "tttt")


def toy_network() -> Denoiser:
    """Returns a network whose logits depend, in whole numbers and so exactly, on the neighbours of
    each token, on all tokens of the row, on t and on the class."""
    table_HxV = np.random.default_rng(0).normal(size=(64, V.padded_size)).astype(np.float32) * 2
    table_HxV[:, V.eos_id] -= 1

    def logits(tokens_BxL, t_BxL, layout):
        text_BxL = jnp.where(layout.segments_BxL > 0, tokens_BxL, 0)
        pad = jnp.pad(text_BxL, ((0, 0), (1, 1)))
        all_Bx1 = (text_BxL * (layout.positions_BxL % 5 + 1)).sum(axis=1, keepdims=True)
        hash_BxL = 7 * pad[:, :-2] + 13 * pad[:, 2:] + 3 * text_BxL + all_Bx1
        hash_BxL += (8 * t_BxL).astype(jnp.int32) + 5 * layout.class_B[:, None]
        return jnp.asarray(table_HxV)[hash_BxL % 64]

    return Denoiser.from_logits(logits)


DENOISE = toy_network()


def canvas_of(rows, length: int) -> Canvas:
    """Returns the canvases of some of ROWS, padded to a length."""
    shape = len(rows), length
    tokens, holes, segments = np.full(shape, V.pad_id), np.zeros(shape, bool), np.zeros(shape, int)
    for at, row in enumerate(rows):
        pieces = [[V.bos_id]]
        for kind, number in zip(KINDS[row], ROWS[row], strict=False):
            pieces.append([V.mask_id] * number if kind == "h" else [number % 5] * (number + 1))
        flat = [token for piece in pieces for token in piece]
        tokens[at, : len(flat)], segments[at, : len(flat)] = flat, 1
    holes = tokens == V.mask_id
    positions = np.arange(length)[None] * segments
    given = (positions > 0) & ~holes
    as_int = [np.asarray(x, np.int32) for x in (tokens, segments, positions)]
    layout = Layout(as_int[1], as_int[2], given, np.asarray(rows, np.int32) % 3)
    return jax.tree.map(jnp.asarray, Canvas(as_int[0], holes, layout))


KEYS = jax.random.split(jax.random.key(5), len(ROWS))


@functools.cache
def runner(sampler):
    """Returns (start, go), of which go is one program for a shape."""
    go = functools.partial(run_sampler, sampler, DENOISE)
    return functools.partial(sampler.start, DENOISE), jax.jit(go)


def fill(sampler, rows, length):
    """Returns (state, canvas) of rows filled in one batch."""
    canvas, keys_B = canvas_of(rows, length), KEYS[np.array(rows)]
    start, go = runner(sampler)
    return go(start(canvas, keys_B), sampler.num_steps(canvas)), canvas


def real(tokens_BxL, canvas, row) -> list[int]:
    """Returns a row's tokens without its padding."""
    return np.asarray(tokens_BxL[row])[np.asarray(canvas.layout.segments_BxL[row]) > 0].tolist()


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_a_row_depends_on_neither_its_neighbours_nor_the_padding(sampler):
    state, canvas = fill(sampler, [0, 1, 2, 3, 4], 32)
    assert state.done_B.all()
    kept_BxL = ~canvas.holes_BxL
    np.testing.assert_array_equal(state.tokens_BxL[kept_BxL], canvas.tokens_BxL[kept_BxL])
    assert not (state.tokens_BxL == V.mask_id).any()
    for row in range(5):
        alone, its_canvas = fill(sampler, [row], 24)
        assert real(alone.tokens_BxL, its_canvas, 0) == real(state.tokens_BxL, canvas, row)
    # The network is one that tells rows apart: the same keys on another canvas, other text.
    assert len({tuple(real(state.tokens_BxL, canvas, row)[1:4]) for row in (0, 2)}) == 2


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_steps_can_be_run_in_parts(sampler):
    """A stream that shows every step draws what one call draws."""
    whole, canvas = fill(sampler, [0, 1, 2, 3, 4], 32)
    start, go = runner(sampler)
    state, steps = start(canvas, KEYS), sampler.num_steps(canvas)
    for _ in range(0, steps, 3):
        state = go(state, 3)
    np.testing.assert_array_equal(whole.tokens_BxL, state.tokens_BxL)


def text(tokens_L, holes_L) -> list[int]:
    """Returns a row's tokens up to the first EOS in a hole, as DiffusionLM.texts does."""
    ended = np.flatnonzero((tokens_L == V.eos_id) & holes_L)
    return tokens_L[: ended[0] if len(ended) else None].tolist()


@pytest.mark.parametrize(
    "sampler",
    [
        Ancestral(Prediction(V), Linear(), 8),
        Ordered(Prediction(V), Linear(), 8),
        FirstHitting(Prediction(V), Linear()),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_a_row_ends_at_eos_and_its_text_is_what_it_would_have_been(sampler):
    rows = 64
    canvas = jax.tree.map(lambda x: jnp.repeat(x, rows // 2, axis=0), canvas_of([0, 2], 24))
    keys_B, steps = jax.random.split(jax.random.key(0), rows), sampler.num_steps(canvas)
    at = {}
    for stop in (True, False):
        start, go = runner(dataclasses.replace(sampler, stop_at_eos=stop))
        early = go(start(canvas, keys_B), steps - 1)
        at[stop] = early, go(early, 1)
    holes_BxL = np.asarray(canvas.holes_BxL)
    tokens_BxL, full_BxL = (np.asarray(at[stop][1].tokens_BxL) for stop in (True, False))
    for row in range(rows):
        assert text(tokens_BxL[row], holes_BxL[row]) == text(full_BxL[row], holes_BxL[row])
    assert (tokens_BxL != full_BxL).any()
    assert at[True][0].done_B.sum() > at[False][0].done_B.sum() + 3
    ended_BxL = (np.cumsum((tokens_BxL == V.eos_id) & holes_BxL, axis=1) > 0) & holes_BxL
    for row in np.flatnonzero(at[True][0].done_B):
        assert (tokens_BxL[row, ended_BxL[row]] == V.eos_id).all()
        np.testing.assert_array_equal(at[True][0].tokens_BxL[row], tokens_BxL[row])


def test_a_row_with_a_mask_before_its_eos_has_not_ended():
    """And given EOS ends nothing: only those in holes do."""
    canvas = canvas_of([0, 2], 24)
    eos_first = canvas.tokens_BxL.at[:, 5].set(V.eos_id)
    sampler = Ordered(Prediction(V), Linear(), 14)
    start, go = runner(sampler)
    state = start(canvas, KEYS[:2])._replace(tokens_BxL=eos_first)
    assert canvas.holes_BxL[0, 5] and not canvas.holes_BxL[1, 5]
    state = go(state, 1)
    assert not state.done_B.any()
    full_BxL = jnp.where(canvas.tokens_BxL == V.mask_id, 0, canvas.tokens_BxL)
    first_BxL = (jnp.arange(24) < 5)[None] & canvas.holes_BxL
    state = state._replace(tokens_BxL=jnp.where(first_BxL, full_BxL, state.tokens_BxL))
    state = go(state, 1)
    assert state.done_B.tolist() == [True, False]
    assert (state.tokens_BxL[0, 5:15] == V.eos_id).all()


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_nothing_to_fill_is_done_at_once(sampler):
    start, _ = runner(sampler)
    canvas = canvas_of([4], 24)
    assert not canvas.holes_BxL.any()
    state = start(canvas, KEYS[:1])
    assert state.done_B.all()
    np.testing.assert_array_equal(state.tokens_BxL, canvas.tokens_BxL)
    if isinstance(sampler, FirstHitting):
        assert sampler.num_steps(canvas) == 0


@pytest.mark.parametrize(
    ("kind", "spacing"),
    [
        ("ancestral", "cosine"),
        ("ordered", "uniform"),
        ("ordered", "quantile"),
        ("remasking", "cosine"),
    ],
)
def test_the_network_is_told_when_a_step_begins(kind, spacing):
    """A network that writes what time it is told: step i writes symbol i. Those of an order write,
    in each row, what the schedule says to the token."""
    steps, schedule = 5, Cosine()
    t_I = time(spacing, schedule, steps, jnp.arange(steps))

    def logits(tokens_BxL, t_BxL, layout):
        step_BxL = jnp.argmin(jnp.abs(t_BxL[..., None] - t_I[None, None]), axis=-1)
        return jnp.log(jax.nn.one_hot(step_BxL, V.padded_size))

    denoise, prediction = Denoiser.from_logits(logits), Prediction(V)
    sampler = {
        "ancestral": Ancestral(prediction, schedule, steps, spacing),
        "ordered": Ordered(prediction, schedule, steps, spacing),
        "remasking": Remasking(prediction, schedule, steps, spacing, "rescale", 0.5),
    }[kind]
    canvas = canvas_of([0, 1, 2, 3], 24)
    state = sampler.start(denoise, canvas, KEYS[:4])
    go = jax.jit(functools.partial(run_sampler, sampler, denoise))
    masked_I = np.append(schedule.masked(t_I), 0)
    numbers = np.asarray(canvas.holes_BxL.sum(axis=1))
    for i in range(steps):
        before_BxL, state = state.tokens_BxL, go(state, 1)
        written_BxL = (before_BxL == V.mask_id) & (state.tokens_BxL != V.mask_id)
        assert (state.tokens_BxL[written_BxL] == i).all()
        if kind == "ordered":
            left_B = (state.tokens_BxL == V.mask_id).sum(axis=1)
            np.testing.assert_array_equal(left_B, np.round(numbers * masked_I[i + 1]))
    assert not (state.tokens_BxL == V.mask_id).any()


@pytest.mark.parametrize("kind", ["ancestral", "ordered", "remasking"])
def test_no_mask_is_left_where_float32_cannot_tell_1_minus_alpha_from_0(kind):
    steps, steep = 30, Polynomial(40.0)
    assert steep.masked(time("uniform", steep, steps, steps - 2)) == 0
    sampler = {
        "ancestral": Ancestral(PREDICTION, steep, steps, stop_at_eos=False),
        "ordered": Ordered(PREDICTION, steep, steps, stop_at_eos=False),
        "remasking": Remasking(PREDICTION, steep, steps, kind="confidence", eta=1.0),
    }[kind]
    canvas = canvas_of([0, 1, 2, 3], 24)
    start, go = runner(sampler)
    # Even all of what is masked when 1 - alpha is 0 already.
    state = start(canvas, KEYS[:4])
    state = go(state._replace(step_B=state.step_B + steps - 2), 2)
    assert not (state.tokens_BxL == V.mask_id).any()


def test_draws_of_a_row_are_its_own():
    """The same whatever the number of rows and the length; others for another step or stream."""
    whole = row_uniform(KEYS, 3, (9,), 1)
    np.testing.assert_array_equal(whole[2:3, :4], row_uniform(KEYS[2:3], 3, (4,), 1))
    for others in ((3, 0), (2, 1)):
        assert not (whole == row_uniform(KEYS, others[0], (9,), others[1])).any()
