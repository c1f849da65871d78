"""Who may see whom, against the definition pair by pair."""

import jax
import jax.numpy as jnp
from models.reference import mask
from models.small import doubled, packed
import numpy as np
import pytest

from dlms_jax.config import from_dict
from dlms_jax.diffusion import Layout
from dlms_jax.models.attention import (
    attend,
    attention_mask,
    columns,
    row_visibility,
    source_visibility,
)
from dlms_jax.models.sizes import attended_pairs

KINDS = ["full", "causal", "block", "block_causal"]
LENGTHS = ((5, 5), (9, 1), (12,), (1, 1, 3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 3, 4, 12])
def test_mask_is_its_definition(kind, size):
    layout = doubled(packed(LENGTHS), size)
    found = attention_mask(layout, layout, kind)
    np.testing.assert_array_equal(found[:, 0], mask(layout, layout, kind))
    assert np.diagonal(found[:, 0], axis1=1, axis2=2).all()  # no row of the softmax is empty


@pytest.mark.parametrize("kind", KINDS)
def test_no_position_sees_further_ahead_than_its_row_may(kind):
    """Padding, all at position 0, sees padding; the kind's own mask where the row is seen whole."""
    layout = doubled(packed(LENGTHS), 4)
    own = mask(layout, layout, kind)
    position = layout.positions_BxL
    further = position[:, None] - position[:, :, None]  # of the key, after the query
    for ahead in ([0, 0, 0, 0], [1, 0, 5, 2], [12, 12, 12, 12]):
        ahead_B = np.array(ahead)
        found = attention_mask(layout._replace(ahead_B=ahead_B), layout, kind)[:, 0]
        np.testing.assert_array_equal(found, own & (further <= ahead_B[:, None, None]))
        assert np.diagonal(found, axis1=1, axis2=2).all()
    np.testing.assert_array_equal(found, own)


@pytest.mark.parametrize("kind", KINDS)
def test_mask_of_some_columns_is_these_rows_of_the_whole(kind):
    layout = doubled(packed(LENGTHS), 4)
    whole = attention_mask(layout, layout, kind)
    for first, number in ((0, 1), (7, 5), (20, 1)):
        start_B = first + np.arange(len(layout.segments_BxL))  # each row's own
        some = attention_mask(columns(layout, start_B, number), layout, kind)
        for row, start in enumerate(start_B):
            np.testing.assert_array_equal(some[row], whole[row, :, start : start + number])


def test_block_masks_are_the_masks_that_they_are_made_of():
    """One block: masked diffusion beside the clean text. Blocks of 1, token-causal: the clean half
    is autoregressive, and a noisy token sees the clean ones before it and itself."""
    layout = packed(LENGTHS)
    L = layout.segments_BxL.shape[1]
    both = doubled(layout, L)
    one = np.asarray(attention_mask(both, both, "block"))
    full, causal = (mask(layout, layout, kind) for kind in ("full", "causal"))
    np.testing.assert_array_equal(one[:, 0, :L, :L], full)
    np.testing.assert_array_equal(one[:, 0, L:, L:], full)
    assert not one[:, 0, :L, L:].any() and not one[:, 0, L:, :L].any()

    both = doubled(layout, 1)
    text = np.asarray(layout.segments_BxL)[:, :, None] > 0  # in the padding all positions are 0
    for kind in ("block", "block_causal"):
        single, self = np.asarray(attention_mask(both, both, kind))[:, 0], np.eye(L, dtype=bool)
        np.testing.assert_array_equal(single[:, L:, L:] & text, causal & text)
        np.testing.assert_array_equal(single[:, :L, L:] & text, causal & text & ~self)
        np.testing.assert_array_equal(single[:, :L, :L] & text, self & text)


def test_prompts_that_an_encoder_reads_are_keys_of_the_source_only():
    layout = packed(LENGTHS)
    own, source = (np.asarray(of.mask_Bx1xLxS)[:, 0] for of in source_visibility(layout))
    same = mask(layout, layout, "full")
    given, bos = np.asarray(layout.prompt_mask_BxL), np.asarray(layout.positions_BxL) == 0
    np.testing.assert_array_equal(own, same & ~given[:, None])
    np.testing.assert_array_equal(source, same & (given | bos)[:, None])
    assert own.any(axis=2).all() and source.any(axis=2).all()
    anywhere = np.where(layout.segments_BxL > 0, layout.positions_BxL, 5)  # padding has no position
    _, again = source_visibility(layout._replace(positions_BxL=anywhere))
    np.testing.assert_array_equal(again.mask_Bx1xLxS[:, 0], source)
    own, source = source_visibility(layout._replace(prompt_mask_BxL=None))
    np.testing.assert_array_equal(own.mask_Bx1xLxS[:, 0], same)
    np.testing.assert_array_equal(source.mask_Bx1xLxS[:, 0], same & bos[:, None])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 0.02)])
def test_heads_with_keys_of_their_own_are_as_jaxs_attention(dtype, tolerance):
    visibility = row_visibility(packed(LENGTHS), "causal")
    rng = np.random.default_rng(0)
    q, k, v, weights = jnp.asarray(rng.normal(size=(4, 4, 12, 4, 8)), dtype)

    def both(attention):
        def total(*x):
            y = attention(*x)
            return jnp.sum((weights * y).astype(jnp.float32)), y

        (_, y), gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(q, k, v)
        assert y.dtype == dtype
        return [x.astype(jnp.float32) for x in (y, *gradients)]

    mask = visibility.mask_Bx1xLxS
    found = both(lambda *x: attend(*x, visibility))
    expected = both(lambda *x: jax.nn.dot_product_attention(*x, mask=mask, implementation="xla"))
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, atol=tolerance * np.abs(y).max())


@pytest.mark.parametrize(
    ("objective", "size", "context", "kind"),
    [("masked", 4, "bidirectional", "full"), ("autoregressive", 4, "bidirectional", "causal"),
     ("block", 1, "bidirectional", "block"), ("block", 4, "bidirectional", "block"),
     ("block", 24, "bidirectional", "block"), ("block", 4, "causal", "block_causal"),
     ("block", 100, "causal", "block_causal")],
)  # fmt: skip
def test_pairs_that_the_flops_count_are_those_of_the_mask(objective, size, context, kind):
    length = 24
    config = from_dict(
        {"objective": {"name": objective}, "block": {"size": size, "context": context}}
    )
    layout = packed(((length,),), length)
    layout = doubled(layout, size) if objective == "block" else layout
    pairs = attention_mask(layout, layout, kind).sum() / length
    # Half a pair a token and causal half: that a token sees itself is left out of the formula.
    halves = {"causal": 0.5, "block_causal": 0.5}.get(kind, 0)
    assert pairs == attended_pairs(config, length) + halves


def test_an_unknown_kind_is_refused():
    layout = Layout(*np.ones((2, 1, 3), int))
    with pytest.raises(ValueError, match="unknown attention 'blocks'; use full, causal"):
        attention_mask(layout, layout, "blocks")
