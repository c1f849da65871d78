"""Gaussian diffusion with exact networks: the bound, the losses, what is noised and what is not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from oracle import Joint
from oracle_gaussian import exact_denoiser, random_table
import pytest

from dlms_jax.config import GaussianConfig
from dlms_jax.diffusion import Denoiser, Prompts, Vocabulary, make_batch
from dlms_jax.diffusion.gaussian import Gaussian, objective as module, schedule_size


def config_of(low=-6.0, high=6.0, size=4, **settings):
    settings = {"self_conditioning": False, **settings}
    return GaussianConfig(embedding_size=size, gamma_min=low, gamma_max=high, **settings)


class Sampled:
    """Rows of texts as often as a joint has them, and what makes their mean the expectation."""

    def __init__(self, joint, rows):
        counts = np.ceil(joint.p * rows).astype(int)
        ids = np.random.default_rng(0).permutation(np.repeat(np.arange(len(joint.p)), counts))
        self.batch = joint.batch(joint.texts[ids])
        self.weights = (joint.p / counts)[ids]

    def mean(self, nats_BxL) -> float:
        return float((np.asarray(nats_BxL, np.float64).sum(axis=1) * self.weights).sum())


def estimate(sampled, nats_of, runs):
    """Returns (mean, standard error) of the expectation of nats_of(batch, key), jitted."""
    jitted = jax.jit(lambda key: nats_of(sampled.batch, key))
    values = [sampled.mean(jitted(jax.random.key(seed))) for seed in range(runs)]
    return np.mean(values), np.std(values, ddof=1) / np.sqrt(runs)


# Two symbols at -1 and 1, one place: everything is an integral over one normal variable.


def two_points(q=0.3):
    """Returns the joint of one symbol, 0 with probability q (EOS is the other), and its table."""
    joint = Joint(2, 1)
    joint.p = np.array([q, 1 - q])
    joint.vocabulary = Vocabulary(size=5, eos_id=1, pad_id=2, bos_id=3, mask_id=4)
    table_VxE = jnp.ones((joint.vocabulary.rows, 1)).at[0].set(-1.0)
    return joint, table_VxE


def closed_form(q, believed, low, high):
    """Returns the bound in float64 if the network thinks that symbol 0 has probability
    `believed`: (reconstruction, diffusion, prior)."""
    gammas, gamma_weights = np.polynomial.legendre.leggauss(400)
    gammas = low + (high - low) * (gammas + 1) / 2
    noises, noise_weights = np.polynomial.hermite_e.hermegauss(200)
    noise_weights = noise_weights / noise_weights.sum()
    alpha_of = lambda g: 1 / np.sqrt(1 + np.exp(g))  # noqa: E731
    sigma_of = lambda g: 1 / np.sqrt(1 + np.exp(-g))  # noqa: E731
    diffusion = reconstruction = 0.0
    for x, p in ((-1.0, q), (1.0, 1 - q)):
        alpha, sigma = alpha_of(gammas)[:, None], sigma_of(gammas)[:, None]
        z = alpha * x + sigma * noises[None]
        x_hat = np.tanh(alpha / sigma**2 * z + 0.5 * np.log((1 - believed) / believed))
        error = ((x - x_hat) ** 2 * noise_weights[None]).sum(axis=1)
        diffusion += p * (gamma_weights * (high - low) / 4 * np.exp(-gammas) * error).sum()
        z = alpha_of(low) * x + sigma_of(low) * noises
        nll = np.logaddexp(0, -2 * x * alpha_of(low) / sigma_of(low) ** 2 * z)
        reconstruction += p * (nll * noise_weights).sum()
    variance = sigma_of(high) ** 2
    return reconstruction, diffusion, 0.5 * (1 - variance + variance - 1 - np.log(variance))


def by_quadrature(monkeypatch, objective, denoise, joint):
    """Returns the expectation of `bound`, its draws replaced by nodes of t and of the noise."""
    t, t_weights = np.polynomial.legendre.leggauss(64)
    noise, noise_weights = np.polynomial.hermite_e.hermegauss(64)
    grid = np.stack(np.meshgrid((t + 1) / 2, noise, [0, 1], indexing="ij"), axis=-1).reshape(-1, 3)
    noise_weights = noise_weights / noise_weights.sum()
    weights = np.einsum("t,n,x->tnx", t_weights / 2, noise_weights, joint.p).ravel()
    shape = (len(grid), 2)
    t_BxL = jnp.asarray(np.broadcast_to(grid[:, :1], shape), jnp.float32)
    noise_BxLx1 = jnp.asarray(np.broadcast_to(grid[:, 1:2], shape), jnp.float32)[..., None]
    monkeypatch.setattr(module, "document_fractions", lambda key, row_B, segments_BxL: t_BxL)
    monkeypatch.setattr(module, "_example_normal", lambda key, row_B, shape: noise_BxLx1)
    batch = joint.batch(grid[:, 2:].astype(int))
    nats_BxL = jax.jit(lambda: objective.bound(denoise, batch, jax.random.key(0), 0, 1))()
    return float((np.asarray(nats_BxL, np.float64).sum(axis=1) * weights).sum())


@pytest.mark.parametrize(
    ("head", "low", "high", "believed"),
    [("logits", -4.0, 3.0, 0.3), ("logits", -1.0, 2.0, 0.8), ("embedding", -4.0, 3.0, 0.8)],
)
def test_bound_of_a_two_point_mixture_is_its_closed_form(head, low, high, believed, monkeypatch):
    joint, table_VxE = two_points()
    config = config_of(low, high, size=1, head=head, parameterisation="noise")
    wrong, _ = two_points(believed)
    denoise = exact_denoiser(wrong, config, table_VxE)
    value = by_quadrature(monkeypatch, Gaussian(joint.vocabulary, config), denoise, joint)
    expected = sum(closed_form(0.3, believed, low, high))
    assert value == pytest.approx(expected, abs=1e-4)
    assert expected > joint.entropy
    if believed != 0.3:
        assert expected > sum(closed_form(0.3, 0.3, low, high)) + 0.05


def test_bound_falls_to_the_entropy_as_the_end_points_widen():
    joint = Joint(3, 3)
    table_VxE, excess = random_table(joint.vocabulary.rows, 8), []
    sampled = Sampled(joint, 3000)
    for end in (2.0, 4.0, 12.0):
        config = config_of(-end, end, size=8)
        objective = Gaussian(joint.vocabulary, config)
        denoise = exact_denoiser(joint, config, table_VxE)

        def nats(batch, key, objective=objective, denoise=denoise):
            return sum(objective.bound(denoise, batch, key, s, 4) for s in range(4)) / 4

        mean, error = estimate(sampled, nats, runs=6)
        excess.append(mean - joint.entropy)
        assert error < 0.03
        assert excess[-1] > -4 * error
    assert excess[0] > 0.2 > excess[1] + 0.1
    assert abs(excess[2]) < 0.08


def test_bound_of_a_wrong_network_is_above_the_entropy():
    joint, other = Joint(3, 3, seed=0), Joint(3, 3, seed=1)
    config = config_of(size=8)
    denoise = exact_denoiser(other, config, random_table(joint.vocabulary.rows, 8))
    objective = Gaussian(joint.vocabulary, config)
    bound = lambda batch, key: objective.bound(denoise, batch, key, 0, 1)  # noqa: E731
    mean, error = estimate(Sampled(joint, 4000), bound, runs=6)
    assert mean - 4 * error > joint.entropy + 0.2


@pytest.mark.parametrize("schedule", ["cosine", "sqrt", "learned", "gumbel"])
def test_loss_of_the_bound_is_the_bound_whatever_the_schedule(schedule):
    """Against the closed form between the schedule's end points, which of learned ones move."""
    joint, table_VxE = two_points()
    parameters_P = 0.05 * jax.random.normal(jax.random.key(3), (schedule_size(schedule),))
    if schedule == "learned":
        parameters_P = parameters_P.at[-2:].set(jnp.array([0.1, -0.15]))
    config = config_of(-2.0, 3.0, size=1, loss="bound")
    denoise = exact_denoiser(joint, config, table_VxE, schedule=parameters_P)
    objective = Gaussian(joint.vocabulary, config, schedule)
    ends = objective.noise_schedule(denoise)
    assert (schedule == "learned") == (ends.gamma_min > -1.5) == (ends.gamma_max < 2.5)
    expected = sum(closed_form(0.3, 0.3, float(ends.gamma_min), float(ends.gamma_max)))
    rows = 12_000
    texts = np.random.default_rng(0).permutation(np.arange(rows) % 10 >= 3)  # 3 in 10 are 0
    batch = joint.batch(texts.astype(int)[:, None])
    loss = jax.jit(lambda key: objective.loss(denoise, batch, key).total / rows)
    values = [float(loss(jax.random.key(seed))) for seed in range(10)]
    error = np.std(values, ddof=1) / np.sqrt(10)
    assert error < 0.015
    assert abs(np.mean(values) - expected) < 4 * error


