"""The TPU's attention kernel, operation by operation on the CPU, against plain attention."""

import functools

import jax
import jax.numpy as jnp
from models.small import doubled, packed
import numpy as np
import pytest

from dlms_jax.models.attention import attend, row_visibility, source_visibility
from dlms_jax.models.splash import splash, splash_fits, tile_of

L = 384  # three tiles: documents lie across them, and some tiles nobody sees
LENGTHS = ((130, 100, 9), (384,), (7, 128, 249), (1, 1, 200))
KINDS = ("full", "causal", "block", "block_causal")
SOURCES = ("own", "source")  # what source_visibility gives


@functools.cache
def seen_by(kind, ahead=None):
    layout = packed(LENGTHS, L)
    if kind in SOURCES:
        prompt_mask_BxL = np.random.default_rng(0).random((len(LENGTHS), L)) < 0.5
        prompt_mask_BxL &= (layout.positions_BxL > 0) & (layout.segments_BxL > 0)
        return source_visibility(layout._replace(prompt_mask_BxL=prompt_mask_BxL))[
            SOURCES.index(kind)
        ]
    if block := kind.startswith("block"):
        layout = doubled(layout, 16)
    ahead_B = None if ahead is None else np.array(ahead, np.int32)
    return row_visibility(layout._replace(ahead_B=ahead_B), kind, block)


def arrays(visibility, heads=(4, 2, 2), size=16, dtype=np.float32):
    rows, _, queries, keys = visibility.mask_Bx1xLxS.shape
    rng = np.random.default_rng(1)
    places = queries, keys, keys
    return [
        jnp.asarray(rng.normal(size=(rows, length, n, size)), dtype)
        for length, n in zip(places, heads, strict=True)
    ]


@pytest.mark.parametrize(
    ("kind", "ahead"),
    [(kind, None) for kind in KINDS + SOURCES] + [(kind, (0, 3, 200, 1000)) for kind in KINDS],
)
def test_the_kernel_sees_what_the_mask_lets_it(kind, ahead):
    """Equal scores give each seen key the same weight, and a key's value says which it is."""
    visibility = seen_by(kind, ahead)
    rows, _, queries, keys = visibility.mask_Bx1xLxS.shape
    q, k = jnp.zeros((rows, queries, 1, keys)), jnp.zeros((rows, keys, 1, keys))
    v = jnp.broadcast_to(jnp.eye(keys)[None, :, None], k.shape)
    y_BxLxS = jax.jit(functools.partial(splash, interpret=True))(q, k, v, visibility.spans)[:, :, 0]
    np.testing.assert_array_equal(y_BxLxS > 0, visibility.mask_Bx1xLxS[:, 0])


@pytest.mark.parametrize("kind", KINDS + SOURCES)
def test_the_kernel_is_plain_attention_forward_and_backward(kind):
    visibility = seen_by(kind)
    q, k, v = arrays(visibility)
    weights = np.random.default_rng(2).normal(size=q.shape).astype(np.float32)

    def both(attention):
        def total(*x):
            y = attention(*x)
            return jnp.sum(weights * y), y

        return jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(q, k, v)

    (_, y), gradients = both(lambda *x: splash(*x, visibility.spans, interpret=True))
    (_, plain_y), plain_gradients = both(lambda *x: attend(*x, visibility))
    np.testing.assert_allclose(y, plain_y, atol=2e-6)
    for gradient, plain in zip(gradients, plain_gradients, strict=True):
        np.testing.assert_allclose(gradient, plain, atol=1e-5)


def test_in_bfloat16_the_kernel_is_as_near_the_truth_as_plain_attention():
    visibility = seen_by("full")
    exact = attend(*arrays(visibility), visibility)

    def error(attention):
        y = jax.jit(attention)(*arrays(visibility, dtype=jnp.bfloat16))
        return float(jnp.sqrt(jnp.mean((y.astype(jnp.float32) - exact) ** 2)))

    plain = error(lambda *x: attend(*x, visibility))
    assert error(lambda *x: splash(*x, visibility.spans, interpret=True)) < 1.2 * plain


@pytest.mark.parametrize(
    ("kind", "documents", "keys", "queries"),
    [
        ("causal", ((384,), (384,)), slice(256, 384), slice(0, 256)),
        ("full", ((200, 56), (256,)), slice(256, 384), slice(0, 256)),  # the rest is padding
        ("block", ((384,), (384,)), slice(0, 256), slice(512, 768)),  # x_0 sees none of x_t
    ],
)
def test_tiles_that_no_row_sees_are_left_out(kind, documents, keys, queries):
    """A key that is NaN spoils what it is multiplied into, even by a weight of 0."""
    layout = packed(documents, L)
    layout = doubled(layout, 16) if kind == "block" else layout
    visibility = row_visibility(layout, kind, kind == "block")
    assert not np.asarray(visibility.mask_Bx1xLxS)[:, 0, queries, keys].any()
    q, k, v = arrays(visibility)
    k, v = (x.at[:, keys].set(jnp.nan) for x in (k, v))
    y = jax.jit(functools.partial(splash, interpret=True))(q, k, v, visibility.spans)
    assert np.isfinite(y[:, queries]).all()
    assert np.isnan(attend(q, k, v, visibility)[:, queries]).any()


def test_block_attention_of_single_rows_is_left_to_plain_attention():
    """There, as samplers without a cache have them, clean and noisy blocks stand in one row."""
    layout = packed(LENGTHS, L)
    clean_BxL = layout.positions_BxL < 64
    layout = layout._replace(blocks_BxL=layout.positions_BxL // 16, clean_BxL=clean_BxL)
    assert row_visibility(layout, "block").spans is None


def test_lengths_that_the_kernel_takes():
    assert splash_fits(128, 384) and not splash_fits(100, 384) and not splash_fits(384, 64)
    assert [tile_of(n) for n in (128, 256, 384, 640, 1024, 1536)] == [128, 256, 128, 128, 512, 512]
