"""Bad steps: which they are, that they change nothing, and what a rollback leaves out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlms_jax.errors import UserError
from dlms_jax.runtime.rollback import Rollback, Rollbacks, bad_steps
from dlms_jax.training.spikes import WINDOW, is_good, nothing_seen, with_step


def seen(losses, norms):
    recent = nothing_seen()
    for loss, norm in zip(losses, norms, strict=True):
        recent = with_step(recent, jnp.float32(loss), jnp.float32(norm))
    return recent


@pytest.mark.parametrize(
    ("loss", "norm", "good"),
    [
        (2.0, 1.0, True), (5.9, 2.9, True), (6.1, 1.0, False), (2.0, 3.1, False),
        (np.nan, 1.0, False), (2.0, np.inf, False), (0.0, 0.0, True),
    ],
)  # fmt: skip
def test_what_is_far_above_the_median_is_bad(loss, norm, good):
    recent = seen(np.linspace(1, 3, WINDOW), np.linspace(0.5, 1.5, WINDOW))  # medians 2 and 1
    assert bool(is_good(jnp.float32(loss), jnp.float32(norm), recent, 3.0)) is good


def test_nothing_is_a_spike_before_the_window_is_full():
    recent = seen(np.ones(WINDOW - 1), np.ones(WINDOW - 1))
    assert is_good(jnp.float32(1e9), jnp.float32(1), recent, 2.0)
    recent = with_step(recent, jnp.float32(1), jnp.float32(1))
    assert not is_good(jnp.float32(1e9), jnp.float32(1), recent, 2.0)


def test_a_loss_that_may_be_negative_is_judged_by_its_gradient_alone():
    recent = seen(-np.ones(WINDOW), np.ones(WINDOW))
    assert is_good(jnp.float32(5), jnp.float32(1), recent, 2.0)
    assert not is_good(jnp.float32(-1), jnp.float32(3), recent, 2.0)


def test_the_window_forgets_the_oldest():
    recent = seen(range(WINDOW + 5), range(WINDOW + 5))
    np.testing.assert_array_equal(recent[0], np.arange(5, WINDOW + 5))
    assert recent.shape == (2, WINDOW) and recent.dtype == jax.numpy.float32


@pytest.mark.parametrize("done", [12, 13, 40])
def test_it_does_not_matter_when_one_looks(done):
    """Bad from step 10 on; after three in a row the counter only goes on."""
    assert bad_steps(done, done - 9, at_most=3) == (10, 12)
    assert bad_steps(11, 2, at_most=3) is None


def test_each_rollback_leaves_out_the_batches_since_its_checkpoint():
    rollbacks = Rollbacks([{"to": 10, "first_bad": 12, "last_bad": 14}])
    assert rollbacks.offset == 4
    rollbacks.made.append(Rollback(20, 21, 23))
    assert rollbacks.offset == 7
    assert Rollbacks(rollbacks.saved()).made == rollbacks.made


def test_a_factor_that_would_skip_every_other_step_is_refused():
    from dlms_jax.testing import small_config

    with pytest.raises(UserError, match="spike_factor=0.9 should be above 1, or 0"):
        small_config(training__spike_factor=0.9)
