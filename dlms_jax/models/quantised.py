"""Differentiable int8 and fp8 matrix products for the train step.

Two of the three products of a linear layer are quantised: x @ kernel and, in the backward pass,
g @ kernel.T. Each row of the left operand and each column of the right one has its own scale,
absmax / (largest number of the type), computed in every pass. Values are rounded to the nearest;
the gradient ignores the rounding (straight-through). A token's result depends on no other token, so
neither the mesh nor accumulation changes it. The third product, x.T @ g, sums over tokens, which
would have to share a scale; it is computed in the network's type (as SwitchBack, arXiv 2304.13013).

qwix quantises and multiplies: int8 into int32, fp8 into float32.
"""

import functools

import jax
import jax.numpy as jnp

from dlms_jax.errors import optional_import

# By config.model.quantization: the type of x and kernel, and the type of the gradient g (fp8: as in
# arXiv 2209.05433, where gradients need range more than precision).
_TYPES = {
    "int8": (jnp.int8, jnp.int8),
    "fp8": (jnp.float8_e4m3fn, jnp.float8_e5m2),
}
# The largest number becomes 127. With the 127.5 of qwix, the last bit of the scale decides whether
# it is rounded up or down.
_LARGEST = {jnp.int8: f"absmax,{127.5 / 127}"}


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def quantised_product(x_PxI: jax.Array, kernel_IxO: jax.Array, quantization: str) -> jax.Array:
    """Returns x @ kernel in the type of x, with both operands quantised.

    Args:
      x_PxI: the input.
      kernel_IxO: the kernel, in float32.
      quantization: "int8" or "fp8".

    Raises:
      UserError: qwix is not installed.
    """
    forward, _ = _TYPES[quantization]
    return _product(x_PxI, forward, kernel_IxO, forward)


def _with_inputs(x_PxI, kernel_IxO, quantization):
    return quantised_product(x_PxI, kernel_IxO, quantization), (x_PxI, kernel_IxO)


def _gradients(quantization, inputs, g_PxO):
    x_PxI, kernel_IxO = inputs
    forward, backward = _TYPES[quantization]
    g_PxI = _product(g_PxO, backward, kernel_IxO.T, forward)
    return g_PxI, (x_PxI.T @ g_PxO).astype(kernel_IxO.dtype)


quantised_product.defvjp(_with_inputs, _gradients)


def _product(a_PxI, a_type, b_IxO, b_type):
    """Returns a @ b in the type of a. Scales are float32: bfloat16 would round them by 0.4%."""
    qwix = optional_import("qwix", "quant")
    a, b = (
        qwix.quantize(
            x.astype(jnp.float32),
            dtype,
            channelwise_axes=[axis],
            calibration_method=_LARGEST.get(dtype, "absmax"),
        )
        for x, dtype, axis in ((a_PxI, a_type, 0), (b_IxO, b_type, 1))
    )
    return qwix.dot(a, b).astype(a_PxI.dtype)
