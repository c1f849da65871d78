"""The Transformer denoiser: tokens or noisy embeddings -> logits."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from dlms_jax.config import ModelConfig
from dlms_jax.models.attention import (
    Visibility,
    attention_mask,
    columns,
    row_visibility,
    source_visibility,
)
from dlms_jax.models.conditioning import modulated_norm
from dlms_jax.models.layers import LAYER_INPUT, MLP, REMAT, Attention, RMSNorm, rotary_angles
from dlms_jax.models.moe import ROUTER, MoE
from dlms_jax.models.network import Network


class LayerContext(NamedTuple):
    """The inputs that all layers share.

    Attributes:
      visibility: the keys that each query may attend to.
      rotary: (cos, sin) of the positions.
      c_BxLxC: the output of `Conditioning`, or None.
      source: (x_BxLxD, Visibility) of the encoder that read the prompts; None without an encoder.
      start_B: the index in each row of the cache at which the input starts; None without a cache.
      valid_BxL: False for padding, which is not routed to experts.
    """

    visibility: Visibility
    rotary: tuple[jax.Array, jax.Array]
    c_BxLxC: jax.Array | None = None
    source: tuple[jax.Array, Visibility] | None = None
    start_B: jax.Array | None = None
    valid_BxL: jax.Array | None = None


def written(cache, new, start_B):
    """Returns a pytree of BxSx... arrays with those of `new`, BxCx..., written from start_B on."""
    write = jax.vmap(functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=0))
    return jax.tree.map(lambda x, y: write(x, y, start_B), cache, new)


class Layer(nn.Module):
    """A pre-norm Transformer layer: self-attention, cross-attention if there is a source, MLP.

    The MLP may be a mixture of experts.
    """

    config: ModelConfig
    constrain: Callable
    attend: Callable
    outputs: Callable

    @nn.compact
    def __call__(self, x_BxLxD, cache, context: LayerContext):
        """Returns (x_BxLxD, (k_BxLxGxK, v_BxLxGxK) of the input).

        Args:
          x_BxLxD: the input.
          cache: this layer's (k_BxSxGxK, v_BxSxGxK). The layer attends to them after those of x are
            written at context.start_B. None: it attends to x, and the second output is None.
          context: the inputs that all layers share.
        """
        c, (visibility, rotary, c_BxLxC, source, start_B, valid_BxL) = self.config, context
        x_BxLxD = checkpoint_name(x_BxLxD, LAYER_INPUT)
        h_BxLxD, gate = modulated_norm(c, "attn", x_BxLxD, c_BxLxC)
        attn = Attention(c, self.attend, name="attn")
        own = jax.tree.map(self.whole, attn.keys(h_BxLxD, rotary))
        keys = own if cache is None else written(cache, own, start_B)
        x_BxLxD = x_BxLxD + gate * attn.read(h_BxLxD, keys, visibility, rotary)
        if source is not None:
            h_BxLxD, gate = modulated_norm(c, "cross_attn", x_BxLxD, c_BxLxC)
            cross_attn = Attention(c, self.attend, name="cross_attn")
            source_BxLxD, visibility = source
            # With rotary positions: prompt and answer are parts of one document, and a token that
            # fills a gap depends on which prompt tokens are next to it.
            keys = jax.tree.map(self.whole, cross_attn.keys(source_BxLxD, rotary))
            x_BxLxD = x_BxLxD + gate * cross_attn.read(h_BxLxD, keys, visibility, rotary)
        h_BxLxD, gate = modulated_norm(c, "mlp", x_BxLxD, c_BxLxC)
        if c.experts:
            x_BxLxD = x_BxLxD + gate * MoE(c, self.outputs, name="mlp")(h_BxLxD, valid_BxL)
        else:
            x_BxLxD = x_BxLxD + gate * MLP(c, name="mlp")(h_BxLxD)
        return self.constrain(x_BxLxD), None if cache is None else own

    def whole(self, keys_BxSxGxK):
        """Returns keys or values constrained to hold whole rows on each device."""
        return self.constrain(keys_BxSxGxK, whole=True)


class Transformer(Network):
    """A stack of `Layer`s.

    Their parameters have a leading layer axis, whether the stack is scanned or unrolled.

    With config.prompt_encoder="cross_attention" an encoder, a second stack without conditioning on
    time, reads the prompt tokens. The layers then attend to its outputs instead of these tokens.
    """

    def setup(self):
        super().setup()
        c = self.config
        self.layers = self._stack(c.num_layers)
        if c.prompt_encoder == "cross_attention":
            self.source_layers = self._stack(c.prompt_encoder_layers)
            self.source_norm = RMSNorm(c.norm_epsilon, jnp.dtype(c.dtype))

    def _stack(self, number):
        c, layer = self.config, Layer
        if c.remat != "none":
            layer = nn.remat(Layer, policy=REMAT[c.remat], prevent_cse=not c.scan_layers)
        stack = nn.scan(
            layer,
            variable_axes={"params": 0, ROUTER: 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast),
            out_axes=0,
            length=number,
            unroll=1 if c.scan_layers else number,
        )
        return stack(c, self.constrain, self.attend, self.outputs)

    def features(self, inputs, t_BxL, layout, attention: str, doubled: bool = False) -> jax.Array:
        """Returns h_BxLxD, the input of the head.

        Args:
          inputs: tokens_BxL, or (z_BxLxE, estimate_BxLxE).
          t_BxL: the time of each token.
          layout: a `diffusion.Layout`.
          attention: a kind of attention, see `attention_mask`; "full" with a prompt encoder.
          doubled: True if the rows are [x_t, x_0]: block attention can then run in a kernel.

        Raises:
          ValueError: there is a prompt encoder and the attention is not "full".
        """
        x_BxLxD = self.constrain(self.embed(inputs))
        rotary = self._rotary(layout)
        if self.config.prompt_encoder == "none":
            context = LayerContext(row_visibility(layout, attention, doubled), rotary)
        elif attention == "full":
            own, of_source = source_visibility(layout)
            source_BxLxD, _ = self.source_layers(x_BxLxD, None, LayerContext(of_source, rotary))
            context = LayerContext(own, rotary, source=(self.source_norm(source_BxLxD), of_source))
        else:
            raise ValueError(
                f"attention {attention!r} and prompts read by an encoder exclude each other"
            )
        return self._features(x_BxLxD, t_BxL, layout, context)[0]

    def empty_cache(self, rows: int, length: int) -> tuple[jax.Array, jax.Array]:
        """Returns an empty cache for `step`: (k_NxBxLxGxK, v_NxBxLxGxK).

        Keys are stored after the norm and the rotation.
        """
        c = self.config
        shape = c.num_layers, rows, length, c.kv_heads, c.per_head
        return (jnp.zeros(shape, c.dtype),) * 2

    def step(self, inputs, t_BxC, layout, start_B, cache, attention: str) -> tuple[jax.Array, Any]:
        """Returns (logits_BxCxV, cache) for C new positions of each row.

        Their keys and values are written to the cache first, so they also attend to each other.

        Args:
          inputs: the inputs at the new positions.
          t_BxC: their times.
          layout: the layout of the cache's whole length.
          start_B: the index of the first new position in each row.
          cache: holds every earlier position that `attention` lets the new ones attend to.
          attention: a kind of attention, see `attention_mask`.
        """
        here = columns(layout, start_B, t_BxC.shape[1])
        visibility = Visibility(attention_mask(here, layout, attention))
        context = LayerContext(visibility, self._rotary(here), start_B=start_B)
        x_BxCxD = self.constrain(self.embed(inputs))
        h_BxCxD, keys = self._features(x_BxCxD, t_BxC, here, context, cache)
        # Layers return only their new keys and values, else the scan would copy the whole cache.
        cache = jax.vmap(written, in_axes=(0, 0, None))(cache, keys, start_B)
        return self.project(h_BxCxD), cache

    def _features(self, x_BxLxD, t_BxL, layout, context: LayerContext, cache=None):
        c_BxLxC = self.conditioning(t_BxL, layout.class_B)
        context = context._replace(c_BxLxC=c_BxLxC, valid_BxL=layout.segments_BxL > 0)
        x_BxLxD, keys = self.layers(x_BxLxD, cache, context)
        return self.finish(x_BxLxD, c_BxLxC), keys

    def _rotary(self, layout):
        return rotary_angles(layout.positions_BxL, self.config.per_head, self.config.rope_theta)
