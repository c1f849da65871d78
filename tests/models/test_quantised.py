"""Products of quantised matrices: what they give and what is learned through them, by NumPy."""

import re

import jax
import jax.numpy as jnp
import ml_dtypes
from models.small import ROWS, initial, network, packed, times_of, tokens_of
import numpy as np
import pytest

from dlms_jax.denoiser import make_network
from dlms_jax.errors import UserError
from dlms_jax.models import Transformer, quantised
from dlms_jax.models.quantised import quantised_product
from dlms_jax.planning.program import make_program
from dlms_jax.testing import small_config

RNG = np.random.default_rng(0)
X_PxI, KERNEL_IxO, G_PxO = (
    RNG.normal(size=shape).astype(np.float32) * RNG.lognormal(size=(shape[0], 1)).astype(np.float32)
    for shape in ((40, 64), (64, 48), (40, 48))
)
# How far rounding may put a product of random matrices: a step of int8 is 1/127 of the largest of
# 64 numbers, one of e4m3 at most 1/8 of each.
APART = {"int8": 0.015, "fp8": 0.06}


@jax.jit
def _int8(x_PxI, kernel_IxO, g_PxO):
    y_PxO, gradients = jax.vjp(lambda x, k: quantised_product(x, k, "int8"), x_PxI, kernel_IxO)
    return y_PxO, *gradients(g_PxO)


@jax.jit
def _fp8(x_PxI, kernel_IxO, g_PxO):
    y_PxO, gradients = jax.vjp(lambda x, k: quantised_product(x, k, "fp8"), x_PxI, kernel_IxO)
    return y_PxO, *gradients(g_PxO)


FOUND = {"int8": _int8, "fp8": _fp8}


def rounded(x, axis, dtype):
    """Returns (x / scale in a type of 8 bits, the scale), one scale for all along an axis."""
    most = 127 if dtype == np.int8 else float(ml_dtypes.finfo(dtype).max)
    scale = np.abs(x).max(axis=axis, keepdims=True) / np.float32(most)
    if dtype == np.int8:
        return np.rint(x / scale).astype(dtype), scale
    return np.clip(x / scale, -most, most).astype(dtype), scale


def product(a, a_type, b, b_type):
    (a, a_scale), (b, b_scale) = rounded(a, 1, a_type), rounded(b, 0, b_type)
    wide = np.int32 if a.dtype == np.int8 else np.float64
    return (a.astype(wide) @ b.astype(wide)).astype(np.float32) * a_scale * b_scale


