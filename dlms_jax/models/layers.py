"""The parts of a Transformer layer, with the names and layout of Qwen3.

Letters in array names, in all modules: B batch, L length, D width, H heads, G key/value heads, K
head size, F feed-forward size, V vocabulary size, N layers, C chunk of positions (in c_BxLxC: size
of the conditioning), S length of the attended sequence, E size of noisy embeddings, P = B * L.
"""

from collections.abc import Callable

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
import numpy as np

from dlms_jax.config import ModelConfig
from dlms_jax.models.attention import Visibility
from dlms_jax.models.quantised import quantised_product
from dlms_jax.models.splash import SAVED

INIT_STD = 0.02
# The arrays kept for the backward pass, by config.model.remat. They are selected by name: a policy
# by kind of operation misses ragged_dot, and keeps the unscaled int32 result of an int8 product.
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
    """x @ kernel (+ bias), computed in `dtype` from float32 parameters.

    Attributes:
      features: the size of the output.
      dtype: the type of the operands and the result.
      use_bias: whether a bias is added.
      std: the standard deviation of the initial kernel.
      bias_std: the standard deviation of the initial bias.
      quantization: the type of the product's operands, as config.model.quantization.
    """

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
        # One 2-D product: XLA's CPU backend takes twice as long for the gradient of a 3-D one.
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
    """Returns (cos, sin) of the rotary angles, each BxLxK/2 in float32 (arXiv 2104.09864, eq. 15).

    Args:
      positions_BxL: the position of each token in its document.
      size: the head size K.
      theta: the base of the frequencies.
    """
    # Computed in float64 and then rounded, so that other frameworks can reproduce it.
    frequency = (theta ** (-np.arange(0, size, 2) / size)).astype(np.float32)
    angle = positions_BxL[..., None].astype(jnp.float32) * frequency[None, None, :]
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x_BxLxHxK: jax.Array, rotary) -> jax.Array:
    """Returns x rotated by the angles (cos, sin); pairs are (k, k + K/2), the rotate-half form."""
    cos, sin = (angle[:, :, None, :] for angle in rotary)
    # Split before the cast: otherwise a TPU writes the whole float32 array to memory.
    first, second = (x.astype(jnp.float32) for x in jnp.split(x_BxLxHxK, 2, axis=-1))
    turned = first * cos - second * sin, second * cos + first * sin
    return jnp.concatenate([x.astype(x_BxLxHxK.dtype) for x in turned], axis=-1)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions and optional per-head QK norm.

    `__call__` is self-attention. `keys` and `read` are its two halves, for attention to another
    sequence or to a cache.

    Attributes:
      config: the sizes.
      attend: `models.attention.attend`, or a kernel with the same signature.
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

    def __call__(self, x_BxLxD, visibility: Visibility, rotary) -> jax.Array:
        """Returns y_BxLxD, the output of self-attention."""
        return self.read(x_BxLxD, self.keys(x_BxLxD, rotary), visibility, rotary)

    def keys(self, x_BxSxD, rotary) -> tuple[jax.Array, jax.Array]:
        """Returns (k_BxSxGxK, v_BxSxGxK) of a sequence x; rotary: the angles of its positions."""
        k_BxSxGxK = self._heads(self.k_proj(x_BxSxD))
        if self.config.qk_norm:
            k_BxSxGxK = self.k_norm(k_BxSxGxK)
        return rotate(k_BxSxGxK, rotary), self._heads(self.v_proj(x_BxSxD))

    def read(self, x_BxLxD, keys, visibility: Visibility, rotary) -> jax.Array:
        """Returns y_BxLxD, the attention of the queries of x to the (k, v) that `keys` returned.

        Args:
          x_BxLxD: the sequence that makes the queries.
          keys: (k_BxSxGxK, v_BxSxGxK).
          visibility: the keys that each query may attend to.
          rotary: the angles of the positions of x.
        """
        q_BxLxHxK = self._heads(self.q_proj(x_BxLxD))
        if self.config.qk_norm:
            q_BxLxHxK = self.q_norm(q_BxLxHxK)
        q_BxLxHxK = rotate(q_BxLxHxK, rotary)
        y_BxLxHxK = self.attend(q_BxLxHxK, *keys, visibility)
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
    """Returns the initial standard deviation of a branch's last kernel, scaled by depth (GPT-2)."""
    return INIT_STD / (2 * config.num_layers) ** 0.5
