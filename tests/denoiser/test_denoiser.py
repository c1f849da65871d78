"""The Denoiser of a network whose outputs are read as the next token's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlms_jax.data.packing import join, pack
from dlms_jax.data.tokenizers import ByteTokenizer
from dlms_jax.denoiser import initial_params, make_denoiser, make_network, vocabulary_of
from dlms_jax.diffusion import make_objective
from dlms_jax.testing import small_config
from dlms_jax.training.pretraining import as_batch

TOKENIZER = ByteTokenizer()


@pytest.fixture(scope="module")
def batch():
    t, rng = TOKENIZER, np.random.default_rng(0)
    documents = [rng.integers(97, 123, n) for n in (20, 7, 1, 0, 33, 12)]
    rows = join(pack(documents, 32, t.bos_id, t.eos_id, t.pad_id), 32)
    return as_batch(jax.tree.map(jnp.asarray, rows.take(slice(2))))


def test_shifted_both_heads_agree_and_are_the_straight_one_rolled(batch, one_device):
    vocabulary = vocabulary_of(TOKENIZER)

    def measured(**settings):
        config = small_config(**settings)
        model = make_network(config, vocabulary.padded_size, one_device)
        objective = make_objective(config, vocabulary)

        @jax.jit
        def compute(key):
            params = initial_params(model, key)
            # Larger, so that predictions differ from place to place.
            params["lm_head"]["kernel"] *= 30
            denoise = make_denoiser(config, model, params, objective, one_device)
            t_BxL = jnp.zeros(batch.tokens_BxL.shape)
            logits_BxLxV = denoise.logits(batch.tokens_BxL, t_BxL, batch.layout)
            weights_BxL = batch.scored_BxL * (batch.layout.positions_BxL % 3 + 0.5)
            total, nll_BxL, _ = denoise.nll(
                batch.tokens_BxL, t_BxL, batch.layout, batch.tokens_BxL,
                weights_BxL, vocabulary.text_bias_V(),
            )  # fmt: skip
            return logits_BxLxV, total, nll_BxL

        return compute(jax.random.key(2))

    fused, plain = (
        measured(training__loss_implementation=head, objective__shift=True)
        for head in ("fused", "plain")
    )
    for a, b in zip(fused, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    straight = measured()
    np.testing.assert_allclose(plain[0], np.roll(straight[0], 1, axis=1), rtol=1e-5, atol=1e-5)
    assert (np.asarray(fused[2])[np.asarray(~batch.scored_BxL)] == 0).all()
    assert abs(plain[1] - straight[1]) > 1
