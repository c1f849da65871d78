"""Raw files -> documents, a stream: little of a file is in memory at a time, however large it is.

A record of JSON lines, CSV or Parquet is one document (records.py). A text file is one or several
(text_files.py).
"""

from collections.abc import Iterable, Iterator
import glob
import gzip
import pathlib
import zlib

from dlms_jax.data.corpora.document import Document, strip
from dlms_jax.data.corpora.options import DEFAULTS, OnInvalid, ReadOptions, ignore_invalid
from dlms_jax.data.corpora.records import read_csv, read_json_lines, read_parquet
from dlms_jax.data.corpora.text_files import read_text_file
from dlms_jax.errors import UserError

_READERS = {
    ".txt": read_text_file,
    ".md": read_text_file,
    ".rst": read_text_file,
    ".txt.gz": read_text_file,
    ".txt.zst": read_text_file,
    ".jsonl": read_json_lines,
    ".jsonl.gz": read_json_lines,
    ".jsonl.zst": read_json_lines,
    ".json.gz": read_json_lines,
    ".json.zst": read_json_lines,
    ".csv": read_csv,
    ".parquet": read_parquet,
}


def list_files(paths: str | pathlib.Path | Iterable[str | pathlib.Path]) -> list[pathlib.Path]:
    """Returns the files of a file, folder (searched deeply), glob, or a list of these, sorted.

    A folder counts its files of a known format, except those whose name begins with . or _ (such as
    reports beside the data). A file that is named itself must have a known format.

    Raises:
      UserError: a path is not there, or holds no file of a known format.
    """
    files: dict[pathlib.Path, pathlib.Path] = {}
    for path in [paths] if isinstance(paths, str | pathlib.Path) else list(paths):
        text, path = str(path), pathlib.Path(path)
        if not text:
            raise UserError("the name of a file or folder is empty")
        if path.is_dir():
            found = [
                f
                for f in path.rglob("[!._]*")
                if f.is_file()
                and _format(f)
                and not any(part.startswith(".") for part in f.relative_to(path).parts)
            ]
            if not found:
                raise UserError(f"the folder {text} has no file of {', '.join(_READERS)}")
        elif path.is_file():
            if not _format(path):
                raise UserError(f"{text}: unknown format; known are {', '.join(_READERS)}")
            found = [path]
        elif glob.has_magic(text):
            found = [f for f in map(pathlib.Path, glob.glob(text, recursive=True)) if f.is_file()]
            found = [f for f in found if _format(f)]
            if not found:
                raise UserError(f"no file of {', '.join(_READERS)} matches {text}")
        else:
            raise UserError(f"no file or folder is named {text!r}")
        files |= {file.resolve(): file for file in found}
    return sorted(files.values())


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
    ending = _format(path)
    assert ending is not None  # `list_files` gives no other files
    try:
        for number, text in _READERS[ending](path, options, on_invalid):
            if strip(text):
                yield Document(f"{path}#{number}", text)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is cut off or damaged: {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def _format(path: pathlib.Path) -> str | None:
    """Returns the ending of a file's name by which it is read; None if it is unknown."""
    return next((ending for ending in _READERS if path.name.endswith(ending)), None)
