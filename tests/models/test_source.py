"""Prompts read by an encoder: who hears of them, and by which way alone."""

import jax
from models.reference import logits, mask
from models.small import forward, initial, network, packed, times_of, tokens_of, with_change
import numpy as np
import pytest

from dlms_jax.config import GaussianConfig
from dlms_jax.diffusion import Noisy

LAYOUT = packed(((5, 5), (9, 1), (12,)))
TOKENS, TIMES = tokens_of(LAYOUT), times_of(LAYOUT)
CROSS = {"prompt_encoder": "cross_attention"}
HEARD = (LAYOUT.segments_BxL > 0) & ~LAYOUT.prompt_mask_BxL  # whose outputs count


def changed_documents(before, after):
    """Returns {(row, document)} of which any output that counts differs."""
    differs = (np.asarray(before) != np.asarray(after)).any(axis=-1) & HEARD
    return {(row, LAYOUT.segments_BxL[row, at]) for row, at in zip(*differs.nonzero(), strict=True)}


@pytest.mark.parametrize(
    "settings", [{}, {"conditioning": "adaln_zero", "qkv_bias": True, "prompt_encoder_layers": 2}]
)
def test_network_is_the_reference(settings):
    model, params = network(**CROSS, **settings)
    found = np.asarray(forward(model, params)(TOKENS, TIMES, LAYOUT))
    x_BxLxD = params["embed"]["embedding"][TOKENS]
    same, given = mask(LAYOUT, LAYOUT, "full"), LAYOUT.prompt_mask_BxL
    source = same & (given | (LAYOUT.positions_BxL == 0))[:, None]
    own = same & ~given[:, None]
    expected = logits(params, model.config, x_BxLxD, TIMES, LAYOUT, own, source)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_a_prompt_reaches_every_output_of_its_document_and_no_other():
    model, params = network(**CROSS)
    apply = forward(model, params)
    before = np.asarray(apply(TOKENS, TIMES, LAYOUT))
    # The prompt of row 0's second document.
    after = np.asarray(apply(with_change(TOKENS, (0, 7)), TIMES, LAYOUT))
    assert changed_documents(before, after) == {(0, 2)}
    document = (LAYOUT.segments_BxL[0] == 2) & HEARD[0]
    assert (before[0] != after[0]).any(axis=-1)[document].all()
    # The same token where it is not given: the document again, but by its own layers.
    after = apply(with_change(TOKENS, (0, 8)), TIMES, LAYOUT)
    assert changed_documents(before, after) == {(0, 2)}


def test_a_prompt_is_heard_through_the_encoder_alone():
    """With cross-attention mute, neither the prompt nor how a given position is treated enters."""
    model, params = network(**CROSS)
    cross_attn = params["layers"]["cross_attn"]
    mute = cross_attn | {"o_proj": {"kernel": 0 * cross_attn["o_proj"]["kernel"]}}
    params = params | {"layers": params["layers"] | {"cross_attn": mute}}
    apply = forward(model, params)
    before = apply(TOKENS, TIMES, LAYOUT)
    prompt = np.where(LAYOUT.prompt_mask_BxL, TOKENS + 1, TOKENS)
    assert changed_documents(before, apply(prompt, TIMES, LAYOUT)) == set()
    assert changed_documents(before, apply(with_change(TOKENS, (0, 8)), TIMES, LAYOUT)) == {(0, 2)}


def test_encoder_reads_given_tokens_alone_and_no_time():
    """What is not given, and the time, change nothing in the encoder's outputs at given tokens."""
    model, params = network(**CROSS, conditioning="film")

    @jax.jit
    def encoded(tokens, t):
        _, kept = model.apply(
            {"params": params}, tokens, t, LAYOUT, "full", mutable=["intermediates"],
            capture_intermediates=lambda module, _: module.name == "source_norm",
        )  # fmt: skip
        return kept["intermediates"]["source_norm"]["__call__"][0]

    source = (LAYOUT.prompt_mask_BxL | (LAYOUT.positions_BxL == 0)) & (LAYOUT.segments_BxL > 0)
    other = np.where(source, TOKENS, TOKENS + 1)
    before, after = np.asarray(encoded(TOKENS, TIMES)), np.asarray(encoded(other, 1 - TIMES))
    np.testing.assert_array_equal(before[source], after[source])
    prompt = np.where(LAYOUT.prompt_mask_BxL, TOKENS + 1, TOKENS)
    assert (before[source] != np.asarray(encoded(prompt, TIMES))[source]).any(axis=-1)[:2].all()


def test_the_place_of_a_given_token_matters():
    """Rotary positions in cross-attention: a hole's logits tell on which side the prompt stands."""
    model, params = network(**CROSS)
    layout = packed(((5,), (5,)), 5)
    at = np.arange(5) == np.array([[2], [4]])
    apply = forward(model, params)
    tokens = np.where(at, 7, 9)  # else the same: masks and one given token
    one, other = np.asarray(apply(tokens, times_of(layout), layout._replace(prompt_mask_BxL=at)))[
        :, 3
    ]
    assert np.abs(one - other).max() > 0.01 * np.abs(one).max()


def test_documents_without_a_prompt_and_padding_are_as_they_would_be_alone():
    model, params = network(**CROSS)
    apply = forward(model, params)
    found = np.asarray(apply(TOKENS, TIMES, LAYOUT._replace(prompt_mask_BxL=None)))
    assert np.isfinite(found).all()
    alone = packed(((5,), (1,)), 5)._replace(prompt_mask_BxL=np.zeros((2, 5), bool))
    row = np.stack([TOKENS[0, 5:10], np.roll(TOKENS[1, 5:10], 1)])
    expected = np.asarray(apply(row, times_of(alone), alone))
    np.testing.assert_allclose(found[0, 5:10], expected[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[1, 9], expected[1, 0], rtol=1e-4, atol=1e-4)


def test_scan_changes_nothing():
    model, params = network(**CROSS)
    other, _ = network(**CROSS, scan_layers=False)
    expected = np.asarray(forward(model, params)(TOKENS, TIMES, LAYOUT))
    found = forward(other, params)(TOKENS, TIMES, LAYOUT)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_noisy_embeddings_are_read_the_same_way():
    gaussian = GaussianConfig(embedding_size=8)
    model, params = network(gaussian, **CROSS, conditioning="film")
    apply = forward(model, params)
    z = np.random.default_rng(0).normal(size=(*TOKENS.shape, 8)).astype(np.float32)
    before = apply(Noisy(z, 0 * z), TIMES, LAYOUT)
    after = apply(Noisy(with_change(z, (0, 7)), 0 * z), TIMES, LAYOUT)
    assert changed_documents(before, after) == {(0, 2)}


@pytest.mark.parametrize("kind", ["causal", "block"])
def test_attention_that_hides_what_is_later_is_refused(kind):
    model, params = network(**CROSS)
    with pytest.raises(ValueError, match=f"attention '{kind}'"):
        model.apply({"params": params}, TOKENS, TIMES, LAYOUT, kind)


def test_without_a_source_there_is_no_encoder():
    model, _ = network()
    assert set(initial(model, jax.eval_shape)) == {"embed", "layers", "final_norm", "lm_head"}
