"""Where steps lie in time, against the formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampling.chains import step_time

from dlms_jax.diffusion import Cosine, Linear, Polynomial
from dlms_jax.sampling.timesteps import time, times

SCHEDULES = Linear(), Cosine(), Polynomial(2.0)


@pytest.mark.parametrize("spacing", ["uniform", "cosine", "quantile"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_times_fall_from_1_to_exactly_0(spacing, schedule):
    for steps in (1, 2, 7, 1000):
        at = jax.jit(lambda i: times(spacing, schedule, steps, i))  # noqa: B023 (called at once)
        t, s = at(jnp.arange(steps))
        expected = [step_time(spacing, schedule, steps, i) for i in range(steps)]
        np.testing.assert_allclose(t, expected, rtol=1e-5, atol=1e-7)
        assert t[0] == 1 and s[-1] == 0
        assert (t > s).all()
        np.testing.assert_array_equal(t[1:], s[:-1])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_quantile_steps_reveal_equally_many(schedule):
    shares = schedule.masked(time("quantile", schedule, 10, jnp.arange(11)))
    np.testing.assert_allclose(shares, np.linspace(1, 0, 11), atol=1e-6)


def test_the_spacings_differ():
    third = [float(time(spacing, Cosine(), 3, 1)) for spacing in ("uniform", "cosine", "quantile")]
    expected = [2 / 3, np.cos(np.pi / 6), 2 / np.pi * np.arcsin(2 / 3)]
    np.testing.assert_allclose(third, expected, rtol=1e-6)
