"""Gaussian diffusion: what is noised and what is not, self-conditioning, gradients, edges."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlms_jax.config import GaussianConfig
from dlms_jax.diffusion import Denoiser, Prompts, Vocabulary, make_batch
from dlms_jax.diffusion.gaussian import Gaussian, objective as module, schedule_size
from dlms_jax.testing import random_table


def config_of(low=-6.0, high=6.0, size=4, **settings):
    settings = {"self_conditioning": False, **settings}
    return GaussianConfig(embedding_size=size, gamma_min=low, gamma_max=high, **settings)


def packed(rows: int, lengths=(6, 5)):
    """Returns rows of documents of these lengths (BOS included), then two cells of padding."""
    segments = np.concatenate([np.full(n, i + 1) for i, n in enumerate(lengths)] + [np.zeros(2)])
    positions = np.concatenate([np.arange(n) for n in lengths] + [np.zeros(2)])
    tokens = np.random.default_rng(0).integers(0, 5, (rows, len(segments)))
    tokens = np.where(segments == 0, 5, np.where(positions == 0, 6, tokens)).astype(np.int32)
    tile = lambda x: jnp.asarray(np.tile(x, (rows, 1)), jnp.int32)  # noqa: E731
    scored_BxL = (tile(segments) > 0) & (tile(positions) > 0)
    return make_batch(
        jnp.asarray(tokens), tile(segments), tile(positions), scored_BxL, jnp.arange(rows)
    )


def with_prompts(batch, number=2):
    """Returns a batch whose documents' first tokens after BOS are given."""
    prompt_mask_BxL = batch.scored_BxL & (batch.layout.positions_BxL <= number)
    layout = batch.layout._replace(prompt_mask_BxL=prompt_mask_BxL)
    return batch._replace(layout=layout, weights_BxL=batch.weights_BxL * ~prompt_mask_BxL)


TABLE_VxE = random_table(128, 4, seed=5)


def linear_network(schedule=None, seen=None, kernel=None):
    """Returns a network that reads z, the estimate, the time and its neighbours; `seen` collects
    what it was given."""
    rng = np.random.default_rng(2)
    kernel = jnp.asarray(rng.normal(size=(9, 128)), jnp.float32) if kernel is None else kernel

    def logits(noisy, t_BxL, layout):
        if seen is not None:
            seen.append((noisy, t_BxL))
        same_BxLxL = layout.segments_BxL[:, :, None] == layout.segments_BxL[:, None, :]
        h_BxLxF = jnp.concatenate([*noisy, t_BxL[..., None]], axis=-1)
        h_BxLxF += 0.3 * jnp.einsum("blm,bmf->blf", same_BxLxL, h_BxLxF)
        return h_BxLxF @ kernel

    return Denoiser.from_logits(logits, table_VxE=TABLE_VxE, schedule=schedule)


def recorded(objective, batch, method="loss", schedule=None, **network):
    """Returns a jitted function of (key, *more) -> (what the method returns, the network's last
    inputs (Noisy, t_BxL))."""

    @jax.jit
    def run(key, *more):
        seen = []
        denoise = linear_network(schedule, seen, **network)
        returned = getattr(objective, method)(denoise, batch, key, *more)
        return returned, seen[-1]

    return run


@pytest.mark.parametrize("method", ["loss", "bound"])
def test_what_is_given_stays_clean_at_time_0(vocabulary, method):
    batch = with_prompts(packed(4))
    run = recorded(Gaussian(vocabulary, config_of()), batch, method)
    returned, (noisy, t_BxL) = run(jax.random.key(0), *([1, 2] if method == "bound" else []))
    clean_BxLxE, scored_BxL = np.asarray(TABLE_VxE)[batch.tokens_BxL], np.asarray(batch.scored_BxL)
    for x_BxLxE in noisy:
        np.testing.assert_array_equal(x_BxLxE[~scored_BxL], clean_BxLxE[~scored_BxL])
    assert (noisy.z_BxLxE[scored_BxL] != clean_BxLxE[scored_BxL]).all()
    assert (t_BxL[~scored_BxL] == 0).all() and (t_BxL[scored_BxL] > 0).all()
    for row, segments in zip(t_BxL, batch.layout.segments_BxL, strict=True):  # t by document
        times = [np.unique(row[(segments == s) & (row > 0)]) for s in (1, 2)]
        assert len(times[0]) == len(times[1]) == 1 and times[0] != times[1]
    if method == "bound":
        np.testing.assert_array_equal(np.asarray(returned) != 0, scored_BxL)


