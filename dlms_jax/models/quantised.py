"""Products of int8 or fp8 matrices that can be learned through: x @ kernel, in the train step.

Of the three products of a layer's matrix two are of quantised ones: x @ kernel and, backward,
g @ kernel.T. Every row and column of the result has a scale, the largest of the numbers that it is
made of over the largest that the type holds, taken anew in each pass; all is rounded to the nearest
and derived as if it were not rounded. So what a token gets depends on no other token, and neither
mesh nor accumulation changes it. The third product, x.T @ g, is of the network's type (as in
SwitchBack, arXiv 2304.13013): it adds up over all tokens, which would share a scale.

qwix quantises and multiplies: int8 into int32, fp8 into float32.
"""

import functools

import jax
import jax.numpy as jnp

from dlms_jax.errors import optional_import

# By config.model.quantization: the types of x and kernel, and of what comes back (fp8: as in arXiv
# 2209.05433, where gradients need range more than precision).
_TYPES = {
    "int8": (jnp.int8, jnp.int8),
    "fp8": (jnp.float8_e4m3fn, jnp.float8_e5m2),
}
# The largest number becomes 127, not the 127.5 of qwix, which the last bit of a scale would send to
# either side.
_LARGEST = {jnp.int8: f"absmax,{127.5 / 127}"}


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def quantised_product(x_PxI: jax.Array, kernel_IxO: jax.Array, quantization: str) -> jax.Array:
    """Returns x @ kernel in the type of x, of both rounded to what `quantization` names.

    kernel: in float32, as the state has it. Raises UserError without qwix."""
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
    """Returns a @ b in the type of a; scales are float32, which bfloat16 would round by 0.4%."""
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
