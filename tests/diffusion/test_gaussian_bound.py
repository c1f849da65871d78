"""The bound of Gaussian diffusion: closed forms, the entropy, exact and wrong networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlms_jax.config import GaussianConfig
from dlms_jax.diffusion import Vocabulary
from dlms_jax.diffusion.gaussian import Gaussian, objective as module, schedule_size
from dlms_jax.testing import Joint, exact_gaussian_denoiser, random_table


def config_of(low=-6.0, high=6.0, size=4, **settings):
    return GaussianConfig(
        embedding_size=size, gamma_min=low, gamma_max=high, self_conditioning=False, **settings
    )


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
    table_VxE = jnp.ones((joint.vocabulary.padded_size, 1)).at[0].set(-1.0)
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
    denoise = exact_gaussian_denoiser(wrong, config, table_VxE)
    value = by_quadrature(monkeypatch, Gaussian(joint.vocabulary, config), denoise, joint)
    expected = sum(closed_form(0.3, believed, low, high))
    assert value == pytest.approx(expected, abs=1e-4)
    assert expected > joint.entropy
    if believed != 0.3:
        assert expected > sum(closed_form(0.3, 0.3, low, high)) + 0.05


def test_bound_falls_to_the_entropy_as_the_end_points_widen():
    joint = Joint(3, 3)
    table_VxE, excess = random_table(joint.vocabulary.padded_size, 8), []
    sampled = Sampled(joint, 3000)
    for end in (2.0, 4.0, 12.0):
        config = config_of(-end, end, size=8)
        objective = Gaussian(joint.vocabulary, config)
        denoise = exact_gaussian_denoiser(joint, config, table_VxE)

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
    denoise = exact_gaussian_denoiser(other, config, random_table(joint.vocabulary.padded_size, 8))
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
    denoise = exact_gaussian_denoiser(joint, config, table_VxE, schedule=parameters_P)
    objective = Gaussian(joint.vocabulary, config, schedule)
    ends = objective.noise_schedule(denoise)
    assert (schedule == "learned") == (ends.gamma_min > -1.5) == (ends.gamma_max < 2.5)
    expected = sum(closed_form(0.3, 0.3, float(ends.gamma_min), float(ends.gamma_max)))
    rows = 8000
    texts = np.random.default_rng(0).permutation(np.arange(rows) % 10 >= 3)  # 3 in 10 are 0
    batch = joint.batch(texts.astype(int)[:, None])
    loss = jax.jit(lambda key: objective.loss(denoise, batch, key).total / rows)
    values = [float(loss(jax.random.key(seed))) for seed in range(10)]
    error = np.std(values, ddof=1) / np.sqrt(10)
    assert error < 0.015
    assert abs(np.mean(values) - expected) < 4 * error


def test_rounding_at_extreme_noise_does_not_show():
    """Where the symbols are certain, the bound is the prior KL alone: what float32 leaves of
    |x - x_hat|^2 is multiplied by up to exp(15)."""
    joint, config = Joint(3, 2), config_of(-15.0, -9.0, size=16)
    denoise = exact_gaussian_denoiser(joint, config, random_table(joint.vocabulary.padded_size, 16))
    objective = Gaussian(joint.vocabulary, config)
    batch = joint.batch(np.tile(joint.texts, (50, 1)))
    nats_BxL = jax.jit(lambda: objective.bound(denoise, batch, jax.random.key(0), 0, 1))()
    variance = 1 / (1 + np.exp(9.0))
    kl = 0.5 * (1 - variance + 16 * (variance - 1 - np.log(variance)))
    np.testing.assert_allclose(np.asarray(nats_BxL)[:, 1:], kl, atol=1e-4)
