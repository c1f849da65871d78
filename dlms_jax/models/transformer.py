"""The Transformer denoiser: tokens or noisy embeddings -> logits."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from dlms_jax.config import ModelConfig
from dlms_jax.models.attention import (
    Seen,
    attention_mask,
    columns,
    seen_in_row,
    seen_of_source,
)
from dlms_jax.models.conditioning import modulated_norm
from dlms_jax.models.layers import LAYER_INPUT, MLP, REMAT, Attention, RMSNorm, rotary_angles
from dlms_jax.models.moe import ROUTER, MoE
from dlms_jax.models.network import Network


class Around(NamedTuple):
    """What every layer is told alike, besides its input.

    source: (x_BxLxD, Seen) of the encoder that read the prompts, None where there is none.
    start: the place in the cache at which the input's keys and values go, None without a cache.
    valid_BxL: False at padding, which no expert gets.
    """

    seen: Seen
    rotary: tuple[jax.Array, jax.Array]
    c_BxLxC: jax.Array | None = None
    source: tuple[jax.Array, Seen] | None = None
    start: jax.Array | int | None = None
    valid_BxL: jax.Array | None = None


class Layer(nn.Module):
    """x + attention(norm(x)), x + attention to the source(norm(x)) if any, x + mlp(norm(x)), where
    the last may be a mixture of experts."""

    config: ModelConfig
    constrain: Callable
    attend: Callable
    outputs: Callable

    @nn.compact
    def __call__(self, x_BxLxD, cache, around: Around):
        """Returns (x_BxLxD, cache); cache: this layer's (k_BxSxGxK, v_BxSxGxK), or None."""
        c, (seen, rotary, c_BxLxC, source, start, valid_BxL) = self.config, around
        x_BxLxD = checkpoint_name(x_BxLxD, LAYER_INPUT)
        h_BxLxD, gate = modulated_norm(c, "attn", x_BxLxD, c_BxLxC)
        attn = Attention(c, self.attend, name="attn")
        keys = jax.tree.map(self.whole, attn.keys(h_BxLxD, rotary))
        if cache is not None:
            keys = cache = jax.tree.map(
                lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, start, axis=1),
                cache, keys,
            )  # fmt: skip
        x_BxLxD = x_BxLxD + gate * attn.read(h_BxLxD, keys, seen, rotary)
        if source is not None:
            h_BxLxD, gate = modulated_norm(c, "cross_attn", x_BxLxD, c_BxLxC)
            cross_attn = Attention(c, self.attend, name="cross_attn")
            source_BxLxD, seen = source
            # With rotary positions: prompt and answer stand in one document, and what fills a hole
            # has to know which given tokens are next to it.
            keys = jax.tree.map(self.whole, cross_attn.keys(source_BxLxD, rotary))
            x_BxLxD = x_BxLxD + gate * cross_attn.read(h_BxLxD, keys, seen, rotary)
        h_BxLxD, gate = modulated_norm(c, "mlp", x_BxLxD, c_BxLxC)
        if c.experts:
            x_BxLxD = x_BxLxD + gate * MoE(c, self.outputs, name="mlp")(h_BxLxD, valid_BxL)
        else:
            x_BxLxD = x_BxLxD + gate * MLP(c, name="mlp")(h_BxLxD)
        return self.constrain(x_BxLxD), cache

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
            around = Around(seen_in_row(layout, attention, doubled), rotary)
        elif attention == "full":
            own, of_source = seen_of_source(layout)
            source_BxLxD, _ = self.source_layers(x_BxLxD, None, Around(of_source, rotary))
            around = Around(own, rotary, source=(self.source_norm(source_BxLxD), of_source))
        else:
            raise ValueError(
                f"attention {attention!r} and prompts read by an encoder exclude each other"
            )
        return self._features(x_BxLxD, t_BxL, layout, around)[0]

    def empty_cache(self, rows: int, length: int) -> tuple[jax.Array, jax.Array]:
        """Returns what `step` starts from: (k_NxBxLxGxK, v_NxBxLxGxK), keys as attention compares
        them, after norm and rotation."""
        c = self.config
        shape = c.num_layers, rows, length, c.kv_heads, c.per_head
        return (jnp.zeros(shape, c.dtype),) * 2

    def step(self, inputs, t_BxC, layout, start, cache, attention: str) -> tuple[jax.Array, Any]:
        """Returns (logits_BxCxV, cache): the network at the positions start..start+C-1, whose keys
        and values it puts in the cache. layout: of the cache's whole length, of which it lets a
        position see what `attention` says; what is to be seen must have been read before."""
        here = columns(layout, start, t_BxC.shape[1])
        seen = Seen(attention_mask(here, layout, attention))
        around = Around(seen, self._rotary(here), start=start)
        x_BxCxD = self.constrain(self.embed(inputs))
        h_BxCxD, cache = self._features(x_BxCxD, t_BxC, here, around, cache)
        return self.project(h_BxCxD), cache

    def _features(self, x_BxLxD, t_BxL, layout, around: Around, cache=None):
        c_BxLxC = self.conditioning(t_BxL, layout.class_B)
        around = around._replace(c_BxLxC=c_BxLxC, valid_BxL=layout.segments_BxL > 0)
        x_BxLxD, cache = self.layers(x_BxLxD, cache, around)
        return self.finish(x_BxLxD, c_BxLxC), cache

    def _rotary(self, layout):
        return rotary_angles(layout.positions_BxL, self.config.per_head, self.config.rope_theta)
