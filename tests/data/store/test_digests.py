"""Digests: a changed byte of any file of a prepared dataset is named."""

import argparse
import json
import pathlib
import shutil

from killed_builder import build, contents, texts, write_texts
import numpy as np
import pytest

from dlms_jax.config import from_dict
from dlms_jax.data.store.prepared import Prepared, open_prepared
from dlms_jax.errors import UserError
from dlms_jax.prepare import verify

SHARDS = [f"{s}-{b:05}-of-00002.array_record" for s in ("train", "heldout") for b in range(2)]


@pytest.fixture(scope="module")
def texts_folder(tmp_path_factory) -> pathlib.Path:
    return write_texts(tmp_path_factory.mktemp("input") / "texts", texts(60))


@pytest.fixture(scope="module")
def whole(texts_folder, tmp_path_factory) -> Prepared:
    return build(texts_folder, tmp_path_factory.mktemp("prepared") / "whole")


@pytest.fixture
def copied(whole, tmp_path) -> pathlib.Path:
    return shutil.copytree(whole.folder, tmp_path / "copied")


def refused(call, *args) -> str:
    """Returns the one line that a call is refused with."""
    with pytest.raises(UserError) as error:
        call(*args)
    message = str(error.value)
    assert message and "\n" not in message
    return message


def _opened_and_read(folder):
    """Opens a dataset as training does, and reads all of it."""
    dataset = open_prepared(folder)
    data = {"sequence_length": 32, "heldout_fraction": 0.2}
    tokenizer = {"name": "bpe", "vocab_size": 300}
    dataset.check_config(from_dict({"data": data, "tokenizer": tokenizer}), None)
    return [rows for s in ("train", "heldout") for rows in dataset.rows(s).take(slice(None))]


@pytest.mark.parametrize("file", ["dataset.json", "vocab.json", *SHARDS])
def test_flipped_byte_is_named(copied, file):
    """Any byte, at opening and by `verify`: the kind of damage that leaves JSON valid too."""
    path = copied / file
    good = path.read_bytes()
    every = max(len(good) // 150, 1)
    for at in range(0, len(good), every):
        data = bytearray(good)
        data[at] ^= 1 << (at % 7)
        path.write_bytes(data)
        assert str(path) in refused(open_prepared, copied)
        if at % (25 * every) == 0:
            assert str(path) in refused(verify.run, argparse.Namespace(folder=str(copied)))


@pytest.mark.parametrize(
    ("old", "new"), [("sequence_length", "sequence_lengtj"), ('"seed": 0', '"seed": 1'),
                     ('"digests"', '"digestt"'), ('"format": 1', '"format":  1')]
)  # fmt: skip
def test_change_that_is_valid_json_is_named(copied, texts_folder, old, new):
    path = copied / "dataset.json"
    text = path.read_text()
    path.write_text(text.replace(old, new, 1))
    assert path.read_text() != text
    assert str(path) in refused(open_prepared, copied)
    assert str(path) in refused(build, texts_folder, copied)


def _without_digests(folder):
    card = json.loads((folder / "dataset.json").read_text())
    del card["digests"]
    text = json.dumps(card, indent=1, sort_keys=True) + "\n"
    (folder / "dataset.json").write_text(text)
    return text.encode()


def test_dataset_of_an_earlier_version_opens_with_one_notice(whole, copied, texts_folder, capsys):
    before = _without_digests(copied)
    for _ in range(2):
        for found, expected in zip(_opened_and_read(copied), _opened_and_read(whole.folder),
                                   strict=True):  # fmt: skip
            np.testing.assert_array_equal(found, expected)
    build(texts_folder, copied)
    assert (copied / "dataset.json").read_bytes() == before  # it is complete
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and f"{copied / 'dataset.json'} has no digests" in printed
    (copied / SHARDS[0]).unlink()
    build(texts_folder, copied)
    assert contents(copied) == contents(whole.folder)  # digests are added when it is mended


def test_flipped_byte_in_a_dataset_of_an_earlier_version_is_no_traceback(copied):
    good = _without_digests(copied)
    path = copied / "dataset.json"
    for at in range(0, len(good), 23):
        data = bytearray(good)
        data[at] ^= 1 << (at % 7)
        path.write_bytes(data)
        try:
            _opened_and_read(copied)
        except UserError as error:
            assert "\n" not in str(error)
