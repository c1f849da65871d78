"""The parts of a Transformer layer, named and laid out as Qwen3's.

Letters in array names, here and everywhere: B batch, L length, D width, H heads, G key/value
heads, K head size, F feed-forward size, V vocabulary rows, N layers, C chunk of positions.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from dlms_jax.config import ModelConfig
from dlms_jax.models.attention import attend

INIT_STD = 0.02


class RMSNorm(nn.Module):
    """x / rms(x) * scale over the last axis, in float32 (arXiv 1910.07467)."""

    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return (x * jnp.expand_dims(scale, range(x.ndim - 1))).astype(self.dtype)


class Linear(nn.Module):
    """x @ kernel (+ bias), computed in `dtype` from float32 parameters."""

    features: int
    dtype: jnp.dtype
    use_bias: bool = False
    std: float = INIT_STD

    @nn.compact
    def __call__(self, x_BxLxI):
        init = nn.initializers.normal(self.std)
        kernel = self.param("kernel", init, (x_BxLxI.shape[-1], self.features))
        # As one 2-D product: XLA's CPU backend takes twice as long for the 3-D one's gradient.
        x_PxI = x_BxLxI.reshape(-1, x_BxLxI.shape[-1]).astype(self.dtype)
        y_BxLxO = (x_PxI @ kernel.astype(self.dtype)).reshape(*x_BxLxI.shape[:-1], -1)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y_BxLxO += bias.astype(self.dtype)[None, None, :]
        return y_BxLxO


def rotary_angles(positions_BxL: jax.Array, size: int, theta: float):
    """Returns (cos, sin), each BxLxK/2 in float32 (RoFormer arXiv 2104.09864, eq. 15)."""
    frequency = theta ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    angle = positions_BxL[..., None].astype(jnp.float32) * frequency[None, None, :]
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x_BxLxHxK: jax.Array, rotary) -> jax.Array:
    """Returns x turned by its position's angles, the two halves of K as pairs (rotate-half)."""
    cos, sin = (angle[:, :, None, :] for angle in rotary)
    first, second = jnp.split(x_BxLxHxK.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BxLxHxK.dtype)


class Attention(nn.Module):
    """Grouped-query self-attention with rotary positions and optional per-head QK norm."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BxLxD, mask_Bx1xLxL, rotary):
        c, dtype = self.config, jnp.dtype(self.config.dtype)

        def heads(name, number):
            y = Linear(number * c.per_head, dtype, c.qkv_bias, name=name)(x_BxLxD)
            return y.reshape(*y.shape[:2], number, c.per_head)

        q_BxLxHxK = heads("q_proj", c.num_heads)
        k_BxLxGxK = heads("k_proj", c.kv_heads)
        v_BxLxGxK = heads("v_proj", c.kv_heads)
        if c.qk_norm:
            q_BxLxHxK = RMSNorm(c.norm_epsilon, dtype, name="q_norm")(q_BxLxHxK)
            k_BxLxGxK = RMSNorm(c.norm_epsilon, dtype, name="k_norm")(k_BxLxGxK)
        q_BxLxHxK, k_BxLxGxK = rotate(q_BxLxHxK, rotary), rotate(k_BxLxGxK, rotary)
        y_BxLxHxK = attend(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, mask_Bx1xLxL, c.attention)
        y_BxLxO = y_BxLxHxK.reshape(*y_BxLxHxK.shape[:2], -1)
        return Linear(c.width, dtype, std=_output_std(c), name="o_proj")(y_BxLxO)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (arXiv 2002.05202)."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BxLxD):
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        gate_BxLxF = Linear(c.hidden, dtype, name="gate_proj")(x_BxLxD)
        up_BxLxF = Linear(c.hidden, dtype, name="up_proj")(x_BxLxD)
        down = Linear(c.width, dtype, std=_output_std(c), name="down_proj")
        return down(jax.nn.silu(gate_BxLxF) * up_BxLxF)


def _output_std(config: ModelConfig) -> float:
    """What a layer adds starts smaller in deeper networks: the sum does not grow (as in GPT-2)."""
    return INIT_STD / (2 * config.num_layers) ** 0.5
