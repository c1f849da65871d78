"""Schedules: end points, derivative, weight, inverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlms_jax.diffusion import Cosine, Linear, Polynomial

SCHEDULES = [Linear(), Cosine(), Polynomial(1.0), Polynomial(2.0), Polynomial(0.5)]
T = jnp.linspace(0.01, 0.99, 99)


@pytest.mark.parametrize("schedule", SCHEDULES)
class TestSchedule:
    def test_runs_from_clean_to_masked(self, schedule):
        ends = schedule.alpha(jnp.array([0.0, 1.0]))
        np.testing.assert_allclose(ends, [1.0, 0.0], atol=1e-6)
        assert (jnp.diff(schedule.alpha(T)) < 0).all()

    def test_derivative_is_that_of_alpha(self, schedule):
        with jax.enable_x64(True):
            t, h = np.linspace(0.01, 0.99, 99), 1e-6
            slope = (schedule.alpha(jnp.asarray(t + h)) - schedule.alpha(jnp.asarray(t - h))) / (
                2 * h
            )
            np.testing.assert_allclose(schedule.alpha_prime(jnp.asarray(t)), slope, rtol=1e-6)

    def test_weight_is_the_bounds(self, schedule):
        with jax.enable_x64(True):
            t = jnp.asarray(T, jnp.float64)
            expected = -schedule.alpha_prime(t) / (1 - schedule.alpha(t))
        np.testing.assert_allclose(schedule.weight(T), expected, rtol=2e-5)

    def test_masked_keeps_its_precision_at_small_t(self, schedule):
        t = np.array([1e-6, 1e-5, 1e-4])
        with jax.enable_x64(True):
            expected = 1 - schedule.alpha(jnp.asarray(t, jnp.float64))
        np.testing.assert_allclose(
            schedule.masked(jnp.asarray(t, jnp.float32)), expected, rtol=1e-4
        )

    def test_time_inverts_masked(self, schedule):
        np.testing.assert_allclose(schedule.time(schedule.masked(T)), T, rtol=1e-3)