# What is noised, with what, and what the network is told.


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
    given_BxL = batch.scored_BxL & (batch.layout.positions_BxL <= number)
    layout = batch.layout._replace(given_BxL=given_BxL)
    return batch._replace(layout=layout, scored_BxL=batch.scored_BxL & ~given_BxL)


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
    given = np.asarray(batch.layout.given_BxL)
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
    """A part of the batch has the same bound, row by row, and parts sum to the whole's loss and
    gradient: also under self-conditioning, whose coin is the step's."""
    config = config_of(loss="bound", self_conditioning=True)
    objective, batch = Gaussian(vocabulary, config, "warped"), with_prompts(packed(6))
    parts = [jax.tree.map(lambda x: x[:3], batch), jax.tree.map(lambda x: x[3:], batch)]
    start = 0.1 * jax.random.normal(jax.random.key(9), (schedule_size("warped"),))

    @jax.jit
    def measure(batch, key):
        loss = lambda p: objective.loss(linear_network(p), batch, key).total  # noqa: E731
        return jax.value_and_grad(loss)(start), objective.bound(
            linear_network(start), batch, key, 1, 3
        )

    for seed in range(8):
        key = jax.random.key(seed)
        whole, (first, second) = measure(batch, key), [measure(part, key) for part in parts]
        np.testing.assert_allclose(first[0][0] + second[0][0], whole[0][0], rtol=1e-5)
        np.testing.assert_allclose(first[0][1] + second[0][1], whole[0][1], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(jnp.concatenate([first[1], second[1]]), whole[1], rtol=1e-5)
    assert float(measure(batch, jax.random.key(8))[0][0]) != float(whole[0][0])


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


@pytest.mark.parametrize("schedule", ["learned", "warped", "gumbel"])
def test_a_schedules_parameters_and_the_rest_are_taught_apart(vocabulary, schedule):
    """The table and the network get the gradient that they get from a fixed schedule of the same
    form. The shape gets the same under the bound as under the cross-entropy (of the same draws):
    the network's loss does not reach it. End points get a gradient under the bound alone."""
    batch, key = packed(4), jax.random.key(0)
    zeros = jnp.zeros(schedule_size(schedule))
    kernel = jnp.asarray(np.random.default_rng(2).normal(size=(9, 128)), jnp.float32)

    def total(loss, kind, table_VxE, kernel, parameters_P):
        denoise = linear_network(parameters_P, kernel=kernel)._replace(table_VxE=table_VxE)
        objective = Gaussian(vocabulary, config_of(loss=loss), kind)
        return objective.loss(denoise, batch, key).total

    gradient = jax.jit(jax.value_and_grad(total, argnums=(2, 3, 4)), static_argnums=(0, 1))
    bound, of_bound = gradient("bound", schedule, TABLE_VxE, kernel, zeros)
    _, of_cross_entropy = gradient("cross_entropy", schedule, TABLE_VxE, kernel, zeros)
    ends = 2 if schedule == "learned" else 0
    shapes = [np.asarray(of[2])[: len(zeros) - ends] for of in (of_bound, of_cross_entropy)]
    assert (shapes[0] != 0).all()
    np.testing.assert_allclose(*shapes, rtol=1e-4, atol=1e-7)
    if ends:
        assert (of_bound[2][-2:] != 0).all() and (of_cross_entropy[2][-2:] == 0).all()
    if schedule != "gumbel":  # at 0 the others are linear in t
        fixed, of_fixed = gradient("bound", "linear", TABLE_VxE, kernel, zeros)
        np.testing.assert_allclose(bound, fixed, rtol=1e-5)
        for learned, linear in zip(of_bound[:2], of_fixed[:2], strict=True):
            np.testing.assert_allclose(learned, linear, rtol=1e-3, atol=1e-3)


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


def test_rounding_at_extreme_noise_does_not_show():
    """Where the symbols are certain, the bound is the prior KL alone: what float32 leaves of
    |x - x_hat|^2 is multiplied by up to exp(15)."""
    joint, config = Joint(3, 2), config_of(-15.0, -9.0, size=16)
    denoise = exact_denoiser(joint, config, random_table(joint.vocabulary.rows, 16))
    objective = Gaussian(joint.vocabulary, config)
    batch = joint.batch(np.tile(joint.texts, (50, 1)))
    nats_BxL = jax.jit(lambda: objective.bound(denoise, batch, jax.random.key(0), 0, 1))()
    variance = 1 / (1 + np.exp(9.0))
    kl = 0.5 * (1 - variance + 16 * (variance - 1 - np.log(variance)))
    np.testing.assert_allclose(np.asarray(nats_BxL)[:, 1:], kl, atol=1e-4)
