"""Weights of tokens: what an advantage of any sign does to the loss of every objective."""

import jax
import jax.numpy as jnp
from models.small import packed
import numpy as np
import pytest

from dlms_jax.config import BlockConfig, GaussianConfig
from dlms_jax.diffusion import (
    Autoregressive,
    Block,
    Cosine,
    Denoiser,
    Gaussian,
    Linear,
    Masked,
    Prompts,
    Uniform,
    Vocabulary,
    make_batch,
)

VOCABULARY = Vocabulary(size=100, pad_id=95, bos_id=96, eos_id=97, mask_id=98)
TABLE_VxE = np.random.default_rng(0).normal(size=(VOCABULARY.padded_size, 4)).astype(np.float32)
TABLE_VxE /= np.linalg.norm(TABLE_VxE, axis=1, keepdims=True)
PROMPTS = Prompts(drop=0.3, random=0.3)
OBJECTIVES = {
    "masked": Masked(VOCABULARY, Cosine(), PROMPTS),
    "block": Block(VOCABULARY, Linear(), BlockConfig(3), PROMPTS),
    "uniform": Uniform(VOCABULARY, Linear(), 0.2, PROMPTS),
    "autoregressive": Autoregressive(VOCABULARY, PROMPTS),
    **{
        f"gaussian {loss}": Gaussian(VOCABULARY, GaussianConfig(4, loss=loss), prompts=PROMPTS)
        for loss in ("score_matching", "bound", "cross_entropy")
    },
}


def text(weight_of=np.ones_like):
    """Returns rows of documents whose scored tokens have the weights of a function of their
    places."""
    layout = packed(((5, 5), (9, 1), (12,), (1, 11)))
    segments, positions = layout.segments_BxL, layout.positions_BxL
    tokens = np.random.default_rng(1).integers(0, 90, positions.shape, np.int32)
    tokens = np.where(positions == 0, VOCABULARY.bos_id, tokens)
    arrays = map(jnp.asarray, (tokens, segments, positions, positions > 0))
    batch = make_batch(*arrays, jnp.arange(4))
    places = np.arange(positions.size, dtype=np.float32).reshape(positions.shape)
    return batch._replace(weights_BxL=batch.weights_BxL * weight_of(places))


@pytest.fixture(scope="module", params=OBJECTIVES)
def measure(request):
    """A function from a batch to (total, the gradient of it by a network's weights, count)."""
    objective, rng = OBJECTIVES[request.param], np.random.default_rng(2)
    features = 9 if request.param.startswith("gaussian") else VOCABULARY.padded_size + 1
    kernel = jnp.asarray(rng.normal(size=(features, VOCABULARY.padded_size)), jnp.float32)

    @jax.jit
    def measured(batch):
        def loss(kernel):
            def logits(inputs, t_BxL, layout):
                if not isinstance(inputs, tuple):
                    inputs = (jax.nn.one_hot(inputs, VOCABULARY.padded_size),)
                return jnp.concatenate([*inputs, t_BxL[..., None]], axis=-1) @ kernel

            denoise = Denoiser.from_logits(logits, table_VxE=jnp.asarray(TABLE_VxE))
            loss = objective.loss(denoise, batch, jax.random.key(5))
            return loss.total, loss.count

        (total, count), gradient = jax.value_and_grad(loss, has_aux=True)(kernel)
        return total, gradient, count

    return measured


def test_the_sign_of_all_weights_is_that_of_the_gradient(measure):
    total, gradient, count = measure(text())
    negated = measure(text(lambda place: -np.ones_like(place)))
    np.testing.assert_array_equal(negated[0], -total)
    np.testing.assert_array_equal(negated[1], -gradient)
    assert negated[2] == count == 10 - 2 + 10 - 2 + 12 - 1 + 12 - 2
    assert total > 0 and np.abs(gradient).max() > 0


def test_twice_the_weight_is_twice_the_loss_by_the_same_draws(measure):
    once, twice = measure(text()), measure(text(lambda place: np.full_like(place, 2)))
    np.testing.assert_array_equal(twice[0], 2 * once[0])
    np.testing.assert_array_equal(twice[1], 2 * once[1])
    assert twice[2] == once[2]


def test_tokens_add_up_by_their_weights(measure):
    """Any numbers but 0: the corruption is that of weights of 1."""
    one, other = (lambda place: np.cos(place)), (lambda place: 3 - np.cos(place))
    parts = [measure(text(weights)) for weights in (one, other)]
    whole = measure(text(lambda place: np.full_like(place, 3)))
    np.testing.assert_allclose(parts[0][0] + parts[1][0], whole[0], rtol=1e-4)
    np.testing.assert_allclose(parts[0][1] + parts[1][1], whole[1], rtol=1e-3, atol=1e-3)
    assert abs(parts[0][0] / whole[0]) < 0.3


def test_a_weight_of_0_neither_counts_nor_teaches(measure):
    total, gradient, count = measure(text(np.zeros_like))
    assert total == 0 and count == 0 and not np.asarray(gradient).any()
