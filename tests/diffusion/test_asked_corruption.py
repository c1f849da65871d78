"""Corruption that is asked for: at given times, and with a given mask."""

from diffusion.test_weights import VOCABULARY, TABLE_VxE, text
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlms_jax.config import BlockConfig, GaussianConfig
from dlms_jax.diffusion import (
    Autoregressive,
    Block,
    Cosine,
    Denoiser,
    Gaussian,
    Linear,
    Masked,
    Nll,
    Polynomial,
    Uniform,
)
from dlms_jax.errors import UserError

OBJECTIVES = {
    "masked": Masked(VOCABULARY, Cosine()),
    "block": Block(VOCABULARY, Polynomial(2.0), BlockConfig(3)),
    "uniform": Uniform(VOCABULARY, Linear(), 0.2),
    "autoregressive": Autoregressive(VOCABULARY),
    "gaussian": Gaussian(VOCABULARY, GaussianConfig(4, self_conditioning=False), "cosine"),
}
DENOISE = Denoiser(None, None, table_VxE=jnp.asarray(TABLE_VxE))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_loss_reads_what_corrupt_gives_at_the_times_that_are_drawn(name):
    objective, batch = OBJECTIVES[name], text()

    @jax.jit
    def compute(key):
        seen = []

        def forward(inputs, t_BxL, layout):
            seen.append((inputs, t_BxL))
            return jnp.zeros((*t_BxL.shape, VOCABULARY.padded_size)), None

        def nll(inputs, t_BxL, layout, *_):
            forward(inputs, t_BxL, layout)
            return Nll(jnp.zeros(()), jnp.zeros(t_BxL.shape))

        objective.loss(DENOISE._replace(forward=forward, nll=nll), batch, key)
        return seen, objective.corrupt(batch, objective.draw_times(batch, key), key, DENOISE)

    ((inputs, t_BxL),), corrupted = compute(jax.random.key(3))
    if name == "block":  # [x_t, x_0]
        inputs, t_BxL = inputs[:, :12], t_BxL[:, :12]
    jax.tree.map(np.testing.assert_array_equal, (inputs, t_BxL), corrupted[:2])


@pytest.mark.parametrize("name", ["masked", "block", "uniform"])
def test_only_scored_tokens_are_hidden_and_more_of_them_the_later_it_is(name):
    """Of one key: what is hidden at a time is hidden at every later one."""
    objective, batch = OBJECTIVES[name], text(lambda place: place % 3)
    corrupt = jax.jit(objective.corrupt)
    before = np.zeros(batch.tokens_BxL.shape, bool)
    for t in (0.0, 0.3, 0.7, 1.0):
        t_BxL = jnp.full(batch.tokens_BxL.shape, t)
        inputs_BxL, told_BxL, hidden_BxL = corrupt(batch, t_BxL, jax.random.key(1))
        np.testing.assert_array_equal(inputs_BxL != batch.tokens_BxL, hidden_BxL)
        assert not (hidden_BxL & ~batch.scored_BxL).any()
        assert (np.asarray(told_BxL)[np.asarray(batch.scored_BxL)] == t_BxL[0, 0]).all()
        assert not (before & ~hidden_BxL).any() and (t == 0 or (hidden_BxL & ~before).any())
        before = np.asarray(hidden_BxL)
    if name != "uniform":  # whose noise may be the token itself
        np.testing.assert_array_equal(before, batch.scored_BxL)


def test_noise_on_embeddings_is_that_of_the_time_and_none_is_on_what_is_given():
    objective, batch = OBJECTIVES["gaussian"], text(lambda place: place % 3)
    clean_BxLxE = TABLE_VxE[batch.tokens_BxL]
    distances = []
    for t in (0.0, 0.5, 1.0):
        t_BxL = jnp.full(batch.tokens_BxL.shape, t)
        noisy, told_BxL, hidden_BxL = objective.corrupt(batch, t_BxL, jax.random.key(1), DENOISE)
        np.testing.assert_array_equal(hidden_BxL, batch.scored_BxL)
        np.testing.assert_array_equal(noisy.z_BxLxE[~hidden_BxL], clean_BxLxE[~hidden_BxL])
        np.testing.assert_allclose(told_BxL, t * hidden_BxL, atol=1e-6)
        distances.append(np.square(noisy.z_BxLxE - clean_BxLxE)[hidden_BxL].mean())
    assert distances[0] < 0.01 < distances[1] < distances[2]
    assert distances[2] == pytest.approx(1 + 1 / 4, rel=0.3)  # noise, and a row of length 1


@pytest.mark.parametrize("name", ["masked", "block"])
def test_a_given_mask_is_the_mask_and_its_time_is_that_of_its_share(name):
    objective, batch = OBJECTIVES[name], text()
    hidden_BxL = jnp.asarray(np.random.default_rng(0).random(batch.tokens_BxL.shape) < 0.5)
    hidden_BxL = hidden_BxL.at[0].set(batch.scored_BxL[0]).at[2].set(False)
    corrupted = objective.corrupt_with(batch, hidden_BxL)
    np.testing.assert_array_equal(corrupted.hidden_BxL, hidden_BxL)
    expected_BxL = np.where(hidden_BxL, VOCABULARY.mask_id, batch.tokens_BxL)
    np.testing.assert_array_equal(corrupted.inputs, expected_BxL)
    size = 3 if name == "block" else 100
    layout, scored_BxL = jax.tree.map(np.asarray, (batch.layout, batch.scored_BxL))
    for row, at in np.argwhere(scored_BxL):
        here = (layout.segments_BxL == layout.segments_BxL[row, at])[row] & scored_BxL[row]
        here &= (layout.positions_BxL // size == layout.positions_BxL[row, at] // size)[row]
        share = np.asarray(hidden_BxL)[row][here].mean()
        masked = float(objective.schedule.masked(corrupted.t_BxL[row, at]))
        assert masked == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("name", ["uniform", "gaussian", "autoregressive"])
def test_a_process_without_masks_refuses_one(name):
    batch = text()
    with pytest.raises(
        UserError, match="has no masks; use corrupt, or the objectives masked or block"
    ):
        OBJECTIVES[name].corrupt_with(batch, batch.scored_BxL)


def test_gaussian_diffusion_asks_for_the_embeddings_that_it_noises():
    batch = text()
    with pytest.raises(UserError, match="embeddings; pass its Denoiser"):
        OBJECTIVES["gaussian"].corrupt(batch, jnp.ones(batch.tokens_BxL.shape), jax.random.key(0))
