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
    """What every layer is told besides its input.

    source: (x_BxLxD, Visibility) of the encoder that read the prompts; None without one.
    start_B: where in each row of the cache the input's keys and values go; None without a cache.
    valid_BxL: False at padding, which no expert gets.
    """

    visibility: Visibility
    rotary: tuple[jax.Array, jax.Array]
    c_BxLxC: jax.Array | None = None
    source: tuple[jax.Array, Visibility] | None = None
    start_B: jax.Array | None = None
    valid_BxL: jax.Array | None = None


def written(cache, new, start_B):
    """Returns a pytree of x_BxS.. with BxC.. of `new` in each row from its start on."""
    write = jax.vmap(functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=0))
    return jax.tree.map(lambda x, y: write(x, y, start_B), cache, new)


class Layer(nn.Module):
    """x + attention(norm(x)), x + attention to the source(norm(x)) if any, x + mlp(norm(x)), where
    the last may be a mixture of experts."""

    config: ModelConfig
    constrain: Callable
    attend: Callable
    outputs: Callable

    @nn.compact
    def __call__(self, x_BxLxD, cache, context: LayerContext):
        """Returns (x_BxLxD, the keys and values of x).

        cache: this layer's (k_BxSxGxK, v_BxSxGxK), to attend to with those of x in their places.
        None: attends to x only, and returns None in place of keys and values.
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
            # With rotary positions: prompt and answer stand in one document, and what fills a hole
            # has to know which given tokens are next to it.
            keys = jax.tree.map(self.whole, cross_attn.keys(source_BxLxD, rotary))
            x_BxLxD = x_BxLxD + gate * cross_attn.read(h_BxLxD, keys, visibility, rotary)
        h_BxLxD, gate = modulated_norm(c, "mlp", x_BxLxD, c_BxLxC)
        if c.experts:
            x_BxLxD = x_BxLxD + gate * MoE(c, self.outputs, name="mlp")(h_BxLxD, valid_BxL)
        else:
            x_BxLxD = x_BxLxD + gate * MLP(c, name="mlp")(h_BxLxD)
        return self.constrain(x_BxLxD), None if cache is None else own

    def whole(self, keys_BxSxGxK):
        return self.constrain(keys_BxSxGxK, whole=True)


class Transformer(Network):
    """A stack of `Layer`s. Their parameters have a leading layer axis, whether they run as a scan
    or unrolled.

    With config.prompt_encoder="cross_attention" given tokens are read by an encoder of further
    layers, which knows no time; the layers see its outputs instead of these tokens.
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
        """Returns h_BxLxD, which the head multiplies into logits.

        inputs: tokens_BxL, or (z_BxLxE, estimate_BxLxE). layout: diffusion's Layout. attention: a
        kind that models/attention.py knows; "full" where prompts have an encoder. doubled: the row
        is [x_t, x_0], which lets block attention run in a kernel.
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
        """Returns what `step` starts from: (k_NxBxLxGxK, v_NxBxLxGxK), keys as attention compares
        them, after norm and rotation."""
        c = self.config
        shape = c.num_layers, rows, length, c.kv_heads, c.per_head
        return (jnp.zeros(shape, c.dtype),) * 2

    def step(self, inputs, t_BxC, layout, start_B, cache, attention: str) -> tuple[jax.Array, Any]:
        """Returns (logits_BxCxV, cache): the network at the positions start..start+C-1 of each row,
        whose keys and values it puts in the cache. layout: of the cache's whole length; a position
        sees what `attention` lets it see, all of which must have been read before."""
        here = columns(layout, start_B, t_BxC.shape[1])
        visibility = Visibility(attention_mask(here, layout, attention))
        context = LayerContext(visibility, self._rotary(here), start_B=start_B)
        x_BxCxD = self.constrain(self.embed(inputs))
        h_BxCxD, keys = self._features(x_BxCxD, t_BxC, here, context, cache)
        # Layers return their few new keys only: a whole cache for each would be written again.
        cache = jax.vmap(written, in_axes=(0, 0, None))(cache, keys, start_B)
        return self.project(h_BxCxD), cache

    def _features(self, x_BxLxD, t_BxL, layout, context: LayerContext, cache=None):
        c_BxLxC = self.conditioning(t_BxL, layout.class_B)
        context = context._replace(c_BxLxC=c_BxLxC, valid_BxL=layout.segments_BxL > 0)
        x_BxLxD, keys = self.layers(x_BxLxD, cache, context)
        return self.finish(x_BxLxD, c_BxLxC), keys

    def _rotary(self, layout):
        return rotary_angles(layout.positions_BxL, self.config.per_head, self.config.rope_theta)
