"""Files are written whole or not at all, through links, and never over what is not a file."""

import json
import os

import pytest

from dlms_jax.files import UNFINISHED, sha256_of, write_json, write_text, written_whole


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    with written_whole(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_fails_leaves_the_file_as_it_was(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(error), written_whole(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["a.txt"]


def test_a_link_stays_and_the_file_behind_it_is_replaced(tmp_path):
    real, link = tmp_path / "there" / "real.txt", tmp_path / "link.txt"
    real.parent.mkdir()
    real.write_text("before")
    link.symlink_to(real)
    write_text(link, "after")
    assert link.is_symlink() and real.read_text() == "after"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_not_a_file_is_not_replaced(tmp_path, make):
    path = tmp_path / "odd"
    make(path)
    before = os.stat(path).st_ino
    with pytest.raises(OSError, match="not a regular file"):
        write_text(path, "text")
    assert os.stat(path).st_ino == before and os.listdir(tmp_path) == ["odd"]


def test_json_is_readable_and_has_its_keys_in_order(tmp_path):
    write_json(tmp_path / "a.json", {"b": "ü", "a": [1]})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"a": [1], "b": "ü"} and text.index('"a"') < text.index('"b"')


def test_checksum_is_that_of_sha256sum(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc").startswith("ba7816bf8f01cfea")


def test_a_file_being_written_is_recognised_by_its_name(tmp_path):
    with written_whole(tmp_path / "a") as temporary:
        assert temporary.name == "a" + UNFINISHED
        temporary.touch()
