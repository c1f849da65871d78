"""The input and output layers of a network: token table, noisy embeddings, head."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from dlms_jax.config import GaussianConfig, ModelConfig
from dlms_jax.models.layers import INIT_STD, Linear

# The initial length of the component that all input embeddings share, relative to the component of
# each token. Attention needs the shared component to attend to neighbours whatever their tokens
# are, and learns it slowly: with 0 every objective stays longer at the unigram entropy
# (docs/performance.md, the plateau). 1 and 4 were tried too.
_COMMON = 2.0


def rows_with_a_common_part(key, shape) -> jax.Array:
    """Returns an initial embedding table: each row is its own draw plus one that all rows share."""
    own, common = jax.random.split(key)
    draws = jax.random.normal(own, shape) + _COMMON * jax.random.normal(common, (1, shape[1]))
    return INIT_STD * draws


class Inputs(nn.Module):
    """tokens_BxL -> x_BxLxD, by an embedding table with `vocab_size` rows."""

    config: ModelConfig
    vocab_size: int

    def setup(self):
        shape = (self.vocab_size, self.config.width)
        self.embedding = self.param("embedding", rows_with_a_common_part, shape)

    def __call__(self, tokens_BxL) -> jax.Array:
        """Returns x_BxLxD in config.dtype."""
        return jnp.take(self.embedding.astype(jnp.dtype(self.config.dtype)), tokens_BxL, axis=0)


class NoisyInputs(nn.Module):
    """Noisy embeddings and an estimate of the clean ones -> x_BxLxD.

    The bias is the component that all positions share, as in the initial table of Inputs.

    The module also holds the other parameters of Gaussian diffusion: the embedding table, which is
    learned or read from a file (training/first_weights.py), and those of the noise schedule.
    """

    config: ModelConfig
    gaussian: GaussianConfig
    vocab_size: int
    schedule_size: int

    def setup(self):
        c, size = self.config, self.gaussian.embedding_size
        self.table = self.param("table", nn.initializers.normal(1.0), (self.vocab_size, size))
        if self.schedule_size:
            self.schedule = self.param("schedule", nn.initializers.zeros, (self.schedule_size,))
        dtype = jnp.dtype(c.dtype)
        bias_std = _COMMON * INIT_STD * size**0.5  # relative to the projection of pure noise
        self.in_proj = Linear(c.width, dtype, use_bias=True, bias_std=bias_std)
        if self.gaussian.self_conditioning:
            self.estimate_proj = Linear(c.width, dtype)

    def __call__(self, noisy) -> jax.Array:
        """Returns x_BxLxD for the pair (z_BxLxE, estimate_BxLxE)."""
        z_BxLxE, estimate_BxLxE = noisy
        x_BxLxD = self.in_proj(z_BxLxE)
        if self.gaussian.self_conditioning:
            # Rows of the table have norm 1: this gives the estimate the scale of the noise.
            scale = self.gaussian.embedding_size**0.5
            x_BxLxD += self.estimate_proj(scale * estimate_BxLxE)
        return x_BxLxD


def noise_table(params, gaussian: GaussianConfig) -> jax.Array:
    """Returns table_VxE, the embeddings in a network's parameters, each row scaled to norm 1.

    A table that comes from a file gets no gradient.
    """
    table_VxE = params["embed"]["table"]
    if gaussian.embedding_file:
        table_VxE = jax.lax.stop_gradient(table_VxE)
    return table_VxE * jax.lax.rsqrt(jnp.sum(table_VxE**2, axis=1, keepdims=True) + 1e-12)


def noise_schedule(params) -> jax.Array:
    """Returns the vector of parameters of a network's noise schedule; size 0 if it is fixed."""
    return params["embed"].get("schedule", jnp.zeros(0))


def output_size(vocab_size: int, gaussian: GaussianConfig | None) -> int:
    """Returns the size of a network's outputs: `vocab_size` logits, or one embedding."""
    if gaussian is not None and gaussian.head == "embedding":
        return gaussian.embedding_size
    return vocab_size


class Head(nn.Module):
    """Holds kernel_DxV of the head, an operand of `project` and of the fused loss."""

    vocab_size: int

    @nn.compact
    def __call__(self, width):
        return self.param("kernel", nn.initializers.normal(INIT_STD), (width, self.vocab_size))


def project(h_BxLxD: jax.Array, kernel_DxV: jax.Array) -> jax.Array:
    """Returns logits_BxLxV in float32, the product h @ kernel with operands in the dtype of h."""
    kernel_DxV = kernel_DxV.astype(h_BxLxD.dtype)
    return jnp.matmul(h_BxLxD, kernel_DxV, preferred_element_type=jnp.float32)


def head_kernel_DxV(params) -> jax.Array:
    """Returns kernel_DxV of a network's head, tied to the embeddings or not."""
    return params["lm_head"]["kernel"] if "lm_head" in params else params["embed"]["embedding"].T
