"""Atomic writes of files, and checksums."""

from collections.abc import Iterator
import contextlib
import errno
import hashlib
import json
import os
import pathlib
from typing import Any

UNFINISHED = ".unfinished"  # suffix of a file or folder that is still being written


@contextlib.contextmanager
def written_whole(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path in the folder of `path`, and renames it to `path` at the end.

    If the block raises, the temporary file is removed and `path` does not change. If `path` is a
    symbolic link, its target is replaced.

    Raises:
      OSError: the file cannot be written, or `path` exists and is not a regular file (a rename
        would replace a device or a pipe by a file).
    """
    path = pathlib.Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    temporary = path.with_name(path.name + UNFINISHED)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | pathlib.Path, text: str):
    """Writes a UTF-8 text file atomically."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | pathlib.Path, data: Any, indent: int = 1, sort_keys: bool = True):
    """Writes a JSON file atomically."""
    write_text(path, json.dumps(data, indent=indent, sort_keys=sort_keys) + "\n")


def sha256_of(path: str | pathlib.Path) -> str:
    """Returns the hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
