"""With the exact denoiser every bound equals the entropy (DESIGN section 4, oracle 1)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlms_jax.diffusion import Autoregressive, Cosine, Denoiser, Linear, Masked, Polynomial
from dlms_jax.testing import Joint


def mean_over_joint(joint: Joint, nats_BxL) -> float:
    """Returns the expectation, over the joint, of a row's summed nats (one row a text)."""
    return float((np.asarray(nats_BxL, np.float64).sum(axis=1) * joint.p).sum())


@pytest.mark.parametrize(("symbols", "length"), [(2, 4), (3, 3), (4, 2)])
def test_autoregressive_bound_is_the_entropy(symbols, length):
    joint = Joint(symbols, length)
    objective = Autoregressive(joint.vocabulary)
    nats = objective.bound(joint.next_token_denoiser(), joint.batch(), jax.random.key(0), 0, 1)
    assert mean_over_joint(joint, nats) == pytest.approx(joint.entropy, abs=1e-5)


@pytest.mark.parametrize(("symbols", "length"), [(2, 4), (3, 3), (4, 2)])
def test_masked_bound_is_the_entropy_by_enumeration_of_masks(symbols, length):
    """Sums over every set of masks with its probability: no Monte Carlo, so equality is exact."""
    joint = Joint(symbols, length)
    batch, denoise = joint.batch(), joint.masked_denoiser()
    bias_V = joint.vocabulary.text_bias_V()
    total = 0.0
    for masks in itertools.product([False, True], repeat=length):
        k = sum(masks)
        if not k:
            continue
        masked_BxL = jnp.asarray([[False, *masks]] * len(joint.texts))
        inputs_BxL = jnp.where(masked_BxL, joint.vocabulary.mask_id, batch.tokens_BxL)
        nll_BxL = denoise.nll(
            inputs_BxL, jnp.ones(inputs_BxL.shape), batch.layout, batch.tokens_BxL,
            masked_BxL.astype(jnp.float32), bias_V,
        ).nll_BxL  # fmt: skip
        # k uniform on 1..n, then a uniform subset of that size, weight n / k
        probability = 1 / length / len(list(itertools.combinations(range(length), k)))
        total += probability * length / k * mean_over_joint(joint, nll_BxL)
    assert total == pytest.approx(joint.entropy, abs=1e-5)


def test_count_form_estimates_the_entropy_without_bias():
    joint = Joint(3, 3)
    objective = Masked(joint.vocabulary, Linear())
    bound = jax.jit(objective.bound, static_argnums=(0, 4))
    denoise, batch, samples = joint.masked_denoiser(), joint.batch(), 6
    runs = []
    for seed in range(150):
        key = jax.random.key(seed)
        nats = [bound(denoise, batch, key, s, samples) for s in range(samples)]
        runs.append(mean_over_joint(joint, sum(nats) / samples))
    error = np.std(runs) / np.sqrt(len(runs))
    assert error < 0.02
    assert abs(np.mean(runs) - joint.entropy) < 4 * error


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Polynomial(2.0), Polynomial(0.5)])
def test_training_loss_estimates_the_entropy_whatever_the_schedule(schedule):
    joint = Joint(3, 3)
    objective = Masked(joint.vocabulary, schedule)
    denoise, copies = joint.masked_denoiser(), 40
    batch = joint.batch(np.tile(joint.texts, (copies, 1)))
    p = np.tile(joint.p, copies) / copies

    @jax.jit
    def estimate(key):
        # One row's share of the loss: the loss of each row alone, weighted by its text's p.
        inputs, t, masked = objective.corrupt(batch, objective.draw_times(batch, key), key)
        weights = jnp.where(masked, schedule.weight(t), 0.0)
        _, nll, _ = denoise.nll(
            inputs, t, batch.layout, batch.tokens_BxL, weights, joint.vocabulary.text_bias_V()
        )
        rows = jnp.sum(weights * nll, axis=1)
        return jnp.sum(rows * p), jnp.sum(rows), objective.loss(denoise, batch, key).total

    runs = []
    for seed in range(200):
        expected, summed, loss = estimate(jax.random.key(seed))
        assert float(loss) == pytest.approx(float(summed), rel=1e-5)
        runs.append(float(expected))
    error = np.std(runs) / np.sqrt(len(runs))
    assert error < 0.05
    assert abs(np.mean(runs) - joint.entropy) < 4 * error


def test_bound_of_a_wrong_denoiser_is_above_the_entropy():
    joint, other = Joint(3, 3, seed=0), Joint(3, 3, seed=1)
    objective = Masked(joint.vocabulary, Linear())
    denoise, batch = other.masked_denoiser(), joint.batch()
    bound = jax.jit(lambda key: objective.bound(denoise, batch, key, 0, 1))
    values = [mean_over_joint(joint, bound(jax.random.key(seed))) for seed in range(100)]
    assert np.mean(values) > joint.entropy + 0.2


def test_count_form_gives_a_time_conditioned_network_the_right_time():
    """t given k is Beta(k, n - k + 1): its mean is k / (n + 1), and over all k it is uniform."""
    joint = Joint(2, 4)
    seen = []

    def logits(inputs_BxL, t_BxL, layout):
        seen.append((inputs_BxL == joint.vocabulary.mask_id, t_BxL))
        return jnp.zeros((*inputs_BxL.shape, joint.vocabulary.padded_size))

    objective = Masked(joint.vocabulary, Linear())
    batch = joint.batch(np.tile(joint.texts, (500, 1)))
    objective.bound(Denoiser.from_logits(logits), batch, jax.random.key(0), 0, 1)
    masked_BxL, t_BxL = map(np.asarray, seen[0])
    t, k = t_BxL[:, 0], masked_BxL.sum(axis=1)
    assert (t_BxL == t[:, None]).all()
    for number in range(1, 5):
        of_k = t[k == number]
        assert abs(len(of_k) / len(t) - 1 / 4) < 0.01  # stratified: k is nearly exactly uniform
        beta_std = np.sqrt(number * (5 - number) / (25 * 6))
        assert abs(of_k.mean() - number / 5) < 4 * beta_std / np.sqrt(len(of_k))
