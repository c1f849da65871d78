"""Small networks with every part heard, rows of packed documents, and the forward pass, jitted."""

import functools

import jax
import numpy as np

from dlms_jax.config import ModelConfig
from dlms_jax.diffusion import Layout, Noisy
from dlms_jax.models import Transformer

SMALL = dict(
    width=32, num_layers=2, num_heads=4, num_kv_heads=2, feed_forward=48, dtype="float32",
    conditioning_size=16, prompt_encoder_layers=1,
)  # fmt: skip
ROWS, L = 128, 12


def packed(lengths=((5, 5), (9, 1), (12,)), length=L) -> Layout:
    """Returns rows of documents of these lengths, the rest padding; the third token of each is
    given."""
    segments, positions = np.zeros((2, len(lengths), length), np.int32)
    for row, sizes in enumerate(lengths):
        at = 0
        for document, size in enumerate(sizes, start=1):
            segments[row, at : at + size] = document
            positions[row, at : at + size] = np.arange(size)
            at += size
    class_B = np.arange(len(lengths), dtype=np.int32) % 3
    return Layout(segments, positions, positions == 2, class_B)


def tokens_of(layout, seed=0):
    return np.random.default_rng(seed).integers(0, 100, layout.segments_BxL.shape, np.int32)


def times_of(layout, seed=0):
    return np.random.default_rng(seed).random(layout.segments_BxL.shape, np.float32)


def with_change(x, where, change=1):
    """Returns a copy with `change` added there."""
    x = x.copy()
    x[where] += change
    return x


@functools.cache
def network(gaussian=None, schedule_size=0, **settings):
    """Returns (model, params): no parameter is at 0 or 1, where it would not be heard, and the
    network mixes its positions, as one at its initial scale hardly does."""
    model = Transformer(
        ModelConfig(**SMALL | settings), ROWS, gaussian=gaussian, schedule_size=schedule_size
    )
    rng = np.random.default_rng(0)

    def draw(path, shape):
        x = rng.normal(size=shape.shape).astype(np.float32)
        if path[-1].key == "kernel":
            x /= shape.shape[-2] ** 0.5
        elif path[-1].key == "scale":
            x = 1 + 0.2 * x
        elif path[-1].key == "bias":
            x *= 0.3
        return x

    return model, jax.tree_util.tree_map_with_path(draw, initial(model, jax.eval_shape))


def initial(model: Transformer, call=lambda f, key: jax.jit(f)(key)):
    """Returns the parameters before training; their shapes with jax.eval_shape as `call`."""
    layout = packed(((2,),), 2)
    inputs = tokens_of(layout)
    if model.gaussian is not None:
        inputs = Noisy(*np.zeros((2, 1, 2, model.gaussian.embedding_size), np.float32))
    init = lambda key: model.init(key, inputs, times_of(layout), layout, "full")["params"]  # noqa: E731
    return call(init, jax.random.key(1))


def forward(model, params, attention="full", method="__call__"):
    """Returns a function (inputs, t_BxL, layout, ...) -> what the network's method returns."""
    return functools.partial(_forward(model, attention, method), {"params": params})


@functools.cache
def _forward(model, attention, method):
    return jax.jit(lambda *x: model.apply(*x, attention, method=method))


def doubled(layout, size: int) -> Layout:
    """Returns the layout of [x_t, x_0] in block diffusion with blocks of `size` tokens."""
    clean = np.zeros(layout.positions_BxL.shape, bool)
    noisy = layout._replace(blocks_BxL=layout.positions_BxL // size, clean_BxL=clean)
    clean = noisy._replace(clean_BxL=~noisy.clean_BxL)
    both = jax.tree.map(lambda a, b: np.concatenate([a, b], axis=-1), noisy, clean)
    return both._replace(class_B=layout.class_B)
