"""Canvases: rows of given tokens, and holes for a sampler to fill."""

from collections.abc import Sequence
import re
from typing import NamedTuple

import numpy as np

from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.diffusion import Layout
from dlms_jax.diffusion.protocol import Array
from dlms_jax.errors import UserError

_PAD_TO = 64  # canvases of similar length share one compiled program
_LONGEST_NUMBER = 9  # digits of the length of a hole


class Canvas(NamedTuple):
    """Rows to fill.

    Attributes:
      tokens_BxL: the given tokens; the mask id in holes.
      holes_BxL: True at the positions to fill.
      layout: the layout of the rows.
    """

    tokens_BxL: Array
    holes_BxL: Array
    layout: Layout


def make_canvas(
    rows: Sequence[Sequence[str | int]], tokenizer: Tokenizer, context: int, class_id: int = 0
) -> Canvas:
    """Returns a canvas with one row per list of pieces: BOS, then the pieces, padded at the end.

    Args:
      rows: the pieces of each row. A piece is a text, or the number of tokens in a hole.
      tokenizer: encodes the texts.
      context: the length that the model was trained on.
      class_id: the class of all rows. 0: none.

    Raises:
      UserError: a row is longer than `context`.
    """
    laid_out = [_lay_out(pieces, tokenizer, context) for pieces in rows]
    longest = max(len(tokens) for tokens, _ in laid_out)
    length = min(-(-longest // _PAD_TO) * _PAD_TO, max(context, longest))
    tokens_BxL = np.full((len(rows), length), tokenizer.pad_id, np.int32)
    holes_BxL = np.zeros((len(rows), length), bool)
    segments_BxL = np.zeros((len(rows), length), np.int32)
    for row, (tokens, holes) in enumerate(laid_out):
        tokens_BxL[row, : len(tokens)] = tokens
        holes_BxL[row, : len(tokens)] = holes
        segments_BxL[row, : len(tokens)] = 1
    positions_BxL = np.arange(length, dtype=np.int32)[None] * segments_BxL
    prompt_mask_BxL = (positions_BxL > 0) & ~holes_BxL
    class_B = np.full(len(rows), class_id, np.int32)
    layout = Layout(segments_BxL, positions_BxL, prompt_mask_BxL, class_B)
    return Canvas(tokens_BxL, holes_BxL, layout)


def _lay_out(pieces, tokenizer, context) -> tuple[list[int], list[bool]]:
    """Returns (tokens, holes) of a row without padding."""
    encoded = [tokenizer.encode(p).tolist() if isinstance(p, str) else p for p in pieces]
    given = 1 + sum(len(piece) for piece in encoded if isinstance(piece, list))
    open_ = sum(piece for piece in encoded if isinstance(piece, int))
    if given + open_ > context:  # before a list of that length is made
        raise UserError(
            f"{given} tokens of prompt and BOS plus {open_} to fill exceed the model's "
            f"context of {context} tokens; shorten the prompt or use "
            + (
                f"{context - given} tokens or fewer"
                if given < context
                else "a model with a longer context"
            )
        )
    tokens, holes = [tokenizer.bos_id], [False]
    for piece in encoded:
        hole = isinstance(piece, int)
        ids = [tokenizer.mask_id] * piece if hole else piece
        tokens += ids
        holes += [hole] * len(ids)
    return tokens, holes


def parse_infill(template: str, default: int) -> list[str | int]:
    """Returns the pieces of an infill template, for `make_canvas`.

    Args:
      template: a text such as "The {} of {12} is". {} is a hole of `default` tokens, {12} of 12.
      default: the number of tokens in {}.

    Raises:
      UserError: the template has no hole.
    """
    pieces: list[str | int] = []
    for number, piece in enumerate(re.split(r"\{(\d*)\}", template)):
        if number % 2:
            if len(piece) > _LONGEST_NUMBER:
                raise UserError(
                    f"a hole of {piece[:_LONGEST_NUMBER]}... tokens exceeds any context"
                )
            pieces.append(int(piece or default))
        elif piece:
            pieces.append(piece)
    if not any(isinstance(piece, int) and piece > 0 for piece in pieces):
        raise UserError(f"{template!r} has no hole; write {{}} or, for 12 tokens, {{12}}")
    return pieces