def test_hidden_prompts_are_the_masks_embedding(vocabulary):
    batch = with_prompts(packed(8))
    objective = Gaussian(vocabulary, config_of(), prompts=Prompts(drop=0.5))
    _, (noisy, _) = recorded(objective, batch)(jax.random.key(0))
    given = np.asarray(batch.layout.prompt_mask_BxL)
    hidden = np.all(noisy.z_BxLxE == TABLE_VxE[vocabulary.mask_id][None, None], axis=-1)
    by_row = [set(h[g].tolist()) for h, g in zip(hidden, given, strict=True)]
    assert all(len(row) == 1 for row in by_row) and len(set.union(*by_row)) == 2


def test_noise_has_the_variance_of_its_time(vocabulary):
    """z is normal about alpha x with standard deviation sigma, at every noise level."""
    batch = packed(1000)
    run = recorded(Gaussian(vocabulary, config_of(), "cosine"), batch)
    _, (noisy, t_BxL) = run(jax.random.key(0))
    scored = np.asarray(batch.scored_BxL)
    gamma = -6 + 12 * np.asarray(t_BxL, np.float64)[scored]
    noise = noise_of(noisy.z_BxLxE[scored], np.asarray(batch.tokens_BxL)[scored], gamma)
    for low in (-6, -3, 0, 3):
        part = noise[(gamma >= low) & (gamma < low + 3)].ravel()
        assert abs(part.mean()) < 4 / np.sqrt(part.size)
        assert abs(part.var() - 1) < 4 * np.sqrt(2 / part.size)
        assert abs((part**4).mean() - 3) < 4 * np.sqrt(96 / part.size)


def noise_of(z, tokens, gamma):
    """Returns the standard normal draws, by token and component, that made z of the tokens."""
    x, gamma = np.asarray(TABLE_VxE, np.float64)[tokens], np.asarray(gamma)[..., None]
    return (np.asarray(z, np.float64) - x / np.sqrt(1 + np.exp(gamma))) * np.sqrt(
        1 + np.exp(-gamma)
    )


def test_bound_does_not_repeat_its_noise_between_samples(vocabulary):
    """And its times are stratified: of n samples each is 1/n further."""
    batch = packed(2)
    run = recorded(Gaussian(vocabulary, config_of()), batch, "bound")
    seen = [run(jax.random.key(0), sample, 4)[1] for sample in range(4)]
    times = np.array([t_BxL[0, 1] for _, t_BxL in seen], np.float64)
    np.testing.assert_allclose(np.diff(np.sort(times)), 0.25, atol=1e-6)
    tokens = np.asarray(batch.tokens_BxL)[0, 1:6]
    draws = [
        noise_of(noisy.z_BxLxE[0, 1:6], tokens, np.full(5, -6 + 12 * t))
        for (noisy, _), t in zip(seen, times, strict=True)
    ]
    assert np.abs(draws[0] - draws[1]).min() > 1e-3


