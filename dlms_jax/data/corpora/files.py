"""Raw files -> documents, a stream: little of a file is in memory at a time, however large it is.

A record of JSON lines, CSV or Parquet is one document (records.py). A text file is one or several
(text_files.py).
"""

import collections
from collections.abc import Callable, Iterable, Iterator
import glob
import gzip
import os
import pathlib
import zlib

from dlms_jax.data.corpora.document import Document, strip
from dlms_jax.data.corpora.manifest import (
    check_files,
    is_manifest,
    read_manifest,
    weights_of,
)
from dlms_jax.data.corpora.options import DEFAULTS, OnInvalid, ReadOptions, ignore_invalid
from dlms_jax.data.corpora.records import read_csv, read_json_lines, read_parquet
from dlms_jax.data.corpora.streams import COMPRESSED
from dlms_jax.data.corpora.text_files import read_text_file
from dlms_jax.errors import UserError
from dlms_jax.terminal import note

FORMATS = (
    ".txt, .md, .rst, .jsonl, .csv and .tsv, also compressed (.jsonl.gz, .jsonl.zst, .jsonl.bz2), "
    "and .parquet"
)
_READERS = {
    ".txt": read_text_file,
    ".md": read_text_file,
    ".rst": read_text_file,
    ".jsonl": read_json_lines,
    ".csv": read_csv,
    ".tsv": read_csv,
}
_NAMED = 5  # files that are left out and named; of more, the number of each ending is given


def list_files(paths: str | pathlib.Path | Iterable[str | pathlib.Path]) -> list[pathlib.Path]:
    """Returns the files of a file, folder (searched deeply), glob, or a list of these, sorted.

    A manifest that is named itself stands for its files, which are checked.

    A folder counts its files of a known format, except those whose name begins with . or _ (such as
    reports beside the data). A note names its files of other formats. A file that is named itself
    must have a known format.

    Raises:
      UserError: a path is not there, or holds no file of a known format; a file of a manifest is
        missing or has changed.
    """
    files: dict[pathlib.Path, pathlib.Path] = {}
    for path in [paths] if isinstance(paths, str | pathlib.Path) else list(paths):
        text, path = str(path), pathlib.Path(path)
        if not text:
            raise UserError("the name of a file or folder is empty")
        if path.is_dir():
            inside = [
                f
                for f in path.rglob("[!._]*")
                if f.is_file()
                and not any(part.startswith(".") for part in f.relative_to(path).parts)
            ]
            found = _readable(inside, text)
            if not found:
                raise UserError(f"the folder {text} has no file of {FORMATS}")
        elif is_manifest(path):
            found = _listed(path)
        elif path.is_file():
            if not _reader(path):
                raise UserError(f"{text}: unknown format; known are {FORMATS}{_advice([path])}")
            found = [path]
        elif glob.has_magic(text):
            found = [f for f in map(pathlib.Path, glob.glob(text, recursive=True)) if f.is_file()]
            found = _readable(found, text)
            if not found:
                raise UserError(f"no file of {FORMATS} matches {text}")
        else:
            here = "" if path.is_absolute() else f" in {os.path.abspath('.')}"
            raise UserError(f"no file or folder is named {text!r}{here}")
        files |= {file.resolve(): file for file in found}
    return sorted(files.values())


def is_text_file(path: pathlib.Path) -> bool:
    """Returns whether a file is of a format that is cut into pieces."""
    return _reader(path) is read_text_file


def read_file(
    path: pathlib.Path, options: ReadOptions = DEFAULTS, on_invalid: OnInvalid = ignore_invalid
) -> Iterator[Document]:
    """Yields a file's documents that hold text, named FILE#NUMBER.

    Args:
      path: a file of a known format (list_files).
      options: how it is read.
      on_invalid: is called with "replaced" or "skipped" for each text that is not UTF-8 and is
        treated so.

    Raises:
      UserError: the file cannot be read; the message names the file and the line.
    """
    reader = _reader(path)
    assert reader is not None  # `list_files` gives no other files
    try:
        for number, text in reader(path, options, on_invalid):
            if strip(text):
                yield Document(f"{path}#{number}", text)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is cut off or damaged: {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def _listed(manifest: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files of a manifest."""
    entries = read_manifest(manifest)
    check_files(entries)
    for entry in entries:
        if is_manifest(entry.file):
            raise UserError(f"{entry.where}: {entry.file} is a manifest itself; list its files")
        if not _reader(entry.file):
            raise UserError(
                f"{entry.where}: {entry.file} has an unknown format; known are {FORMATS}"
            )
    if weights_of(manifest):
        note(
            f"the weights of {manifest} count where it is config.data.corpus or in "
            "config.data.mixture; everywhere else, each of its texts is read once"
        )
    return [entry.file for entry in entries]


def _readable(files: list[pathlib.Path], where: str) -> list[pathlib.Path]:
    """Returns the files of a known format; a note lists the others, which `where` holds too."""
    found = [file for file in files if _reader(file) and not is_manifest(file)]
    for file in filter(is_manifest, files):
        note(f"{file} is a manifest, and is left out of {where}; name it itself to read its files")
    others = sorted(file for file in files if not _reader(file))
    if found and others:
        listed = ", ".join(file.name for file in others)
        if len(others) > _NAMED:
            endings = collections.Counter(file.suffix or "without ending" for file in others)
            listed = ", ".join(f"{number} {ending}" for ending, number in endings.most_common())
        number = "1 file is" if len(others) == 1 else f"{len(others)} files are"
        note(
            f"{where}: {number} left out, of an unknown format: {listed} (known are {FORMATS})"
            f"{_advice(others)}"
        )
    return found


def _advice(files: list[pathlib.Path]) -> str:
    """Returns what to do about .json files, which may hold records or one value; "" without any."""
    is_json = any(file.suffix.lower() == ".json" for file in files)
    return "; a .json file with a record on each line should be named .jsonl" if is_json else ""


def _reader(path: pathlib.Path) -> Callable | None:
    """Returns the reader of a file's format, by the ending of its name; None if it is unknown."""
    name = path.name.lower()
    if name.endswith(".parquet"):
        return read_parquet
    plain = name
    for ending in COMPRESSED:
        plain = plain.removesuffix(ending)
    if plain != name and plain.endswith(".json"):  # as C4's are named
        return read_json_lines
    return _READERS.get(pathlib.PurePath(plain).suffix)
