"""What tests of the U-Net share: networks whose every part is heard, random rows of documents, and
the U-Net of a single document in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dlms_jax.config import ModelConfig
from dlms_jax.diffusion import Layout, Noisy
from dlms_jax.models import UNet
from dlms_jax.testing import small_config

SMALL = ModelConfig(
    name="unet", width=32, num_heads=4, num_kv_heads=2, dtype="float32", conditioning="film",
    conditioning_size=16, classes=3, unet_levels=3, unet_blocks=1,
)  # fmt: skip
ROWS, B, L = 128, 48, 24
DOCUMENTS = [1, 2, 3, 4, 5, 6, 7, 8, 11, 13, 21]  # their lengths


def abstract_params(model: UNet, gaussian=None):
    """Returns the shapes of a network's parameters."""
    tokens = jnp.zeros((1, 2), jnp.int32)
    inputs = tokens
    if gaussian is not None:
        z = jnp.zeros((1, 2, gaussian.embedding_size))
        inputs = Noisy(z, z)
    init = functools.partial(model.init, attention="full")
    shapes = jax.eval_shape(init, jax.random.key(0), inputs, tokens * 0.5, layout_of(tokens))
    return shapes["params"]


def random_params(model: UNet, gaussian=None, seed=0):
    """Returns parameters with nothing at 0 or 1: every part of the network is heard."""
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        x = rng.normal(size=shape.shape).astype(np.float32)
        name = path[-1].key
        if name == "kernel":
            return jnp.asarray(x / shape.shape[0] ** 0.5)
        return jnp.asarray(1 + 0.2 * x if name == "scale" else 0.3 * x)

    return jax.tree_util.tree_map_with_path(draw, abstract_params(model, gaussian))


def layout_of(segments_BxL, class_B=None) -> Layout:
    """Returns the Layout of rows: positions count from each document's start."""
    segments_BxL = np.asarray(segments_BxL)
    index_BxL = np.broadcast_to(np.arange(segments_BxL.shape[1]), segments_BxL.shape)
    new_BxL = np.insert(np.diff(segments_BxL, axis=1) != 0, 0, True, axis=1)
    start_BxL = np.maximum.accumulate(np.where(new_BxL, index_BxL, 0), axis=1)
    class_B = np.zeros(len(segments_BxL), np.int32) if class_B is None else class_B
    return Layout(
        jnp.asarray(segments_BxL),
        jnp.asarray(index_BxL - start_BxL, dtype=jnp.int32),
        None,
        jnp.asarray(class_B, dtype=jnp.int32),
    )


def random_segments(seed: int, rows=B, length=L) -> np.ndarray:
    """Returns rows of documents of random lengths, many short, and some padding at the end."""
    rng = np.random.default_rng(seed)
    segments = np.zeros((rows, length), np.int32)
    for row in segments:
        end = length - rng.integers(0, 5)
        at, document = 0, 1
        while at < end:
            size = int(rng.choice(DOCUMENTS))
            row[at : min(at + size, end)] = document
            at, document = at + size, document + 1
    return segments


def random_inputs(seed: int, shape=(B, L)):
    """Returns (tokens, t, class) of rows."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 100, shape).astype(np.int32)
    t = rng.uniform(size=shape).astype(np.float32)
    return tokens, t, rng.integers(0, 4, shape[0]).astype(np.int32)


def jitted(model):
    return jax.jit(
        lambda params, inputs, t, layout: model.apply({"params": params}, inputs, t, layout, "full")
    )


def whole_config(**settings):
    """Returns a Config of a U-Net; settings by section.key as small_config's."""
    sizes = {"model__name": "unet", "model__width": 32, "model__conditioning": "film"}
    return small_config(**sizes | settings)


