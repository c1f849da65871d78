"""Oracles that read from left to right, with a cache; the chain that fills block after block."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from sampling import chains

from dlms_jax.diffusion import Denoiser, Layout, Linear, Vocabulary
from dlms_jax.diffusion.protocol import Cached
from dlms_jax.models import Transformer
from dlms_jax.sampling.canvas import Canvas
from dlms_jax.sampling.decoding.cache import columns
from dlms_jax.sampling.sampler import run_sampler
from dlms_jax.testing import Joint, small_config


def next_token_oracle(joint: Joint) -> Denoiser:
    """Returns, at each position, the exact p of the next token given those up to it that are not
    masked."""

    def visible(queries, keys):
        return keys.positions_BxL[:, None] <= queries.positions_BxL[:, :, None]

    return _oracle(joint, visible, shift=1)


def block_oracle(joint: Joint) -> Denoiser:
    """Returns p(x_i | finished blocks before, what is not masked in the block of i), exact. The
    times of a block must agree, and lie in (0, 1]; those of finished blocks must be 0."""

    def visible(queries, keys):
        q_block_BxCx1 = queries.blocks_BxL[:, :, None]
        before = keys.clean_BxL[:, None] & (keys.blocks_BxL[:, None] < q_block_BxCx1)
        own = ~keys.clean_BxL[:, None] & (keys.blocks_BxL[:, None] == q_block_BxCx1)
        return before | (own & ~queries.clean_BxL[:, :, None])

    return _oracle(joint, visible, shift=0)


def _oracle(joint, visible, shift):
    """Returns a Denoiser whose cache holds the tokens themselves; what was never read, symbol 0."""
    texts_TxL = np.insert(joint.texts, 0, joint.vocabulary.bos_id, axis=1)
    # Of BOS, and beyond the end, no symbol is predicted.
    symbols_TxLxS = np.eye(joint.symbols, dtype=np.float32)[joint.texts]
    symbols_TxLxS = np.pad(symbols_TxLxS, ((0, 0), (1, 1), (0, 0)))

    def read(tokens_BxL, queries, keys):
        known_BxL = (keys.segments_BxL > 0) & (tokens_BxL != joint.vocabulary.mask_id)
        seen_BxCxL = visible(queries, keys) & known_BxL[:, None]
        padding = max(0, tokens_BxL.shape[1] - texts_TxL.shape[1])  # differs, but is not seen
        texts = np.pad(texts_TxL, ((0, 0), (0, padding)))[:, : tokens_BxL.shape[1]]
        differs_BxTxL = tokens_BxL[:, None] != texts[None]
        wrong_BxCxT = jnp.einsum(
            "bcl,btl->bct", seen_BxCxL.astype(jnp.float32), differs_BxTxL.astype(jnp.float32)
        )
        p_BxCxT = jnp.where(wrong_BxCxT == 0, jnp.asarray(joint.p, jnp.float32)[None, None], 0)
        p_BxCxLxS = jnp.einsum("bct,tls->bcls", p_BxCxT, symbols_TxLxS)
        place_BxC = jnp.minimum(queries.positions_BxL + shift, joint.length + 1)
        p_BxCxS = jnp.take_along_axis(p_BxCxLxS, place_BxC[..., None, None], axis=2)[:, :, 0]
        rest = joint.vocabulary.padded_size - joint.symbols
        return jnp.pad(jnp.log(p_BxCxS), ((0, 0), (0, 0), (0, rest)), constant_values=-jnp.inf)

    def checked(logits_BxCxV, t_BxC, queries):
        if queries.clean_BxL is None:
            fits_BxC = t_BxC == 0
        else:
            fits_BxC = jnp.where(queries.clean_BxL, t_BxC == 0, (t_BxC > 0) & (t_BxC <= 1))
        return jnp.where(fits_BxC[..., None], logits_BxCxV, jnp.nan)

    def logits(tokens_BxL, t_BxL, layout):
        return checked(read(tokens_BxL, layout, layout), t_BxL, layout)

    def cached_logits(tokens_BxC, t_BxC, layout, start_B, cache_1xBxL):
        here = columns(layout, start_B, tokens_BxC.shape[1])
        write = jax.vmap(functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=0))
        cache_BxL = write(cache_1xBxL[0], tokens_BxC, start_B)
        return checked(read(cache_BxL, here, layout), t_BxC, here), cache_BxL[None]

    empty = lambda number, length: jnp.zeros((1, number, length), jnp.int32)  # noqa: E731
    return Denoiser.from_logits(logits, cached=Cached(empty, cached_logits))


def mixed_canvases(joint: Joint, given: list[dict[int, int]], rows, padding: int = 0) -> Canvas:
    """Returns `rows` canvases (or a list of numbers) of each kind: symbols by place, else holes."""
    length = joint.length + 1
    tokens = np.full((len(given), length + padding), joint.vocabulary.mask_id, np.int32)
    tokens[:, 0] = joint.vocabulary.bos_id
    tokens[:, length:] = joint.vocabulary.pad_id
    for row, symbols in enumerate(given):
        for place, symbol in symbols.items():
            tokens[row, place + 1] = symbol
    tokens = np.repeat(tokens, rows, axis=0)
    holes = tokens == joint.vocabulary.mask_id
    segments = np.broadcast_to(np.arange(tokens.shape[1]) < length, tokens.shape).astype(np.int32)
    positions = np.arange(tokens.shape[1], dtype=np.int32) * segments
    layout = Layout(segments, positions, ~holes & (positions > 0))
    return jax.tree.map(jnp.asarray, Canvas(tokens, holes, layout))


def block_chain(joint: Joint, size: int, inner, given: dict[int, int], **settings) -> np.ndarray:
    """Returns the distribution over texts when blocks, BOS in the first, are filled in order.

    inner: (predict, holes) -> (a kernel of chains.py, its steps). Size 1 with one step that reveals
    all is how an autoregressive model writes.
    """
    exact = chains.Exact(joint, given, **settings)
    states = {exact.start: 1.0}
    for first in range(0, joint.length + 1, size):
        end = min(first + size - 1, joint.length)
        holes = [place for place in exact.holes if first - 1 <= place < end]

        def predict(canvas, end=end):
            return exact(canvas[:end] + (None,) * (joint.length - end))

        kernel, steps = inner(predict, holes)
        following = collections.Counter()
        for state, weight in states.items():
            for new, p in chains.follow(kernel, range(steps), state).items():
                following[new] += weight * p
        states = following
    return chains.over_texts(joint, states)


def reveal_all(predict, holes):
    """An inner chain of `block_chain`: every hole of a block in one step."""
    return chains.ancestral(predict, Linear(), 1, holes=holes), 1


@functools.lru_cache
def _program(sampler, denoise):
    def whole(canvas, keys_B, last):
        state = sampler.start(denoise, canvas, keys_B)
        return run_sampler(sampler, denoise, state, last).tokens_BxL

    return jax.jit(whole)


def fill(sampler, denoise, canvas: Canvas, keys_B=None) -> np.ndarray:
    """Returns the tokens of filled canvases, without BOS; what is not a hole has to stay."""
    if keys_B is None:
        keys_B = jax.random.split(jax.random.key(0), len(canvas.tokens_BxL))
    tokens_BxL = _program(sampler, denoise)(canvas, keys_B, sampler.num_steps(canvas))
    kept_BxL = np.where(canvas.holes_BxL, tokens_BxL, canvas.tokens_BxL)
    np.testing.assert_array_equal(tokens_BxL, kept_BxL)
    return kept_BxL[:, 1:]


def fill_in_parts(sampler, denoise, canvas: Canvas) -> np.ndarray:
    """Returns what `fill` does, the steps taken one by one."""
    keys_B = jax.random.split(jax.random.key(0), len(canvas.tokens_BxL))
    state = jax.jit(functools.partial(sampler.start, denoise))(canvas, keys_B)
    part = jax.jit(functools.partial(run_sampler, sampler, denoise))
    for _ in range(sampler.num_steps(canvas)):
        state = part(state, 1)
    return np.asarray(state.tokens_BxL)[:, 1:]


def until(eos_id: int, texts, canvas: Canvas) -> np.ndarray:
    """Returns texts where, in each row, the holes after the first that holds EOS hold EOS."""
    holes = np.asarray(canvas.holes_BxL)[:, 1:]
    ended = np.cumsum((texts == eos_id) & holes, axis=1) > 0
    return np.where(ended & holes, eos_id, texts)


def check_chains(joint: Joint, sampler, denoise, given, rows, chain):
    """Asserts that the texts of each kind of canvas, drawn in one batch with a cache, are spread as
    chain(given) says, and that without a cache a part of the rows gets the same texts."""
    canvas = mixed_canvases(joint, given, rows)
    keys_B = jax.random.split(jax.random.key(0), len(canvas.tokens_BxL))
    texts = fill(sampler, denoise, canvas, keys_B)
    part = jax.tree.map(lambda x: x[::97], (canvas, keys_B))
    uncached = fill(dataclasses.replace(sampler, cache=False), denoise, *part)
    np.testing.assert_array_equal(texts[::97], uncached)
    for kind, some in zip(given, np.split(texts, np.cumsum(rows)[:-1]), strict=True):
        assert chains.chi_square(counts(joint, some), chain(kind)) > 1e-3, kind


def counts(joint: Joint, texts) -> np.ndarray:
    """Returns how often each text of the joint occurs; what is no text is an error."""
    index = {tuple(text): i for i, text in enumerate(joint.texts)}
    found = [index[tuple(text)] for text in np.asarray(texts).tolist()]
    return np.bincount(found, minlength=len(joint.texts))


@functools.lru_cache
def tiny_transformer(attention: str, dtype: str = "float32", **settings):
    """Returns (denoise, vocabulary) of a Transformer with random weights, told time and class,
    whose predictions depend on all that it is told."""
    vocabulary = Vocabulary(size=9, pad_id=5, bos_id=6, eos_id=7, mask_id=8)
    conditioning = {"conditioning": "film", "conditioning_size": 16, "classes": 2}
    config = dataclasses.replace(small_config().model, dtype=dtype, **conditioning, **settings)
    model = Transformer(config, vocabulary.padded_size)
    layout = Layout(*jnp.ones((2, 1, 4), jnp.int32), class_B=jnp.ones(1, jnp.int32))
    layout = layout._replace(blocks_BxL=layout.positions_BxL, clean_BxL=layout.positions_BxL > 0)
    inputs = layout.segments_BxL, jnp.ones((1, 4)), layout

    @jax.jit
    def init(key):
        params = model.init(key, *inputs, attention)["params"]
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        noise = [0.2 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
        return jax.tree.map(jnp.add, params, jax.tree.unflatten(tree, noise))

    apply = functools.partial(model.apply, {"params": init(jax.random.key(0))})

    def logits(tokens_BxL, t_BxL, layout):
        return apply(tokens_BxL, t_BxL, layout, attention)

    def step(tokens_BxC, t_BxC, layout, start_B, cache):
        return apply(tokens_BxC, t_BxC, layout, start_B, cache, attention, method="step")

    return Denoiser.from_logits(logits, cached=Cached(model.empty_cache, step)), vocabulary


def text_canvases(vocabulary, prompts, length: int, padding: int = 0) -> Canvas:
    """Returns a canvas for each prompt, a string: x a random given symbol, _ a hole. BOS stands
    before it, and holes after it up to `length`; classes take turns."""
    tokens = np.full((len(prompts), length + padding), vocabulary.mask_id, np.int32)
    tokens[:, 0], tokens[:, length:] = vocabulary.bos_id, vocabulary.pad_id
    rng = np.random.default_rng(0)
    for row, prompt in enumerate(prompts):
        symbols = rng.integers(0, 5, len(prompt))
        given = np.array(list(prompt)) == "x"
        tokens[row, 1 : len(prompt) + 1][given] = symbols[given]
    holes = tokens == vocabulary.mask_id
    segments = np.broadcast_to(np.arange(tokens.shape[1]) < length, tokens.shape).astype(np.int32)
    positions = np.arange(tokens.shape[1], dtype=np.int32) * segments
    class_B = np.arange(len(prompts), dtype=np.int32) % 3
    layout = Layout(segments, positions, ~holes & (positions > 0), class_B)
    return jax.tree.map(jnp.asarray, Canvas(tokens, holes, layout))