def test_a_row_is_a_function_of_the_key_and_its_number_alone(vocabulary):
    """Beside other rows a row has the same bound, and halves of a batch sum to the whole's loss and
    gradient: also under self-conditioning, whose coin is the step's."""
    config = config_of(loss="bound", self_conditioning=True)
    objective, whole = Gaussian(vocabulary, config, "warped"), with_prompts(packed(6))
    # Each half twice: of the whole's shape.
    halves = [
        jax.tree.map(lambda x: jnp.concatenate([x[:3], x[:3]]), whole),
        jax.tree.map(lambda x: jnp.concatenate([x[3:], x[3:]]), whole),
    ]
    start = 0.1 * jax.random.normal(jax.random.key(9), (schedule_size("warped"),))

    @jax.jit
    def measure(batch, key):
        loss = lambda p: objective.loss(linear_network(p), batch, key).total  # noqa: E731
        bound = objective.bound(linear_network(start), batch, key, 1, 3)
        return jax.value_and_grad(loss)(start), bound

    totals = []
    for seed in range(8):
        key = jax.random.key(seed)
        (of_whole, bound), (first, second) = measure(whole, key), [measure(x, key) for x in halves]
        of_halves = jax.tree.map(lambda x, y: (x + y) / 2, first[0], second[0])
        np.testing.assert_allclose(of_halves[0], of_whole[0], rtol=1e-5)
        np.testing.assert_allclose(of_halves[1], of_whole[1], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(jnp.concatenate([first[1][:3], second[1][:3]]), bound, rtol=1e-5)
        totals.append(float(of_whole[0]))
    assert len(set(totals)) == 8


# Self-conditioning, and where gradients go.


def test_half_of_the_steps_read_a_first_pass_and_send_no_gradient_through_it(vocabulary):
    """Loss and gradient of each step equal those made by hand from one pass, or from two."""
    objective, batch = Gaussian(vocabulary, config_of(self_conditioning=True)), packed(3)
    start = jnp.asarray(np.random.default_rng(2).normal(size=(9, 128)), jnp.float32)

    def by_hand(kernel, z_BxLxE, gamma_BxL, passes):
        denoise = linear_network(kernel=kernel)
        given = z_BxLxE, gamma_BxL, batch.layout, batch.scored_BxL
        estimate = objective.first_estimate(denoise, z_BxLxE, gamma_BxL, batch.scored_BxL)
        for _ in range(passes):
            log_p_BxLxV, x_hat = objective.predict(denoise, *given, jax.lax.stop_gradient(estimate))
            estimate = x_hat
        nll_BxL = -jnp.take_along_axis(log_p_BxLxV, batch.tokens_BxL[..., None], -1)[..., 0]
        return jnp.sum(jnp.where(batch.scored_BxL, nll_BxL, 0.0))

    @jax.jit
    def step(key, z_BxLxE, gamma_BxL):
        loss = lambda kernel: objective.loss(linear_network(kernel=kernel), batch, key).total  # noqa: E731
        found = jax.value_and_grad(loss)(start)
        return found, *(jax.value_and_grad(by_hand)(start, z_BxLxE, gamma_BxL, n) for n in (1, 2))

    record, twice = recorded(objective, batch), []
    for seed in range(24):
        _, (noisy, t_BxL) = record(jax.random.key(seed))
        found, one, two = step(jax.random.key(seed), noisy.z_BxLxE, -6 + 12 * t_BxL)
        twice.append(abs(found[0] - two[0]) < abs(found[0] - one[0]))
        expected, other = (two, one) if twice[-1] else (one, two)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-3, atol=1e-3)
        assert abs(expected[0] - other[0]) > 1e-3
    assert 6 <= sum(twice) <= 18  # of 24: a fair coin goes beyond in one of 100 tests


def test_bound_and_samplers_read_a_first_pass_always(vocabulary):
    """`predict` without an estimate makes one, by a pass that read the flat prior's."""
    objective, batch = Gaussian(vocabulary, config_of(self_conditioning=True)), packed(3)
    once = Gaussian(vocabulary, config_of())
    _, (noisy, t_BxL) = recorded(objective, batch, "bound")(jax.random.key(0), 0, 1)
    _, (first, _) = recorded(once, batch, "bound")(jax.random.key(0), 0, 1)
    np.testing.assert_array_equal(noisy.z_BxLxE, first.z_BxLxE)
    _, x_hat = once.predict(
        linear_network(), first.z_BxLxE, -6 + 12 * t_BxL, batch.layout, batch.scored_BxL
    )
    np.testing.assert_allclose(noisy.estimate_BxLxE, x_hat, atol=1e-5)
    assert np.abs(x_hat - first.estimate_BxLxE).max() > 0.1