class Reference:
    """The U-Net of one document, an array [tokens, features] at a time, in float64."""

    def __init__(self, config: ModelConfig, params):
        self.config = config
        self.params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def logits(self, tokens_n, t_n, class_id):
        condition = self.condition(t_n, class_id)
        x = self.level(self.params["embed"]["embedding"][tokens_n], condition, 0)
        h, _ = self.normed(self.params, "final", x, condition)
        return h @ self.kernel("lm_head")

    def level(self, x, condition, level):
        """Returns what a level makes of its input, with all that is below it."""
        c, skips = self.config, []
        for b in range(c.unet_blocks):
            x = self.block(f"down_{level}_{b}", x, condition, level)
            skips.append(x)
        if level == c.unet_levels - 1:
            x = self.block("mid", x, condition, level)
        elif len(x) == 1:  # the document ends here: nothing comes back from below
            x = np.zeros_like(x)
        else:
            starts = range(0, len(x) - 1, 2)
            cells = [slice(i, i + 2 if i + 3 < len(x) else len(x)) for i in starts]
            below = np.stack([self.pad3(x[i]) for i in cells]) @ self.kernel(f"shorten_{level}")
            means = np.stack([condition[i].mean(axis=0) for i in cells])
            below = self.level(below, means, level + 1)
            back = (below @ self.kernel(f"lengthen_{level}")).reshape(len(cells), 3, -1)
            x = np.concatenate([
                y[: len(x[cell])] for y, cell in zip(back, cells, strict=True)
            ])  # fmt: skip
        for b in range(c.unet_blocks):
            name = f"up_{level}_{b}"
            x = np.concatenate([x, skips.pop()], axis=1) @ self.kernel(name, "merge")
            x = self.block(name, x, condition, level)
        return x

    def kernel(self, *path):
        return functools.reduce(lambda p, name: p[name], path, self.params)["kernel"]

    def pad3(self, x):
        return np.pad(x, ((0, 3 - len(x)), (0, 0))).reshape(-1)

    def linear(self, p, x):
        return x @ p["kernel"] + p.get("bias", 0)

    def silu(self, x):
        return x / (1 + np.exp(-x))

    def condition(self, t_n, class_id):
        p = self.params["conditioning"]
        periods = np.geomspace(0.01, 4, 64)
        angle = 2 * np.pi * t_n[:, None].astype(np.float64) / periods
        features = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
        h = self.linear(p["out_proj"], self.silu(self.linear(p["in_proj"], features)))
        return self.silu(h + p["class_embedding"][class_id])

    def normed(self, p, name, x, condition):
        size = np.sqrt((x**2).mean(axis=-1, keepdims=True) + self.config.norm_epsilon)
        h = x / size * p[f"{name}_norm"]["scale"]
        y = self.linear(p[f"{name}_modulation"]["proj"], condition)
        scale, shift, *gate = np.split(y, y.shape[1] // x.shape[1], axis=1)
        return h * (1 + scale) + shift, gate[0] if gate else 1

    def convolution(self, p, x):
        n, d = x.shape
        kernel, y = p["kernel"].reshape(3, d, d), np.zeros_like(x)
        for i in range(n):
            for tap in range(3):
                if 0 <= i + tap - 1 < n:
                    y[i] += x[i + tap - 1] @ kernel[tap]
        return y + p["bias"]

    def block(self, name, x, condition, level):
        c, p = self.config, self.params[name]
        h, _ = self.normed(p, "in", x, condition)
        h, gate = self.normed(p, "out", self.convolution(p["in_conv"], self.silu(h)), condition)
        x = x + gate * self.convolution(p["out_conv"], self.silu(h))
        if level >= c.unet_levels - c.unet_attention_levels:
            h, gate = self.normed(p, "attn", x, condition)
            x = x + gate * self.attention(p["attn"], h)
        return x

    def attention(self, p, x):
        c, n = self.config, len(x)
        angle = np.arange(n)[:, None] * c.rope_theta ** (-np.arange(0, c.per_head, 2) / c.per_head)

        def heads(name, number):
            y = self.linear(p[f"{name}_proj"], x).reshape(n, number, c.per_head)
            if name == "v":
                return y
            y = y / np.sqrt((y**2).mean(axis=-1, keepdims=True) + c.norm_epsilon)
            a, b = np.split(y * p[f"{name}_norm"]["scale"], 2, axis=-1)
            cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
            return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

        q, k, v = heads("q", c.num_heads), heads("k", c.kv_heads), heads("v", c.kv_heads)
        k, v = (np.repeat(y, c.num_heads // c.kv_heads, axis=1) for y in (k, v))
        scores = np.exp(np.einsum("qhk,lhk->hql", q, k) / c.per_head**0.5)
        y = np.einsum("hql,lhk->qhk", scores / scores.sum(axis=-1, keepdims=True), v)
        return self.linear(p["o_proj"], y.reshape(n, -1))
