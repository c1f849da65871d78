"""What a denoiser reads and writes: tokens or noisy embeddings in, logits or vectors out."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from dlms_jax.config import GaussianConfig, ModelConfig
from dlms_jax.models.layers import INIT_STD, Linear

# How much longer what all places have in common begins than what they hold. Attention needs it to
# look at neighbours whatever they hold, and it is long in coming by itself: with 0 all processes
# stay longer at the unigram entropy (docs/performance.md, the plateau). 1 and 4 were tried too.
_COMMON = 2.0


def rows_with_a_common_part(key, shape) -> jax.Array:
    """Returns an initial table: each row the sum of its own draw and of one that all share."""
    own, common = jax.random.split(key)
    draws = jax.random.normal(own, shape) + _COMMON * jax.random.normal(common, (1, shape[1]))
    return INIT_STD * draws


class Inputs(nn.Module):
    """Tokens -> x_BxLxD by a table of `vocab_size` symbols."""

    config: ModelConfig
    vocab_size: int

    def setup(self):
        shape = (self.vocab_size, self.config.width)
        self.embedding = self.param("embedding", rows_with_a_common_part, shape)

    def __call__(self, tokens_BxL) -> jax.Array:
        """Returns x_BxLxD in the type of the computation."""
        return jnp.take(self.embedding.astype(jnp.dtype(self.config.dtype)), tokens_BxL, axis=0)


class NoisyInputs(nn.Module):
    """Noisy embeddings and an estimate of the clean ones -> x_BxLxD.

    The bias is what all places have in common, as the rows of a table of Inputs do.

    It also holds what Gaussian diffusion has besides the network: the table of embeddings, learned
    or from a file (training/state.py puts it there), and the parameters of its noise schedule.
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
        bias_std = _COMMON * INIT_STD * size**0.5  # beside what pure noise brings
        self.in_proj = Linear(c.width, dtype, use_bias=True, bias_std=bias_std)
        if self.gaussian.self_conditioning:
            self.estimate_proj = Linear(c.width, dtype)

    def __call__(self, noisy) -> jax.Array:
        """Returns x_BxLxD of (z_BxLxE, estimate_BxLxE)."""
        z_BxLxE, estimate_BxLxE = noisy
        x_BxLxD = self.in_proj(z_BxLxE)
        if self.gaussian.self_conditioning:
            # Rows of the table have length 1: this gives the estimate the noise's scale.
            scale = self.gaussian.embedding_size**0.5
            x_BxLxD += self.estimate_proj(scale * estimate_BxLxE)
        return x_BxLxD


def noise_table(params, gaussian: GaussianConfig) -> jax.Array:
    """Returns table_VxE of a network's parameters, its rows brought to length 1; a constant where
    it came from a file."""
    table_VxE = params["embed"]["table"]
    if gaussian.embedding_file:
        table_VxE = jax.lax.stop_gradient(table_VxE)
    return table_VxE * jax.lax.rsqrt(jnp.sum(table_VxE**2, axis=1, keepdims=True) + 1e-12)


def noise_schedule(params) -> jax.Array:
    """Returns the parameters of a network's noise schedule; none where it is fixed."""
    return params["embed"].get("schedule", jnp.zeros(0))


def output_size(vocab_size: int, gaussian: GaussianConfig | None) -> int:
    """Returns the size of a network's outputs: logits of `vocab_size` symbols, or an embedding."""
    if gaussian is not None and gaussian.head == "embedding":
        return gaussian.embedding_size
    return vocab_size


class Head(nn.Module):
    """Holds the head's kernel_DxV, which `project` or the fused loss multiplies."""

    vocab_size: int

    @nn.compact
    def __call__(self, width):
        return self.param("kernel", nn.initializers.normal(INIT_STD), (width, self.vocab_size))


def project(h_BxLxD: jax.Array, kernel_DxV: jax.Array) -> jax.Array:
    """Returns logits_BxLxV: inputs in the type of the computation, sums in float32."""
    kernel_DxV = kernel_DxV.astype(h_BxLxD.dtype)
    return jnp.matmul(h_BxLxD, kernel_DxV, preferred_element_type=jnp.float32)


def head_kernel_DxV(params) -> jax.Array:
    """Returns the head's kernel of a network's parameters, tied or not."""
    return params["lm_head"]["kernel"] if "lm_head" in params else params["embed"]["embedding"].T