def test_first_estimate_is_the_posterior_mean_under_a_flat_prior(vocabulary):
    batch = packed(2)
    z_BxLxE = jax.random.normal(jax.random.key(0), (*batch.tokens_BxL.shape, 4))
    gamma_BxL = jnp.full(batch.tokens_BxL.shape, -1.0)
    estimate = Gaussian(vocabulary, config_of()).first_estimate(
        linear_network(), z_BxLxE, gamma_BxL, batch.scored_BxL
    )
    table = np.asarray(TABLE_VxE, np.float64)[[0, 1, 2, 3, 4, 7]]  # what a text may hold
    alpha, variance = 1 / np.sqrt(1 + np.exp(-1.0)), 1 / (1 + np.exp(1.0))
    z = np.asarray(z_BxLxE, np.float64)[:, :, None]
    p = np.exp(-((z - alpha * table) ** 2).sum(axis=-1) / (2 * variance))
    expected = (p / p.sum(axis=-1, keepdims=True)) @ table
    expected = np.where(batch.scored_BxL[..., None], expected, z_BxLxE)
    np.testing.assert_allclose(estimate, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "loss"),
    [("learned", "bound"), ("learned", "cross_entropy"), ("gumbel", "score_matching")],
)
def test_a_schedules_shape_and_the_rest_are_taught_apart(vocabulary, schedule, loss, monkeypatch):
    """Without the schedule's own loss its shape gets no gradient, and all else gets the same. End
    points get one under the bound alone, and from it alone."""
    batch, key = packed(4), jax.random.key(0)
    zeros = jnp.zeros(schedule_size(schedule))
    kernel = jnp.asarray(np.random.default_rng(2).normal(size=(9, 128)), jnp.float32)
    objective = Gaussian(vocabulary, config_of(loss=loss), schedule)
    ends = 2 if schedule == "learned" else 0
    shape = len(zeros) - ends

    def measure():
        def total(table_VxE, kernel, parameters_P):
            denoise = linear_network(parameters_P, kernel=kernel)._replace(table_VxE=table_VxE)
            return objective.loss(denoise, batch, key).total

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(TABLE_VxE, kernel, zeros)

    value, (of_table, of_kernel, of_schedule) = measure()
    monkeypatch.setattr(module, "fit_loss", lambda *a: jnp.zeros(batch.tokens_BxL.shape))
    other, (table, kernel_, nothing) = measure()
    np.testing.assert_allclose(value, other, rtol=1e-6)
    np.testing.assert_allclose(of_table, table, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(of_kernel, kernel_, rtol=1e-4, atol=1e-4)
    assert (of_schedule[:shape] != 0).all() and (nothing[:shape] == 0).all()
    np.testing.assert_allclose(of_schedule[shape:], nothing[shape:], rtol=1e-4)
    assert ((nothing[shape:] != 0) == (loss == "bound")).all()


def test_learned_schedules_fit_the_variance_of_documents(vocabulary):
    """What is fitted is the square of a document's mean integrand, not the mean of squares: by
    hand, from the estimates, weighted by the document's tokens."""
    batch = packed(4, lengths=(6, 3))
    objective, zeros = Gaussian(vocabulary, config_of(), "learned"), jnp.zeros(66)
    loss, (noisy, t_BxL) = recorded(objective, batch, schedule=zeros)(jax.random.key(0))
    gamma_BxL = -6 + 12 * t_BxL
    given = noisy.z_BxLxE, gamma_BxL, batch.layout, batch.scored_BxL
    _, x_hat = jax.jit(lambda given: objective.predict(linear_network(), *given))(given)
    error = np.asarray(((x_hat - TABLE_VxE[batch.tokens_BxL]) ** 2).sum(axis=-1))
    integrand, expected = 0.5 * np.exp(-np.asarray(gamma_BxL)) * error, 0.0
    mass_K = objective.noise_schedule(linear_network(zeros)).mass_K
    for row, document in np.ndindex(4, 2):
        of_document = batch.layout.segments_BxL[row] == document + 1
        here = np.asarray(of_document & batch.scored_BxL[row])
        density = mass_K[int(t_BxL[row][here][0] * 64)] * 64
        expected += here.sum() * (12 * integrand[row][here].mean() / np.log(6) / density) ** 2
    assert float(loss.metrics["schedule_fit"]) == pytest.approx(float(expected), rel=1e-3)


def test_end_points_get_the_derivative_of_the_bound(vocabulary):
    """Against finite differences of the loss at the same key."""
    batch, key = packed(4), jax.random.key(0)
    objective = Gaussian(vocabulary, config_of(-2.0, 0.5, loss="bound"), "learned")
    start = jnp.zeros(schedule_size("learned")).at[-2:].set(jnp.array([0.05, -0.05]))
    loss = jax.jit(lambda p: objective.loss(linear_network(p), batch, key).total)
    gradient = jax.grad(loss)(start)
    for end in (-2, -1):
        step = jnp.zeros_like(start).at[end].set(1e-3)
        slope = (loss(start + step) - loss(start - step)) / 2e-3
        assert gradient[end] == pytest.approx(float(slope), rel=0.02)
        assert abs(slope) > 1


def test_score_matching_is_the_squared_error_of_what_it_names(vocabulary):
    """Half of it, summed over the embedding, from z, x0 and x_hat by the definitions, in float64.
    With it goes the reconstruction."""
    batch, config = packed(4), config_of(-2.0, 2.0, loss="score_matching")

    @jax.jit
    def measure(key):
        seen, losses = [], {}
        for name in ("x0", "noise", "v", "score"):
            named = dataclasses.replace(config, parameterisation=name)
            objective, denoise = Gaussian(vocabulary, named), linear_network(seen=seen)
            loss = objective.loss(denoise, batch, key)
            losses[name] = loss.total - loss.metrics["reconstruction"]
        noisy, t_BxL = seen[-1]
        given = noisy.z_BxLxE, -2 + 4 * t_BxL, batch.layout, batch.scored_BxL
        return losses, noisy.z_BxLxE, t_BxL, objective.predict(denoise, *given)[1]

    losses, z, t_BxL, x_hat = jax.tree.map(np.asarray, measure(jax.random.key(4)))
    gamma = (-2 + 4 * t_BxL.astype(np.float64))[..., None]
    alpha, sigma = 1 / np.sqrt(1 + np.exp(gamma)), 1 / np.sqrt(1 + np.exp(-gamma))

    def outputs(x):
        noise = (z - alpha * x) / sigma
        return {"x0": x, "noise": noise, "v": alpha * noise - sigma * x, "score": -noise / sigma}

    true = outputs(np.asarray(TABLE_VxE, np.float64)[batch.tokens_BxL])
    for name, output in outputs(x_hat.astype(np.float64)).items():
        squares = ((true[name] - output) ** 2).sum(axis=-1)[np.asarray(batch.scored_BxL)]
        assert losses[name] == pytest.approx(0.5 * squares.sum(), rel=1e-4), name


# Edges.


@pytest.mark.parametrize(
    ("loss", "head"),
    [("bound", "logits"), ("cross_entropy", "embedding"), ("score_matching", "embedding")],
)
def test_nothing_scored_one_symbol_and_extreme_noise_break_nothing(loss, head):
    """Rows of BOS alone, of given tokens alone, a vocabulary of one text symbol, gamma +-15."""
    vocabulary = Vocabulary(size=4, eos_id=0, pad_id=1, bos_id=2, mask_id=3)
    config = config_of(-15.0, 15.0, loss=loss, head=head, parameterisation="score")
    columns = 128 if head == "logits" else 4
    start = jnp.asarray(np.random.default_rng(0).normal(size=(9, columns)), jnp.float32)
    batch = packed(2, lengths=(1, 4))
    batch = batch._replace(tokens_BxL=jnp.where(batch.scored_BxL, 0, 2))
    nothing = with_prompts(batch, number=9)
    assert not nothing.scored_BxL.any()
    schedule = jnp.zeros(schedule_size("learned"))
    objective = Gaussian(vocabulary, config, "learned")

    @jax.jit
    def measure(batch):
        def total(table_VxE, kernel, schedule):
            denoise = linear_network(schedule, kernel=kernel)._replace(table_VxE=table_VxE)
            return objective.loss(denoise, batch, jax.random.key(0)).total

        graded = jax.value_and_grad(total, argnums=(0, 1, 2))(TABLE_VxE, start, schedule)
        denoise = linear_network(schedule, kernel=start)
        return graded, objective.bound(denoise, batch, jax.random.key(0), 0, 2)

    for leaf in jax.tree.leaves(measure(batch)):
        assert np.isfinite(leaf).all()
    for leaf in jax.tree.leaves(measure(nothing)):
        assert (np.asarray(leaf) == 0).all()


def test_a_network_in_bfloat16_gives_nearly_the_same_bound(vocabulary):
    """The bias, the estimate and the errors stay in float32: only the network's own rounding
    shows, and no more of it at low noise, where it would be multiplied by exp(6)."""
    batch, objective = packed(8), Gaussian(vocabulary, config_of())
    exact = linear_network()

    def logits(noisy, t_BxL, layout):
        noisy = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), noisy)
        logits_BxLxV = exact.logits(noisy, t_BxL, layout).astype(jnp.bfloat16)
        return logits_BxLxV.astype(jnp.float32)

    rounded = Denoiser.from_logits(logits, table_VxE=TABLE_VxE)
    bound = lambda d: objective.bound(d, batch, jax.random.key(0), 0, 1)  # noqa: E731
    values = [np.asarray(x) for x in jax.jit(lambda: (bound(exact), bound(rounded)))()]
    np.testing.assert_allclose(values[1], values[0], rtol=0.05, atol=0.05)
