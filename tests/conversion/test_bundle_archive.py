"""Archives hold all files, and the same files give the same bytes."""

import hashlib
import io
import os
import stat
import tarfile
import tracemalloc
import zipfile

import pytest
from rich.console import Console

from dlms_jax.conversion.bundle import archive
from dlms_jax.conversion.bundle.archive import write_archives
from dlms_jax.errors import UserError

CONTENT = {
    "b.txt": b"text\n" * 99,
    "a/deep/er.bin": bytes(range(256)) * 40,
    "run.sh": b"#!/bin/sh\n",
    "run.bat": b"rem\r\n",
    "empty": b"",
    "x" * 90 + "/" + "y" * 200: b"long",
}


def put(folder, content):
    """Writes files to a folder under other names; returns them by the names of `content`."""
    folder.mkdir()
    files = {}
    for number, (name, data) in enumerate(content.items()):
        files[name] = folder / str(number)
        files[name].write_bytes(data)
    return files


def archives(folder, files):
    folder.mkdir(exist_ok=True)
    return write_archives(folder, "it-v1", files, Console(file=io.StringIO()))


def sums(paths):
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_both_archives_hold_the_files(tmp_path):
    tar, zipped = archives(tmp_path / "out", put(tmp_path / "in", CONTENT))
    assert (tar.name, zipped.name) == ("it-v1-linux.tar.gz", "it-v1-linux.zip")
    expected = {f"it-v1/{name}": data for name, data in CONTENT.items()}
    with tarfile.open(tar) as opened:
        entries = opened.getmembers()
        assert {e.name: opened.extractfile(e).read() for e in entries} == expected
        assert [e.name for e in entries] == sorted(expected)
        assert {(e.uid, e.gid, e.uname, e.gname, e.mtime) for e in entries} == {
            (0, 0, "", "", 315532800)
        }
        modes = {e.name: e.mode for e in entries}
    with zipfile.ZipFile(zipped) as opened:
        entries = opened.infolist()
        assert {e.filename: opened.read(e) for e in entries} == expected
        assert [e.filename for e in entries] == sorted(expected)
        assert {e.date_time for e in entries} == {(1980, 1, 1, 0, 0, 0)}
        assert {e.filename: stat.S_IMODE(e.external_attr >> 16) for e in entries} == modes
    assert {name for name, mode in modes.items() if mode == 0o755} == {
        "it-v1/run.sh",
        "it-v1/run.bat",
    }
    assert set(modes.values()) == {0o755, 0o644}


def test_time_order_permissions_and_folder_change_no_byte(tmp_path):
    one = archives(tmp_path / "out", put(tmp_path / "in", CONTENT))
    files = put(tmp_path / "other", dict(reversed(CONTENT.items())))
    for path in files.values():
        os.utime(path, (1e9, 1e9))
        path.chmod(0o600)
    assert sums(one) == sums(archives(tmp_path / "elsewhere", files))


def test_source_date_epoch_is_the_date(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    tar, zipped = archives(tmp_path / "out", put(tmp_path / "in", CONTENT))
    with tarfile.open(tar) as opened:
        assert {e.mtime for e in opened} == {1700000000}
    with zipfile.ZipFile(zipped) as opened:
        assert {e.date_time for e in opened.infolist()} == {(2023, 11, 14, 22, 13, 20)}


def test_a_date_before_the_first_of_zip_becomes_the_first(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert archive.date() == 315532800


def test_an_invalid_date_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "today")
    with pytest.raises(UserError, match="SOURCE_DATE_EPOCH=today"):
        archives(tmp_path / "out", put(tmp_path / "in", CONTENT))
    assert not list((tmp_path / "out").iterdir())


def test_large_files_are_zip64_and_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)  # instead of 2 GiB
    _, zipped = archives(tmp_path / "out", put(tmp_path / "in", CONTENT))
    with zipfile.ZipFile(zipped) as opened:
        assert opened.testzip() is None
        entry = opened.getinfo("it-v1/a/deep/er.bin")
        assert entry.extract_version >= zipfile.ZIP64_VERSION
        assert opened.read(entry) == CONTENT["a/deep/er.bin"]


def test_no_file_is_held_in_memory(tmp_path):
    size = 40_000_000
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", size)
    tracemalloc.start()
    try:
        archives(tmp_path / "out", {"large": tmp_path / "large"})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < size / 4


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    files = put(tmp_path / "in", CONTENT)
    files["b.txt"].unlink()
    with pytest.raises(UserError, match="No such file") as error:
        archives(tmp_path / "out", files)
    assert "\n" not in str(error.value)
