"""TextGenerator: one program for all weights, and settings that are checked before it is made."""

import jax
import jax.numpy as jnp
import pytest

from dlms_jax.data.tokenizers import ByteTokenizer
from dlms_jax.denoiser import vocabulary_of
from dlms_jax.diffusion import Denoiser, Linear, Masked
from dlms_jax.errors import UserError
from dlms_jax.sampling import TextGenerator
from dlms_jax.testing import small_config

TOKENIZER = ByteTokenizer()
VOCABULARY = vocabulary_of(TOKENIZER)


def generator_of(mesh, made, **settings) -> TextGenerator:
    """Returns a generator whose weights are the logits of every token; `made` counts traces."""

    def make_denoise(logits_V):
        made.append(logits_V.shape)
        return Denoiser.from_logits(
            lambda tokens_BxL, *_: jnp.broadcast_to(logits_V, (*tokens_BxL.shape, len(logits_V)))
        )

    objective = Masked(VOCABULARY, Linear())
    return TextGenerator(small_config(**settings), objective, TOKENIZER, mesh, make_denoise)


def letter(symbol: str) -> jax.Array:
    return 9.0 * jax.nn.one_hot(ord(symbol), VOCABULARY.padded_size)


def test_a_sampler_is_compiled_once_for_all_weights(one_device):
    made = []
    generator = generator_of(one_device, made, sampling__temperature=0.0)
    for symbol in "ab":
        texts = generator.samples(letter(symbol), ["x", "yz"], length=3)
        assert texts == ["x" + 3 * symbol, "yz" + 3 * symbol]
    assert len(made) == 2  # `start` and the loop
    assert generator.fill(letter("c"), [["x", 2, "y"]], temperature=0.0) == ["xccy"]
    generator.samples(letter("a"), ["x"], length=3, sampler="confidence")
    assert len(made) > 4


def test_a_sampler_that_does_not_fit_is_refused_at_once(one_device):
    with pytest.raises(UserError, match="config.sampling.sampler=ddim"):
        generator_of(one_device, [], sampling__sampler="ddim")
