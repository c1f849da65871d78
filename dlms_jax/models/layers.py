"""The parts of a Transformer layer, named and laid out as Qwen3's.

Letters in array names, here and everywhere: B batch, L length, D width, H heads, G key/value
heads, K head size, F feed-forward size, V vocabulary rows, N layers, C chunk of positions (of
conditioning: its size), S length of what is attended to, E size of noisy embeddings.
"""

from collections.abc import Callable

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
import numpy as np

from dlms_jax.config import ModelConfig
from dlms_jax.models.attention import Seen
from dlms_jax.models.quantised import quantised_product
from dlms_jax.models.splash import SAVED

INIT_STD = 0.02
# What the backward pass finds kept, by config.model.remat. By name: a policy that goes by the kind
# of operation misses ragged_dot, and keeps the int32 that an int8 product is before its scales.
MATMUL, LAYER_INPUT = "matmul", "layer_input"
REMAT = {
    "dots": jax.checkpoint_policies.save_only_these_names(MATMUL, SAVED),  # and each layer's input
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(  # the same, on the host
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[MATMUL, SAVED, LAYER_INPUT],
        offload_src="device",
        offload_dst="pinned_host",
    ),
    "full": jax.checkpoint_policies.nothing_saveable,  # each layer's input only
}


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
    """x @ kernel (+ bias), computed in `dtype` from float32 parameters; the product of what
    `quantization` names, as config.model.quantization does."""

    features: int
    dtype: jnp.dtype
    use_bias: bool = False
    std: float = INIT_STD
    bias_std: float = 0.0
    quantization: str = "none"

    @nn.compact
    def __call__(self, x_BxLxI):
        init = nn.initializers.normal(self.std)
        kernel = self.param("kernel", init, (x_BxLxI.shape[-1], self.features))
        # As one 2-D product: XLA's CPU backend takes twice as long for the 3-D one's gradient.
        x_PxI = x_BxLxI.reshape(-1, x_BxLxI.shape[-1]).astype(self.dtype)
        if self.quantization == "none":
            y_PxO = x_PxI @ kernel.astype(self.dtype)
        else:
            y_PxO = quantised_product(x_PxI, kernel, self.quantization)
        y_BxLxO = checkpoint_name(y_PxO.reshape(*x_BxLxI.shape[:-1], -1), MATMUL)
        if self.use_bias:
            init = nn.initializers.normal(self.bias_std)
            bias = self.param("bias", init, (self.features,))
            y_BxLxO += bias.astype(self.dtype)[None, None, :]
        return y_BxLxO


def rotary_angles(positions_BxL: jax.Array, size: int, theta: float):
    """Returns (cos, sin), each BxLxK/2 in float32 (RoFormer arXiv 2104.09864, eq. 15)."""
    # In float64, then rounded: any framework can have the same.
    frequency = (theta ** (-np.arange(0, size, 2) / size)).astype(np.float32)
    angle = positions_BxL[..., None].astype(jnp.float32) * frequency[None, None, :]
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x_BxLxHxK: jax.Array, rotary) -> jax.Array:
    """Returns x turned by its position's angles, the two halves of K as pairs (rotate-half)."""
    cos, sin = (angle[:, :, None, :] for angle in rotary)
    # Halved before it is float32: a TPU would write the float32 array to memory.
    first, second = (x.astype(jnp.float32) for x in jnp.split(x_BxLxHxK, 2, axis=-1))
    turned = first * cos - second * sin, second * cos + first * sin
    return jnp.concatenate([x.astype(x_BxLxHxK.dtype) for x in turned], axis=-1)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions and optional per-head QK norm.

    As a function it is self-attention. Its two halves, `keys` and `read`, serve attention to
    another sequence or to a cache. `attend` is attention.py's, or does the same.
    """

    config: ModelConfig
    attend: Callable

    def setup(self):
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        self.q_proj = Linear(
            c.num_heads * c.per_head, dtype, c.qkv_bias, quantization=c.quantization
        )
        self.k_proj = Linear(
            c.kv_heads * c.per_head, dtype, c.qkv_bias, quantization=c.quantization
        )
        self.v_proj = Linear(
            c.kv_heads * c.per_head, dtype, c.qkv_bias, quantization=c.quantization
        )
        self.o_proj = Linear(c.width, dtype, std=output_std(c), quantization=c.quantization)
        if c.qk_norm:
            self.q_norm = RMSNorm(c.norm_epsilon, dtype)
            self.k_norm = RMSNorm(c.norm_epsilon, dtype)

    def __call__(self, x_BxLxD, seen: Seen, rotary) -> jax.Array:
        """Returns what self-attention adds, y_BxLxD."""
        return self.read(x_BxLxD, self.keys(x_BxLxD, rotary), seen, rotary)

    def keys(self, x_BxSxD, rotary) -> tuple[jax.Array, jax.Array]:
        """Returns (k_BxSxGxK, v_BxSxGxK) of what is attended to; rotary: of its positions."""
        k_BxSxGxK = self._heads(self.k_proj(x_BxSxD))
        if self.config.qk_norm:
            k_BxSxGxK = self.k_norm(k_BxSxGxK)
        return rotate(k_BxSxGxK, rotary), self._heads(self.v_proj(x_BxSxD))

    def read(self, x_BxLxD, keys, seen: Seen, rotary) -> jax.Array:
        """Returns y_BxLxD of queries from x; keys: what `keys` returned. rotary: of x."""
        q_BxLxHxK = self._heads(self.q_proj(x_BxLxD))
        if self.config.qk_norm:
            q_BxLxHxK = self.q_norm(q_BxLxHxK)
        q_BxLxHxK = rotate(q_BxLxHxK, rotary)
        y_BxLxHxK = self.attend(q_BxLxHxK, *keys, seen)
        return self.o_proj(y_BxLxHxK.reshape(*y_BxLxHxK.shape[:2], -1))

    def _heads(self, y_BxLxO):
        return y_BxLxO.reshape(*y_BxLxO.shape[:2], -1, self.config.per_head)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (arXiv 2002.05202)."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BxLxD):
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        gate_BxLxF = Linear(c.hidden, dtype, quantization=c.quantization, name="gate_proj")(x_BxLxD)
        up_BxLxF = Linear(c.hidden, dtype, quantization=c.quantization, name="up_proj")(x_BxLxD)
        down = Linear(
            c.width, dtype, std=output_std(c), quantization=c.quantization, name="down_proj"
        )
        return down(jax.nn.silu(gate_BxLxF) * up_BxLxF)


def output_std(config: ModelConfig) -> float:
    """What a layer adds starts smaller in deeper networks: the sum does not grow (as in GPT-2)."""
    return INIT_STD / (2 * config.num_layers) ** 0.5