def test_int8_is_the_product_of_integers():
    """To the last bits of the scales, which XLA multiplies by 1 / 127.5: an integer that is off by
    one would be 1,000 times as much."""
    y_PxO, dx_PxI, dkernel_IxO = _int8(X_PxI, KERNEL_IxO, G_PxO)
    for found, expected in (
        (y_PxO, product(X_PxI, np.int8, KERNEL_IxO, np.int8)),
        (dx_PxI, product(G_PxO, np.int8, KERNEL_IxO.T, np.int8)),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(dkernel_IxO, X_PxI.T @ G_PxO, rtol=1e-4, atol=1e-4)


def test_fp8_is_the_product_of_e4m3_forward_and_of_e5m2_backward():
    y_PxO, dx_PxI, dkernel_IxO = _fp8(X_PxI, KERNEL_IxO, G_PxO)
    x, g = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
    for found, expected in (
        (y_PxO, product(X_PxI, x, KERNEL_IxO, x)),
        (dx_PxI, product(G_PxO, g, KERNEL_IxO.T, x)),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(dkernel_IxO, X_PxI.T @ G_PxO, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("matmuls", FOUND)
def test_what_is_given_and_learned_is_near_the_unquantised(matmuls):
    found = FOUND[matmuls](X_PxI, KERNEL_IxO, G_PxO)
    expected = X_PxI @ KERNEL_IxO, G_PxO @ KERNEL_IxO.T, X_PxI.T @ G_PxO
    apart = [
        np.linalg.norm(f - e) / np.linalg.norm(e) for f, e in zip(found, expected, strict=True)
    ]
    assert 1e-3 < apart[0] < APART[matmuls] and 1e-3 < apart[1] < APART[matmuls]
    assert apart[2] < 1e-6


@pytest.mark.parametrize("matmuls", FOUND)
def test_a_token_depends_on_no_other(matmuls):
    """So neither the mesh nor accumulation changes what is learned."""
    alone = FOUND[matmuls](X_PxI[:7], KERNEL_IxO, G_PxO[:7])
    together = FOUND[matmuls](X_PxI, KERNEL_IxO, G_PxO)
    for a, b in zip(alone[:2], together[:2], strict=True):
        np.testing.assert_array_equal(a, b[:7])


def test_zeros_and_bfloat16():
    """A kernel that begins at 0 gives 0, not 0 / 0; scales are not rounded to the type of x."""
    zeros = np.zeros_like(KERNEL_IxO)
    assert not np.any(_int8(X_PxI, zeros, G_PxO)[0])
    x_PxI = X_PxI.astype(ml_dtypes.bfloat16)
    y_PxO, dx_PxI, dkernel_IxO = _int8(x_PxI, KERNEL_IxO, G_PxO.astype(ml_dtypes.bfloat16))
    expected = product(x_PxI.astype(np.float32), np.int8, KERNEL_IxO, np.int8)
    apart = np.linalg.norm(y_PxO.astype(np.float32) - expected) / np.linalg.norm(expected)
    assert apart < 2e-3  # the rounding of y itself; rounded scales would add as much again
    assert (dx_PxI.dtype, dkernel_IxO.dtype) == (jnp.bfloat16, jnp.float32)


def test_parameters_and_what_samples_are_the_same_with_and_without(one_device):
    """Of a network: names, shapes and types; and what is not the train step reads no int8."""
    plain, low = small_config(), small_config(model__quantization="int8")
    shapes = [initial(Transformer(config.model, ROWS), jax.eval_shape) for config in (plain, low)]
    assert shapes[0] == shapes[1]
    assert (
        make_network(plain, ROWS, one_device).config == make_network(low, ROWS, one_device).config
    )


def dots(program) -> list[str]:
    """Returns the types of what the matmuls of a lowered train step multiply; a scan's once."""
    text = program.lower().as_text()
    lines = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    return [
        re.search(r": \(tensor<[\dx]*x(\w+)>, tensor<[\dx]*x(\w+)>\)", s).groups() for s in lines
    ]


@pytest.mark.parametrize(("remat", "number"), [("none", 14), ("dots", 14), ("full", 20)])
def test_two_of_three_products_of_a_layers_matrix_are_quantised(remat, number, one_device):
    """Seven matrices, forward and backward (and again, where remat repeats: all but the last, whose
    result is only added; dots repeats none); the head and attention are not."""
    config = small_config(model__quantization="int8", model__remat=remat)
    found = dots(make_program(config, one_device))
    assert found.count(("i8", "i8")) == number
    plain = dots(make_program(small_config(model__remat=remat), one_device))
    assert len(found) == len(plain) and ("i8", "i8") not in plain


def test_dots_keeps_the_same_with_and_without():
    """Not the int32 that an int8 product is before its scales, nor what was quantised."""
    layout = packed()

    def kept(quantization):
        model, params = network(quantization=quantization, remat="dots")

        def loss(p):
            logits = model.apply({"params": p}, tokens_of(layout), times_of(layout), layout, "full")
            return jnp.sum(logits)

        found = jax.tree.leaves(jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params))
        return sorted((x.shape, str(x.dtype)) for x in found)

    plain = kept("none")
    assert ((2, 3, 12, 48), "float32") in plain and kept("int8") == plain


def test_without_qwix_a_line_names_the_extra(monkeypatch):
    def missing(module):
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(UserError, match=r"needs qwix .*: pip install 'dlms_jax\[quant\]'"):
        quantised._product(X_PxI, np.int8, KERNEL_IxO, np.int8)


def test_a_quantised_networks_gradient_points_the_same_way():
    """All layers together: the cosine of the whole gradient's angle."""
    layout = packed()
    tokens, times = tokens_of(layout), times_of(layout)

    def gradient(quantization):
        model, params = network(quantization=quantization)

        def loss(p):
            logits = model.apply({"params": p}, tokens, times, layout, "full")
            return -jnp.mean(jax.nn.log_softmax(logits)[..., 0])

        leaves = jax.tree.leaves(jax.jit(jax.grad(loss))(params))
        return np.concatenate([np.ravel(leaf) for leaf in leaves])

    exact = gradient("none")
    for matmuls, least in (("int8", 0.9995), ("fp8", 0.99)):
        found = gradient(matmuls)
        assert least < found @ exact / np.linalg.norm(found) / np.linalg.norm(exact) < 1 - 1e-9
