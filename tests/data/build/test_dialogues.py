"""Fine-tuning datasets: what reaches the loss is the answers, each of them once."""

import json

import numpy as np
import pytest

from dlms_jax.config import from_dict
from dlms_jax.data.build.dialogues import DialogueOptions, prepare_dialogues
from dlms_jax.data.chat import ChatOptions
from dlms_jax.data.feed.dataset import build_dataset
from dlms_jax.data.tokenizers import ByteTokenizer
from dlms_jax.errors import UserError

T = ByteTokenizer()
PAIRS = [(f"{a}+{b}=", str(a + b)) for a in range(12) for b in range(6)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "sums.jsonl"
    lines = [json.dumps({"prompt": p, "response": r}) for p, r in [*PAIRS, PAIRS[3]]]
    path.write_text("\n".join(lines) + "\n")
    return path


def prepare(file, name="out", **settings):
    settings = {"sequence_length": 16, "heldout_fraction": 0.3} | settings
    folder = file.parent / name
    return prepare_dialogues([str(file)], folder, T, ChatOptions(), DialogueOptions(**settings))


def answers(rows):
    """Returns the (prompt, answer) of every segment."""
    found = []
    for tokens_L, segments_L, _, scored_L in zip(*rows.cells, strict=True):
        for segment in range(1, segments_L.max() + 1):
            here = segments_L == segment
            prompt, answer = tokens_L[here & ~scored_L], tokens_L[here & scored_L]
            found.append((T.decode(prompt), T.decode(answer)))
    return found


@pytest.mark.parametrize("prompt_length", [0, 8])
def test_each_example_is_in_one_row_of_one_split(file, prompt_length):
    dataset, left_out = prepare(file, prompt_length=prompt_length)
    sides = [answers(dataset.rows(split).take(slice(None))) for split in ("train", "heldout")]
    assert left_out == 0 and all(sides)
    assert sorted(sides[0] + sides[1]) == sorted(PAIRS)  # the duplicate is dropped
    assert dataset.card["duplicates"] == 1
    for split, side in zip(("train", "heldout"), sides, strict=True):
        scored = dataset.rows(split).take(slice(None)).loss_mask_RxL.sum()
        assert scored == sum(len(answer) + 1 for _, answer in side)  # and EOS
        assert dataset.card["splits"][split]["tokens"] == scored


def test_left_padding_puts_answers_in_one_column(file):
    rows = prepare(file, prompt_length=8)[0].rows("train").take(slice(None))
    assert (rows.loss_mask_RxL.argmax(axis=1) == 8).all()
    first = (rows.segments_RxL > 0).argmax(axis=1)
    assert (np.take_along_axis(rows.tokens_RxL, first[:, None], 1) == T.bos_id).all()
    assert (np.take_along_axis(rows.positions_RxL, first[:, None], 1) == 0).all()


def test_fill_ends_rows_with_eos_that_is_learned(file):
    rows = prepare(file, prompt_length=8, eos="fill")[0].rows("train").take(slice(None))
    assert (rows.tokens_RxL[:, -1] == T.eos_id).all() and rows.loss_mask_RxL[:, -1].all()
    once = prepare(file, "once", prompt_length=8)[0].rows("train").take(slice(None))
    assert not once.loss_mask_RxL[:, -1].any() and not once.segments_RxL[:, -1].any()


def test_training_reads_it_whatever_packing_the_config_names(file):
    prepare(file)
    config = from_dict({"data": {"corpus": str(file.parent / "out"), "sequence_length": 16}})
    dataset = build_dataset(config)
    assert not dataset.train[0].rows.take(slice(None)).loss_mask_RxL[:, 0].any()


def test_what_is_too_long_is_named_by_its_line_and_the_flags(file):
    """The first one in the file, whatever the order of the rows."""
    lines = file.read_text().splitlines()
    for at, prompt, answer in ((5, "1+1=", "2" * 9), (9, "1" * 9, "2"), (20, "1+1=", "3" * 9)):
        lines.insert(at, json.dumps({"prompt": prompt, "response": answer}))
    file.write_text("\n".join(lines))
    for settings, line, option in (
        ({"sequence_length": 12}, 6, "--sequence-length"),
        ({"sequence_length": 16, "prompt_length": 8}, 6, "--sequence-length"),
        ({"sequence_length": 24, "prompt_length": 8}, 10, "--prompt-length"),
    ):
        with pytest.raises(UserError) as error:
            prepare(file, **settings)
        message = str(error.value)
        assert message.startswith(f"{file}:{line}: ") and "\n" not in message
        assert f"use a larger {option}" in message and "--too-long skip" in message


def test_too_long_is_an_error_or_counted(file):
    with pytest.raises(UserError) as error:
        prepare(file, sequence_length=6)
    assert "\n" not in str(error.value) and not (file.parent / "out").exists()
    dataset, left_out = prepare(file, sequence_length=7, too_long="skip")
    kept = sum(split["documents"] for split in dataset.card["splits"].values())
    assert left_out > 0 and kept == len(PAIRS) - left_out


def test_used_folder_is_refused(file):
    prepare(file)
    with pytest.raises(UserError, match="is not empty"):
        prepare(file)


def test_one_example_cannot_be_split(tmp_path):
    path = tmp_path / "one.jsonl"
    path.write_text('{"prompt": "a", "response": "b"}\n')
    with pytest.raises(UserError, match="held-out fraction"):
        prepare(path)
    assert not (tmp_path / "out").exists()
