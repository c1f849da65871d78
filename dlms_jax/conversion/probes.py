"""The inputs on which two frameworks are compared: rows of documents, and prompts with holes."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from dlms_jax.config import Config, traits_of
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.diffusion import Layout, Noisy
from dlms_jax.diffusion.block import beside_clean

_LENGTH = 33  # tokens of the longest rows; an odd number, for the U-Net


def cases(config: Config, tokenizer: Tokenizer, known: int) -> Iterator[tuple]:
    """Yields two batches as (the name of each row, inputs, t_BxL, layout).

    The rows of the first batch hold one or more documents and padding; the second is one short row.

    Args:
      config: the config of the network.
      tokenizer: its tokenizer.
      known: number of symbols that the network has rows for; larger ids are not used.
    """
    rng, context = np.random.default_rng(0), config.data.sequence_length
    length = min(_LENGTH, context)
    half = max(length // 2, 1)
    documents = [[length], [half], [half, length - half], [1, length - 1], [2], [1]]
    documents = [[size for size in sizes if size] for sizes in documents]
    for rows, width in ((documents, length), ([[2]], 2)):
        names = [f"{' + '.join(map(str, sizes))} of {width} tokens" for sizes in rows]
        segments, positions = _layout(rows, width)
        tokens = _tokens(rng, tokenizer, known, positions)
        yield names, *_inputs(rng, config, tokenizer, known, tokens, segments, positions)


def _layout(documents: list[list[int]], length: int):
    """Returns (segments_BxL, positions_BxL) of rows of documents of these lengths."""
    segments, positions = np.zeros((2, len(documents), length), np.int32)
    for row, sizes in enumerate(documents):
        start = 0
        for number, size in enumerate(sizes, start=1):
            segments[row, start : start + size] = number
            positions[row, start : start + size] = np.arange(size)
            start += size
    return segments, positions


def _tokens(rng, tokenizer: Tokenizer, known: int, positions_BxL):
    """Returns random tokens_BxL; each document begins with BOS, if the network knows it."""
    tokens_BxL = rng.integers(0, min(tokenizer.size, known), positions_BxL.shape, np.int32)
    if tokenizer.bos_id >= known:
        return tokens_BxL
    return np.where(positions_BxL == 0, tokenizer.bos_id, tokens_BxL)


def _inputs(rng, config, tokenizer, known, tokens_BxL, segments_BxL, positions_BxL):
    """Returns (inputs, t_BxL, layout): half of the tokens are masked, some of the others belong to
    a prompt; each token has a time of its own, and each row a class."""
    shape, traits = tokens_BxL.shape, traits_of(config)
    hidden_BxL = (rng.random(shape) < 0.5) & (positions_BxL > 0) & (tokenizer.mask_id < known)
    masked_BxL = np.where(hidden_BxL, tokenizer.mask_id, tokens_BxL)
    t_BxL = rng.random(shape, np.float32)
    prompt_mask_BxL = (positions_BxL > 0) & ~hidden_BxL & (rng.random(shape) < 0.3)
    class_B = rng.integers(0, config.model.classes + 1, len(tokens_BxL), np.int32)
    layout = Layout(segments_BxL, positions_BxL, prompt_mask_BxL, class_B)
    if traits.inputs == "embeddings":
        size = config.gaussian.embedding_size
        return Noisy(*rng.normal(size=(2, *shape, size)).astype(np.float32)), t_BxL, layout
    if traits.copies == 2:  # the text that is being denoised, followed by the clean text
        layout = layout._replace(
            blocks_BxL=positions_BxL // config.block.size, clean_BxL=np.zeros(shape, bool)
        )
        both_BxL = np.concatenate([masked_BxL, tokens_BxL], axis=1)
        t_BxL = np.concatenate([t_BxL, np.zeros(shape, np.float32)], axis=1)
        return both_BxL, t_BxL, beside_clean(layout)
    return (tokens_BxL if traits.exact else masked_BxL), t_BxL, layout


def prompts(config: Config, tokenizer: Tokenizer) -> list[list[Any]]:
    """Returns two prompts with holes, of different lengths, that fit the context.

    Each is a list of pieces: a text, or the number of tokens of a hole. Text after a hole occurs
    only for objectives that can fill holes before given text.

    Args:
      config: the config of the network.
      tokenizer: its tokenizer.
    """
    room = config.data.sequence_length - 1  # without BOS
    hole = max(1, min(12, room - 5))
    after = ["e"] if traits_of(config).order == "any" else []
    rows = [["a", hole, *after], ["The ", max(1, hole // 2), *after]]
    return [row for row in rows if _length(tokenizer, row) <= room] or [[room]]


def _length(tokenizer: Tokenizer, pieces) -> int:
    return sum(x if isinstance(x, int) else len(tokenizer.encode(x)) for x in pieces)
