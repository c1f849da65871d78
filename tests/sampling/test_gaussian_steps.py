"""The steps of Gaussian diffusion's samplers: against float64, and against flows in closed form."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampling.chains import SAMPLES, fill, open_canvas
from sampling.test_gaussian import CONFIG, JOINT, TABLE, keys, make_sampler
from scipy.special import expit

from dlms_jax.diffusion import Denoiser
from dlms_jax.diffusion.gaussian import posterior
from dlms_jax.diffusion.gaussian.gamma import Linear
from dlms_jax.sampling.prediction import Prediction
from dlms_jax.sampling.processes.gaussian import ProbabilityFlow, toward
from dlms_jax.sampling.sampler import run_sampler
from dlms_jax.testing import exact_gaussian_denoiser

# Formulas -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_step_is_accurate_at_extreme_gammas(eta):
    """In float32, against the formula of DDIM in float64."""
    z, x = np.float32(0.7), np.float32(-0.4)
    for t, s in [(15, 14), (15, -15), (4, 3.999), (0, -1), (-14.9, -15), (12, 12), (-15, -15)]:
        found = float(toward(z, x, jnp.float32(t), jnp.float32(s), eta))
        t, s = float(np.float32(t)), float(np.float32(s))
        alpha_t, alpha_s = np.sqrt(expit([-t, -s]))
        tau_squared = expit(s) * -np.expm1(s - t)
        noise = (z - alpha_t * x) / np.sqrt(expit(t))
        expected = alpha_s * x + np.sqrt(expit(s) - eta**2 * tau_squared) * noise
        assert found == pytest.approx(expected, rel=3e-6, abs=3e-7), (t, s)


def test_eta_1_is_a_draw_of_the_posterior():
    """The mean exactly, at extreme gammas too; mean and variance of what a step draws."""
    z, x = jnp.asarray([0.7, -2.0]), jnp.asarray([0.1, 0.9])
    for t, s in [(15.0, 14.0), (15.0, -15.0), (1.0, 0.0), (-14.9, -15.0)]:
        t, s = jnp.float32(t), jnp.float32(s)
        np.testing.assert_allclose(
            toward(z, x, t, s, 1.0), posterior(z, x, t, s)[0], rtol=3e-6, atol=1e-7
        )

    sampler, denoise = make_sampler("ancestral", 5), exact_gaussian_denoiser(JOINT, CONFIG, TABLE)
    state = sampler.start(denoise, open_canvas(JOINT, SAMPLES), keys(SAMPLES))
    z_BxLxE = jnp.broadcast_to(jnp.asarray([0.7, -2.0]), state.extra.z_BxLxE.shape)
    state = state._replace(extra=state.extra._replace(z_BxLxE=z_BxLxE))
    state = state._replace(step_B=state.step_B + 2)
    after = jax.jit(lambda state: sampler.step(denoise, state))(state).extra
    x_hat_LxE = after.x_hat_BxLxE[0]
    assert (after.x_hat_BxLxE == x_hat_LxE[None]).all()  # of equal z
    # Five gammas from 12 to -8: step 2 goes from 2 to -3.
    mean_LxE, variance = posterior(z_BxLxE[0], x_hat_LxE, jnp.float32(2), jnp.float32(-3))
    variance = float(variance.squeeze())
    holes = np.asarray(after.z_BxLxE)[:, 1:].reshape(SAMPLES, -1)
    error = np.sqrt(variance / SAMPLES)
    np.testing.assert_allclose(holes.mean(axis=0), np.ravel(mean_LxE[1:]), atol=4 * error)
    covariance = np.cov(holes.T) / variance
    np.testing.assert_allclose(covariance, np.eye(4), atol=4 * np.sqrt(2 / SAMPLES))


def test_euler_is_ddim_with_eta_0():
    denoise, canvas = exact_gaussian_denoiser(JOINT, CONFIG, TABLE), open_canvas(JOINT, 64)
    first, second = (
        fill(make_sampler(kind, 6, schedule="cosine"), denoise, canvas, keys(64))
        for kind in ("euler", "ddim 0")
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_spacings_meet_the_end_points_and_quantiles_are_equal_steps_of_variance(steps):
    fixed = Denoiser(None, None)
    for spacing in ("uniform", "cosine", "quantile"):
        sampler = make_sampler("ancestral", steps, schedule="cosine", spacing=spacing)
        gammas = np.array([sampler.gamma(fixed, i) for i in range(steps)])
        assert gammas[0] == pytest.approx(12, abs=1e-4) and (np.diff(gammas) < 0).all()
        if steps > 1:
            assert gammas[-1] == pytest.approx(-8, abs=1e-4)
        if spacing == "quantile":
            expected = np.linspace(expit(12), expit(-8), max(steps, 2))[:steps]
            np.testing.assert_allclose(expit(gammas), expected, rtol=1e-5)
        elif spacing == "cosine":
            schedule = sampler.objective.noise_schedule(fixed)
            t = np.cos(np.pi / 2 * np.arange(steps) / max(steps - 1, 1))
            np.testing.assert_allclose(gammas, [schedule.gamma(u) for u in t], atol=2e-3)


# Flows in closed form -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class OneGaussian:
    """An objective whose data are N(0.3, 0.5^2) in each component, with the exact estimate."""

    config: ClassVar = dataclasses.replace(CONFIG, head="embedding")
    mean: ClassVar = 0.3
    deviation: ClassVar = 0.5

    def noise_schedule(self, denoise):
        return Linear(-6.0, 6.0)

    def predict(self, denoise, z_BxLxE, gamma_BxL, layout, noisy_BxL):
        x_hat_BxLxE = self.x_hat(z_BxLxE, gamma_BxL[..., None])
        return jnp.zeros((*gamma_BxL.shape, JOINT.vocabulary.padded_size)), x_hat_BxLxE

    def x_hat(self, z, gamma):
        alpha, variance = jnp.sqrt(jax.nn.sigmoid(-gamma)), jax.nn.sigmoid(gamma)
        signal = self.deviation**2
        return (signal * alpha * z + variance * self.mean) / (alpha**2 * signal + variance)

    def flow(self, z, gamma_t, gamma_s):
        """Returns where the flow takes z: to the same quantile."""
        (a, b), (v, w) = np.sqrt(expit([-gamma_t, -gamma_s])), expit([gamma_t, gamma_s])
        spread = np.sqrt((b**2 * self.deviation**2 + w) / (a**2 * self.deviation**2 + v))
        return b * self.mean + spread * (z - a * self.mean)


@pytest.mark.parametrize(("order", "power"), [("euler", 1), ("heun", 2), ("dpm++", 2)])
def test_the_order_of_convergence(order, power):
    """The error of the flow's end, in float64, against the number of steps."""
    errors = []
    with jax.enable_x64(True):
        denoise = Denoiser(None, None, table_VxE=jnp.zeros((JOINT.vocabulary.padded_size, 2)))
        for moves in (64, 128):
            sampler = ProbabilityFlow(
                Prediction(JOINT.vocabulary), OneGaussian(), moves + 1, order=order
            )
            state = sampler.start(denoise, open_canvas(JOINT, 4), keys(4))
            z_BxLxE = np.random.default_rng(0).normal(size=state.extra.z_BxLxE.shape)
            state = state._replace(extra=state.extra._replace(z_BxLxE=jnp.asarray(z_BxLxE)))
            go = jax.jit(functools.partial(run_sampler, sampler, denoise, steps=moves))
            expected = OneGaussian().flow(z_BxLxE, 6.0, -6.0)
            off = np.asarray(go(state).extra.z_BxLxE) - expected
            errors.append(np.abs(off[:, 1:]).max())
    assert errors[0] > 1e-6  # far above the rounding
    assert np.log2(errors[0] / errors[1]) == pytest.approx(power, abs=0.1)


def test_ddim_retraces_itself():
    """Two points: from noise to data and back by the same steps; what is off falls with them."""

    def x_hat(z, gamma):
        bias = jnp.exp(-gamma - 0.5 * jax.nn.log_sigmoid(-gamma))
        return jnp.tanh(bias * z + 0.3)

    z = jnp.linspace(-2.5, 2.5, 41)
    errors = []
    for steps in (256, 512):
        gammas = jnp.linspace(6.0, -6.0, steps + 1)

        def move(z, ends):
            return toward(z, x_hat(z, ends[0]), ends[0], ends[1]), None

        there = jnp.stack([gammas[:-1], gammas[1:]], axis=1)
        back = jnp.stack([gammas[1:], gammas[:-1]], axis=1)[::-1]
        data, _ = jax.lax.scan(move, z, there)
        assert np.abs(np.abs(data) - 1).max() < 0.2  # at the points, but for those between
        again, _ = jax.lax.scan(move, data, back)
        errors.append(np.abs(again - z).max())
    assert errors[1] < 0.6 * errors[0] and errors[1] < 0.05
