"""The size of the pieces of text files: smaller for a short text, to hold some of it out."""

from collections.abc import Sequence
import dataclasses
import pathlib

from dlms_jax.data.corpora.document import is_heldout
from dlms_jax.data.corpora.files import is_text_file
from dlms_jax.data.corpora.options import PIECE_BYTES, ReadOptions
from dlms_jax.data.corpora.source import Source
from dlms_jax.terminal import note

_SURE = 16  # expected pieces on the smaller side with which that side is never empty
_WANTED = 4  # expected pieces on the smaller side, if PIECE_BYTES leaves it empty
_SMALLEST = 64  # bytes of a piece
_LARGEST_CORPUS = 1 << 29  # bytes of a corpus that is read to choose


def with_pieces(
    options: ReadOptions, sources: Sequence[Source], heldout_fraction: float
) -> ReadOptions:
    """Returns options with a size of pieces, chosen if they have none.

    PIECE_BYTES is used if it gives training and held-out documents, as it does for all but short
    texts. Else the largest power of 2 is used that gives a few documents on the smaller side.

    Args:
      options: how the files are read.
      sources: the corpus.
      heldout_fraction: the share of documents that is held out.
    """
    if options.piece_bytes is not None:
        return options
    chosen = dataclasses.replace(options, piece_bytes=PIECE_BYTES)
    texts = [
        source for source in sources if source.file and is_text_file(pathlib.Path(source.file))
    ]
    share = min(heldout_fraction, 1 - heldout_fraction)
    expected = sum(source.size for source in texts) * share  # bytes on the smaller side
    too_large = sum(source.size for source in sources) > _LARGEST_CORPUS
    if not texts or too_large or expected > _SURE * PIECE_BYTES:
        return chosen
    if _has_both_sides(chosen, sources, heldout_fraction):
        return chosen
    size = PIECE_BYTES // 2
    while size > _SMALLEST and size * _WANTED > expected:
        size //= 2
    while size >= _SMALLEST:
        smaller = dataclasses.replace(options, piece_bytes=size)
        if _has_both_sides(smaller, sources, heldout_fraction):
            note(
                f"{texts[0].file}{' ...' if len(texts) > 1 else ''} is short, so text files are "
                f"split into pieces of {size} bytes instead of {PIECE_BYTES}: some of them must be "
                "held out"
            )
            return smaller
        size //= 2
    return chosen


def _has_both_sides(options, sources, heldout_fraction) -> bool:
    """Returns whether a corpus has both training and held-out documents."""
    sides = set()
    for source in sources:
        for document in source.read(options):
            sides.add(is_heldout(document.text, heldout_fraction))
            if len(sides) == 2:
                return True
    return False
