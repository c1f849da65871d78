"""The first-hitting sampler against the joint, and the times that it tells the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampling.chains import (
    Exact,
    SmallJoint,
    chi_square,
    first_hitting,
    follow,
    open_canvas,
    over_texts,
    sample,
)

from dlms_jax.diffusion import Cosine, Denoiser, Linear
from dlms_jax.sampling.prediction import Prediction
from dlms_jax.sampling.processes.first_hitting import FirstHitting
from dlms_jax.sampling.sampler import run_sampler

JOINT = SmallJoint(3, 3, seed=0)
DENOISE = JOINT.masked_denoiser()


@pytest.mark.parametrize("given", [None, {1: 2}])
def test_it_draws_from_the_joint_in_a_step_a_token(given):
    sampler = FirstHitting(Prediction(JOINT.vocabulary), Cosine())
    assert sampler.num_steps(open_canvas(JOINT, 5, given)) == 3 - len(given or {})
    counts = sample(JOINT, sampler, DENOISE, given)
    assert chi_square(counts, Exact(JOINT, given).conditional()) > 1e-3


def test_with_other_settings_it_follows_its_own_chain():
    settings = {"temperature": 0.6, "top_p": 0.9, "guidance": 1.0}
    sampler = FirstHitting(Prediction(JOINT.vocabulary, **settings), Linear())
    counts = sample(JOINT, sampler, DENOISE, {0: 1})
    exact = Exact(JOINT, {0: 1}, **settings)
    p = over_texts(JOINT, follow(first_hitting(exact), range(2), exact.start))
    assert chi_square(counts, p) > 1e-3
    assert chi_square(counts, exact.conditional()) < 1e-6


@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
def test_the_network_is_told_the_time_at_which_each_token_is_revealed(schedule):
    """A network that writes the time it is told, as one of three symbols: in the process each token
    is revealed at its own time, independently, with 1 - alpha uniform."""

    def logits(tokens_BxL, t_BxL, layout):
        symbol_BxL = jnp.minimum((t_BxL * 3).astype(jnp.int32), 2)
        return jnp.log(jax.nn.one_hot(symbol_BxL, JOINT.vocabulary.padded_size))

    denoise = Denoiser.from_logits(logits)
    counts = sample(
        JOINT, FirstHitting(Prediction(JOINT.vocabulary), schedule), denoise, rows=20_000
    )
    symbol_p = np.diff(schedule.masked(jnp.linspace(0, 1, 4)))
    assert chi_square(counts, np.prod(symbol_p[JOINT.texts], axis=1)) > 1e-3


def test_each_step_reveals_one_token_of_each_row_that_has_any():
    canvas = open_canvas(JOINT, 3)
    holes_BxL = canvas.holes_BxL.at[1, 2].set(False).at[2].set(False)
    tokens_BxL = jnp.where(holes_BxL | (canvas.layout.positions_BxL == 0), canvas.tokens_BxL, 0)
    canvas = canvas._replace(holes_BxL=holes_BxL, tokens_BxL=tokens_BxL)
    sampler, keys_B = FirstHitting(Prediction(JOINT.vocabulary), Linear()), jax.random.split(
        jax.random.key(0), 3
    )  # fmt: skip
    assert sampler.num_steps(canvas) == 3
    state = sampler.start(DENOISE, canvas, keys_B)
    go = jax.jit(lambda state: run_sampler(sampler, DENOISE, state, 1))
    left, done = [], []
    for _ in range(3):
        state = go(state)
        left.append((state.tokens_BxL == JOINT.vocabulary.mask_id).sum(axis=1).tolist())
        done.append(state.done_B.tolist())
    assert left == [[2, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert done == [[False, False, True], [False, True, True], [True] * 3]
