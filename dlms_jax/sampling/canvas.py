"""A canvas: tokens that are given, and holes for a sampler to fill."""

from collections.abc import Sequence
import re
from typing import NamedTuple

import jax
import numpy as np

from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.diffusion import Layout
from dlms_jax.errors import UserError

_PAD_TO = 64  # canvases of nearly the same length share one compiled program


class Canvas(NamedTuple):
    """tokens_BxL: given tokens; the mask id in holes. holes_BxL: True where to fill."""

    tokens_BxL: jax.Array
    holes_BxL: jax.Array
    layout: Layout


def make_canvas(
    pieces: Sequence[str | int], tokenizer: Tokenizer, context: int, rows: int
) -> Canvas:
    """Returns `rows` equal canvases: BOS, then each piece: a text, or a number of tokens to fill.

    Raises UserError where that is longer than `context`, the length that the model was trained on.
    """
    tokens, holes = [tokenizer.bos_id], [False]
    for piece in pieces:
        if isinstance(piece, str):
            ids = tokenizer.encode(piece).tolist()
            tokens += ids
            holes += [False] * len(ids)
        else:
            tokens += [tokenizer.mask_id] * piece
            holes += [True] * piece
    used = len(tokens)
    if used > context:
        given = used - sum(holes)
        raise UserError(
            f"{given} tokens of prompt and BOS and {sum(holes)} to fill do not fit the model's "
            f"context of {context} tokens; shorten the prompt or ask for "
            + (f"{context - given} tokens or fewer" if given < context else "a longer context")
        )
    padded = min(-(-used // _PAD_TO) * _PAD_TO, max(context, used))
    tokens_L = np.full(padded, tokenizer.pad_id, np.int32)
    tokens_L[:used] = tokens
    holes_L = np.zeros(padded, bool)
    holes_L[:used] = holes
    segments_L = (np.arange(padded) < used).astype(np.int32)
    positions_L = (np.arange(padded) * segments_L).astype(np.int32)
    repeat = lambda x: np.tile(x, (rows, 1))  # noqa: E731
    return Canvas(
        repeat(tokens_L), repeat(holes_L), Layout(repeat(segments_L), repeat(positions_L))
    )


def parse_infill(template: str, default: int) -> list[str | int]:
    """Returns the pieces of "The {} of {12} is": {} is a hole of `default` tokens, {12} of 12."""
    pieces = []
    for number, piece in enumerate(re.split(r"\{(\d*)\}", template)):
        if number % 2:
            pieces.append(int(piece or default))
        elif piece:
            pieces.append(piece)
    if not any(isinstance(piece, int) and piece > 0 for piece in pieces):
        raise UserError(f"{template!r} has no hole; write {{}} or, for 12 tokens, {{12}}")
    return pieces
