"""What a denoiser reads before its layers.

Attention by position needs what all places share; with none, training stays at the unigram entropy
for hundreds of steps. The rest is what they hold.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlms_jax.models.inputs import Inputs, NoisyInputs
from dlms_jax.testing import small_config


@pytest.mark.parametrize("size", [32, 512])
def test_places_of_pure_noise_look_alike_and_still_differ(size):
    config = small_config(gaussian__embedding_size=size, model__width=256)
    inputs = NoisyInputs(config.model, config.gaussian, vocab_size=9, schedule_size=0)
    z_BxLxE = jax.random.normal(jax.random.key(0), (4, 16, size))
    noisy = (z_BxLxE, 0 * z_BxLxE)  # of pure noise nothing is known
    params = inputs.init(jax.random.key(1), noisy)
    cosines = cosines_between(inputs.apply(params, noisy).reshape(-1, 256))
    assert cosines.mean() == pytest.approx(0.8, abs=0.05)  # 2^2 / (2^2 + 1)
    assert cosines.max() < 0.95


def test_symbols_begin_alike_and_still_differ():
    inputs = Inputs(small_config(model__width=256).model, vocab_size=50)
    params = inputs.init(jax.random.key(1), jnp.zeros((1, 1), jnp.int32))
    cosines = cosines_between(params["params"]["embedding"])
    assert cosines.mean() == pytest.approx(0.8, abs=0.05)
    assert cosines.max() < 0.95


def cosines_between(x_RxD):
    """Returns the cosine of the angle between each two rows."""
    x_RxD = np.asarray(x_RxD) / np.linalg.norm(x_RxD, axis=1, keepdims=True)
    return (x_RxD @ x_RxD.T)[np.triu_indices(len(x_RxD), 1)]
