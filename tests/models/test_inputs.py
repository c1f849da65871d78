"""What a denoiser reads before its layers."""

from conftest import small_config
import jax
import numpy as np
import pytest

from dlms_jax.models.inputs import NoisyInputs


@pytest.mark.parametrize("size", [32, 512])
def test_places_of_pure_noise_look_alike_and_still_differ(size):
    """Attention by position needs what all places share; with none, training stays at the unigram
    entropy for hundreds of steps. The rest is what they hold."""
    config = small_config(gaussian__embedding_size=size, model__width=256)
    inputs = NoisyInputs(config.model, config.gaussian, rows=9, schedule_size=0)
    z_BxLxE = jax.random.normal(jax.random.key(0), (4, 16, size))
    noisy = (z_BxLxE, 0 * z_BxLxE)  # of pure noise nothing is known
    params = inputs.init(jax.random.key(1), noisy)
    x_PxD = np.asarray(inputs.apply(params, noisy)).reshape(-1, 256)
    x_PxD = x_PxD / np.linalg.norm(x_PxD, axis=1, keepdims=True)
    cosines = (x_PxD @ x_PxD.T)[np.triu_indices(len(x_PxD), 1)]
    assert cosines.mean() == pytest.approx(0.8, abs=0.05)  # 2^2 / (2^2 + 1)
    assert cosines.max() < 0.95
