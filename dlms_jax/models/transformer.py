"""The Transformer denoiser: tokens -> logits."""

from collections.abc import Callable

from flax import linen as nn
import jax
import jax.numpy as jnp

from dlms_jax.config import ModelConfig
from dlms_jax.models.attention import attention_mask
from dlms_jax.models.layers import INIT_STD, MLP, Attention, RMSNorm, rotary_angles

_REMAT = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # keep matmuls' results
    "full": jax.checkpoint_policies.nothing_saveable,  # keep each layer's input only
}


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    config: ModelConfig
    constrain: Callable

    @nn.compact
    def __call__(self, x_BxLxD, mask_Bx1xLxL, rotary):
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        h_BxLxD = RMSNorm(c.norm_epsilon, dtype, name="attn_norm")(x_BxLxD)
        x_BxLxD = x_BxLxD + Attention(c, name="attn")(h_BxLxD, mask_Bx1xLxL, rotary)
        h_BxLxD = RMSNorm(c.norm_epsilon, dtype, name="mlp_norm")(x_BxLxD)
        x_BxLxD = x_BxLxD + MLP(c, name="mlp")(h_BxLxD)
        return self.constrain(x_BxLxD), None


class Transformer(nn.Module):
    """A stack of `Layer`s between an embedding and a head of `rows` symbols.

    `constrain` may pin where x_BxLxD lives (parallel.mesh); the network itself knows no mesh.
    Layer parameters have a leading layer axis, whether the layers run as a scan or unrolled.
    """

    config: ModelConfig
    rows: int
    constrain: Callable = lambda x: x

    def setup(self):
        c = self.config
        self.embed = nn.Embed(
            self.rows, c.width, jnp.dtype(c.dtype), embedding_init=nn.initializers.normal(INIT_STD)
        )
        layer = Layer
        if c.remat != "none":
            layer = nn.remat(Layer, policy=_REMAT[c.remat], prevent_cse=not c.scan_layers)
        stack = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=c.num_layers,
            unroll=1 if c.scan_layers else c.num_layers,
        )
        self.layers = stack(c, self.constrain)
        self.final_norm = RMSNorm(c.norm_epsilon, jnp.dtype(c.dtype))
        if not c.tie_embeddings:
            self.lm_head = Head(self.rows)

    def features(self, tokens_BxL, segments_BxL, positions_BxL, attention: str) -> jax.Array:
        """Returns h_BxLxD, which the head multiplies into logits; attention: "full" or "causal"."""
        c = self.config
        mask_Bx1xLxL = attention_mask(segments_BxL, attention)
        rotary = rotary_angles(positions_BxL, c.per_head, c.rope_theta)
        x_BxLxD, _ = self.layers(self.constrain(self.embed(tokens_BxL)), mask_Bx1xLxL, rotary)
        return self.final_norm(x_BxLxD)

    def __call__(self, tokens_BxL, segments_BxL, positions_BxL, attention: str) -> jax.Array:
        """Returns logits_BxLxV in float32."""
        h_BxLxD = self.features(tokens_BxL, segments_BxL, positions_BxL, attention)
        if self.config.tie_embeddings:
            kernel_DxV = self.embed.embedding.T
        else:
            kernel_DxV = self.lm_head(h_BxLxD.shape[-1])
        return project(h_BxLxD, kernel_DxV)


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
    """Returns the head's kernel of a Transformer's parameters, tied or not."""
    return params["lm_head"]["kernel"] if "lm_head" in params else params["embed"]["embedding"].T
