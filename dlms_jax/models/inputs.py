"""What a denoiser reads and writes: tokens or noisy embeddings in, logits or vectors out."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from dlms_jax.config import GaussianConfig, ModelConfig
from dlms_jax.models.layers import INIT_STD, Linear


class Inputs(nn.Module):
    """Tokens -> x_BxLxD by a table of `rows` symbols."""

    config: ModelConfig
    rows: int

    def setup(self):
        init = nn.initializers.normal(INIT_STD)
        self.embedding = self.param("embedding", init, (self.rows, self.config.width))

    def __call__(self, tokens_BxL) -> jax.Array:
        """Returns x_BxLxD in the type of the computation."""
        return jnp.take(self.embedding.astype(jnp.dtype(self.config.dtype)), tokens_BxL, axis=0)


class NoisyInputs(nn.Module):
    """Noisy embeddings and an earlier estimate of the clean ones -> x_BxLxD.

    The bias is what all places have in common, as masked ones have the mask's embedding. Attention
    needs it to look at neighbours whatever they hold: two vectors of noise say nothing of where
    they stand.

    It also holds what Gaussian diffusion has besides the network: the table of embeddings, learned
    or from a file (training/state.py puts it there), and the parameters of its noise schedule.
    """

    config: ModelConfig
    gaussian: GaussianConfig
    rows: int
    schedule_size: int

    def setup(self):
        c, size = self.config, self.gaussian.embedding_size
        self.table = self.param("table", nn.initializers.normal(1.0), (self.rows, size))
        if self.schedule_size:
            self.schedule = self.param("schedule", nn.initializers.zeros, (self.schedule_size,))
        dtype = jnp.dtype(c.dtype)
        # Twice as long as what noise brings. With 0 there is a long plateau (docs/family.md).
        bias_std = 2 * INIT_STD * size**0.5
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


def output_size(rows: int, gaussian: GaussianConfig | None) -> int:
    """Returns the size of a network's outputs: logits of `rows` symbols, or an embedding."""
    if gaussian is not None and gaussian.head == "embedding":
        return gaussian.embedding_size
    return rows


class Head(nn.Module):
    """Holds the head's kernel_DxV, which `project` or the fused loss multiplies."""

    rows: int

    @nn.compact
    def __call__(self, width):
        return self.param("kernel", nn.initializers.normal(INIT_STD), (width, self.rows))


def project(h_BxLxD: jax.Array, kernel_DxV: jax.Array) -> jax.Array:
    """Returns logits_BxLxV: inputs in the type of the computation, sums in float32."""
    kernel_DxV = kernel_DxV.astype(h_BxLxD.dtype)
    return jnp.matmul(h_BxLxD, kernel_DxV, preferred_element_type=jnp.float32)


def head_kernel_DxV(params) -> jax.Array:
    """Returns the head's kernel of a network's parameters, tied or not."""
    return params["lm_head"]["kernel"] if "lm_head" in params else params["embed"]["embedding"].T
