"""The public fixtures: they do what a user's own test needs of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlms_jax.diffusion import Denoiser
from dlms_jax.diffusion.masked import Masked
from dlms_jax.diffusion.schedules import Linear
from dlms_jax.errors import UserError
from dlms_jax.testing import Joint, dummy_model, dummy_texts, small_config


def test_the_dummy_model_samples_and_is_the_same_for_a_seed():
    model = dummy_model()
    text = model.sample("ab", length=4)
    assert repr(model) == "DiffusionLM(masked transformer, 43.2 kparameters, not saved)"
    assert text.startswith("ab") and text == dummy_model().sample("ab", length=4)
    other = dummy_model(small_config(objective__name="block"), seed=1)
    assert other.objective.traits.copies == 2
    kernels = [m.params["layers"]["mlp"]["up_proj"]["kernel"] for m in (model, other)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0


def test_an_unknown_setting_of_a_small_config_is_named():
    with pytest.raises(UserError, match="unknown setting config.model.widht"):
        small_config(model__widht=3)


def test_the_texts_are_reproducible():
    assert dummy_texts(5) == dummy_texts(5) != dummy_texts(5, seed=1)
    assert len(dummy_texts(5)) == 5 and all(dummy_texts(5))


def test_a_wrong_denoiser_is_found_by_the_oracle():
    """What a user does with it: the bound of the exact denoiser is the entropy, of another more."""
    joint = Joint(symbols=2, length=3)
    objective = Masked(joint.vocabulary, Linear())
    exact = joint.masked_denoiser()
    flat = Denoiser.from_logits(lambda *inputs: jnp.zeros_like(exact.logits(*inputs)))

    def bound(denoise):
        batch, number = joint.batch(), 3
        found = [
            objective.bound(denoise, batch, jax.random.key(0), i, number) for i in range(number)
        ]
        nats_B = sum(jnp.sum(nats_BxL, axis=1) for nats_BxL in found) / number
        return float(jnp.sum(jnp.asarray(joint.p) * nats_B))

    assert bound(flat) > joint.entropy
    assert bound(flat) == pytest.approx(3 * np.log(joint.vocabulary.size - 3), rel=1e-5)
