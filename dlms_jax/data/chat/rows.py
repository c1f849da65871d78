"""Examples -> rows: several in a row, or one with its prompt padded on the left."""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from dlms_jax.data.chat.examples import Example
from dlms_jax.data.packing import Rows, best_fit, empty_rows
from dlms_jax.errors import UserError


def keep_fitting(
    examples: Iterable[Example], length: int, prompt_length: int | None = None
) -> tuple[list[Example], int]:
    """Returns the examples that fit in rows, and the number of those that do not.

    No example is cut: a cut answer would teach the model to stop, or not to stop, in the middle.

    Args:
      examples: the examples.
      length: the length of a row.
      prompt_length: as in `pad_examples`; None for `pack_examples`.
    """
    examples = list(examples)
    kept = [example for example in examples if not _excess(example, length, prompt_length)]
    return kept, len(examples) - len(kept)


def pack_examples(examples: Sequence[Example], length: int, pad_id: int) -> Rows:
    """Returns rows of several whole examples, as segments, with little padding."""
    _check_all(examples, length, None)
    members = best_fit([len(example.tokens) for example in examples], length)
    rows = empty_rows(len(members), length, pad_id)
    for row, indices in enumerate(members):
        start = 0
        for segment, index in enumerate(indices, 1):
            _put(rows, row, start, segment, examples[index].tokens, examples[index].loss_mask)
            start += len(examples[index].tokens)
    return rows


def pad_examples(
    examples: Sequence[Example],
    length: int,
    prompt_length: int,
    pad_id: int,
    eos_id: int,
    eos: Literal["once", "fill"] = "once",
) -> Rows:
    """Returns rows of one example each, in which the first answer starts in column prompt_length.

    Prompts are padded on the left. Positions count from BOS, so padding changes no rotary distance.

    Args:
      examples: the examples; each must fit (see `keep_fitting`).
      length: the length of a row.
      prompt_length: the number of columns before the first answer.
      pad_id, eos_id: the padding and EOS tokens.
      eos: what follows the last EOS. "once": padding, which is neither attended to nor scored.
        "fill": EOS up to the row's end, attended to and scored (LLaDA, arXiv 2502.09992).
    """
    if eos not in ("once", "fill"):
        raise UserError(f"eos={eos!r}: use 'once' or 'fill'")
    _check_all(examples, length, prompt_length)
    rows = empty_rows(len(examples), length, pad_id)
    for row, (tokens, loss_mask, own_length) in enumerate(examples):
        start = prompt_length - own_length
        if eos == "fill":
            more = (0, length - start - len(tokens))
            tokens = np.pad(tokens, more, constant_values=eos_id)
            loss_mask = np.pad(loss_mask, more, constant_values=True)
        _put(rows, row, start, 1, tokens, loss_mask)
    return rows


def check_fit(example: Example, length: int, prompt_length: int | None = None) -> None:
    """Raises UserError if an example does not fit in a row; the arguments are `keep_fitting`'s."""
    if found := _excess(example, length, prompt_length):
        excess, option = found
        raise UserError(
            f"the example has {excess}: use a larger {option}, or leave out what is too long "
            "(--too-long skip; in Python too_long='skip', keep_fitting)"
        )


def _put(rows, row, start, segment, tokens, loss_mask):
    """Writes an example into a row."""
    here = row, slice(start, start + len(tokens))
    rows.tokens_RxL[here] = tokens
    rows.segments_RxL[here] = segment
    rows.positions_RxL[here] = np.arange(len(tokens))
    rows.loss_mask_RxL[here] = loss_mask


def _excess(example, length, prompt_length) -> tuple[str, str] | None:
    """Returns what is too long in an example, and the option that makes room; None if it fits."""
    size = len(example.tokens)
    if prompt_length is None:
        row = f"{size} tokens, but a row holds {length}"
        return (row, "--sequence-length") if size > length else None
    if example.prompt_length > prompt_length:
        prompt = f"a prompt of {example.prompt_length} tokens"
        return f"{prompt}, but there are {prompt_length} columns", "--prompt-length"
    rest, room = size - example.prompt_length, length - prompt_length
    answer = f"{rest} tokens after the prompt, but there are {room} columns"
    return (answer, "--sequence-length") if rest > room else None


def _check_all(examples, length, prompt_length):
    for number, example in enumerate(examples, 1):
        try:
            check_fit(example, length, prompt_length)
        except UserError as error:
            raise UserError(f"example {number}: {error}") from None
