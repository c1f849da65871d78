"""Raw files -> documents, a stream: however large a file, little of it is in memory at a time.

A record of JSON lines, CSV or Parquet is a document. A text file is one too, or several: it is cut
at line ends into pieces, so that one large file still splits into training and held-out.
"""

import codecs
from collections.abc import Callable, Iterable, Iterator
import csv
import dataclasses
import glob
import gzip
import io
import json
import pathlib
import re
import sys
from typing import Any, Literal
import zlib

from dlms_jax.data.corpora.document import Document
from dlms_jax.errors import UserError, optional_import

Invalid = Literal["strict", "replace", "skip", "keep"]


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How files are read.

    field: of a JSON, CSV or Parquet record, what holds the text.
    invalid: of bytes that are no UTF-8: "strict" ends with an error, "replace" puts U+FFFD, "skip"
        leaves the text (the record, or the whole text file) out, "keep" keeps them as they are, as
        every tokenizer here can. Files with such bytes are counted under "replace" and "skip".
    piece_bytes: text files are cut into documents of about this size; 0: never.
    """

    field: str = "text"
    invalid: Invalid = "strict"
    piece_bytes: int = 16 * 1024


Count = Callable[[str], Any]  # told what was "replaced" or "skipped", once for each


def list_files(paths: str | pathlib.Path | Iterable[str | pathlib.Path]) -> list[pathlib.Path]:
    """Returns the files of a file, folder (searched deeply), glob, or a list of these, sorted.

    In a folder only the files of a known format count, and none that begins with . or _ (reports
    and the like stand beside data); a file that is named must have a known format.
    Raises UserError for what holds none.
    """
    files = {}
    for path in [paths] if isinstance(paths, str | pathlib.Path) else list(paths):
        text, path = str(path), pathlib.Path(path)
        if not text:
            raise UserError("the name of a file or folder is empty")
        if path.is_dir():
            found = [
                f for f in path.rglob("[!._]*") if f.is_file() and _format(f)
                and not any(part.startswith(".") for part in f.relative_to(path).parts)
            ]  # fmt: skip
            if not found:
                raise UserError(f"the folder {text} has no file of {', '.join(_READERS)}")
        elif path.is_file():
            if not _format(path):
                raise UserError(f"{text}: not a format that is read ({', '.join(_READERS)})")
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


def read_files(
    files: Iterable[pathlib.Path], options: ReadOptions = ReadOptions(), count: Count = id
) -> Iterator[Document]:
    """Yields the documents of files, one file after the other; empty ones are left out."""
    for file in files:
        yield from read_file(file, options, count)


def read_file(
    path: pathlib.Path, options: ReadOptions = ReadOptions(), count: Count = id
) -> Iterator[Document]:
    """Yields a file's documents that hold text, named FILE#NUMBER.

    Raises UserError, with the file and line, for what cannot be read.
    """
    try:
        for number, text in _READERS[_format(path)](path, options, count):
            if text.strip():
                yield Document(f"{path}#{number}", text)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is cut off or damaged: {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def cut(text: str, size: int) -> Iterator[str]:
    """Yields a text in pieces of at most about `size` characters that end at a line's end."""
    return _cut(iter([text]), size)


def open_text(path: pathlib.Path) -> io.BufferedIOBase:
    """Returns a binary stream of a file, decompressed where it ends in .gz or .zst."""
    if path.suffix == ".gz":
        return gzip.open(path)
    if path.suffix == ".zst":
        return io.BufferedReader(_Zstandard(path))
    return open(path, "rb")


class _Zstandard(io.RawIOBase):
    """A decompressed stream that ends with an error, not silently, where the file is cut off."""

    def __init__(self, path):
        zstandard = optional_import("zstandard", "data")
        self._path, self._damage = path, zstandard.ZstdError
        self._file = open(path, "rb")  # noqa: SIM115 (close() does)
        self._start_frame = zstandard.ZstdDecompressor().decompressobj
        self._frame, self._waiting = None, b""

    def readable(self):
        return True

    def readinto(self, buffer):
        block = b""
        while not self._waiting:
            block = block or self._file.read(1 << 17)
            if not block:
                if self._frame:
                    raise UserError(f"{self._path} is cut off: its last frame does not end")
                return 0
            self._frame = self._frame or self._start_frame()
            try:
                self._waiting = self._frame.decompress(block)
            except self._damage as error:
                raise UserError(f"{self._path} is damaged: {error}") from None
            # A file that was appended to has several frames.
            block = self._frame.unused_data
            self._frame = None if self._frame.eof else self._frame
        self._file.seek(-len(block), 1)
        number = min(len(buffer), len(self._waiting))
        buffer[:number], self._waiting = self._waiting[:number], self._waiting[number:]
        return number

    def close(self):
        self._file.close()
        super().close()


def _format(path: pathlib.Path) -> str | None:
    """Returns the ending of a file's name by which it is read; None where none is known."""
    return next((ending for ending in _READERS if path.name.endswith(ending)), None)


def _text(path, options, count):
    """Yields (number, piece) of a text file."""
    errors = {"strict": "strict", "skip": "strict", "replace": "replace", "keep": "surrogateescape"}
    if options.invalid in ("skip", "replace"):
        # Known before the first piece is given out, so that none is of a file that is skipped.
        damaged = _first_invalid(path)
        if damaged is not None:
            count("skipped" if options.invalid == "skip" else "replaced")
            if options.invalid == "skip":
                return
    decoder = codecs.getincrementaldecoder("utf-8")(errors[options.invalid])
    with open_text(path) as stream:

        def blocks():
            offset = 0
            while block := stream.read(1 << 20):
                offset += len(block)
                yield _decode(decoder, block, path, offset)
            yield _decode(decoder, b"", path, offset, final=True)

        yield from enumerate(_cut(blocks(), options.piece_bytes or sys.maxsize))


def _decode(decoder, block, path, offset, final=False):
    waiting = len(decoder.getstate()[0])
    try:
        return decoder.decode(block, final)
    except UnicodeDecodeError as error:
        where = offset - len(block) - waiting + error.start
        raise UserError(f"{path}: byte {where} is no UTF-8 ({_POLICIES})") from None


def _first_invalid(path) -> int | None:
    """Returns about where a file is no UTF-8; None where it is."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_text(path) as stream:
        offset = 0
        try:
            while block := stream.read(1 << 20):
                decoder.decode(block)
                offset += len(block)
            decoder.decode(b"", True)
        except UnicodeDecodeError:
            return offset
    return None


def _cut(blocks: Iterator[str], size: int) -> Iterator[str]:
    """Yields pieces of at most `size` characters, ended at a line's end where one is."""
    waiting = ""
    for block in blocks:
        waiting += block
        start = 0
        while len(waiting) - start > size:
            end = waiting.rfind("\n", start, start + size) + 1
            end = end if end > start else start + size
            yield waiting[start:end]
            start = end
        waiting = waiting[start:]
    if waiting:
        yield waiting


def _json_lines(path, options, count):
    with open_text(path) as stream:
        for number, line in enumerate(stream, 1):
            text = _decoded(line, f"{path}:{number}", options)
            if not text.strip():
                continue
            try:
                record = json.loads(text)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{path}:{number} is no JSON ({error.msg} at column {error.colno})"
                ) from None
            except (ValueError, RecursionError) as error:  # 5000 digits; 100 000 brackets
                raise UserError(f"{path}:{number} is JSON that cannot be read ({error})") from None
            yield number, _field(record, f"{path}:{number}", options, count)


def _csv(path, options, count):
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with open_text(path) as stream:
        lines = (
            # Excel puts a byte order mark before the first name.
            _decoded(line, f"{path}:{number}", options).removeprefix(
                "\ufeff" if number == 1 else ""
            )
            for number, line in enumerate(stream, 1)
        )
        reader = csv.DictReader(lines, strict=True)
        try:
            for record in reader:
                line = reader.line_num
                yield line, _field(record, f"{path}:{line}", options, count)
        except csv.Error as error:
            raise UserError(f"{path}:{reader.reader.line_num} is no CSV ({error})") from None


def _parquet(path, options, count):
    pyarrow = optional_import("pyarrow", "data")
    parquet = optional_import("pyarrow.parquet", "data")
    try:
        with parquet.ParquetFile(path) as file:
            if options.field not in file.schema_arrow.names:
                raise UserError(
                    f"{path} has no column {options.field!r}; it has "
                    f"{', '.join(file.schema_arrow.names)} (say which with --text-field)"
                )
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=[options.field]):
                column = batch.column(0)
                is_text = str(column.type) in ("string", "large_string")
                # Nobody checks that Parquet's strings are UTF-8: read them as bytes.
                values = column.cast(pyarrow.large_binary()) if is_text else column
                for value in values.to_pylist():
                    where = f"{path}#{number}"
                    if is_text and value is not None:
                        value = _decoded(value, where, options)
                    yield number, _field({options.field: value}, where, options, count)
                    number += 1
    except pyarrow.ArrowException as error:
        raise UserError(f"{path} is no Parquet file, or damaged: {_first_line(error)}") from None


def _first_line(error) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _decoded(line: bytes, where: str, options: ReadOptions) -> str:
    """Returns bytes as text; those that are no UTF-8 as lone surrogates, left to `_field`."""
    try:
        return line.decode("utf-8", "strict" if options.invalid == "strict" else "surrogateescape")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is no UTF-8 at byte {error.start} ({_POLICIES})") from None


def _field(record, where: str, options: ReadOptions, count: Count) -> str:
    """Returns the text of a record; "" where the policy leaves it out."""
    field = options.field
    if not isinstance(record, dict):
        raise UserError(f"{where} is no object with fields, but {type(record).__name__}")
    if field not in record:
        raise UserError(
            f"{where} has no field {field!r}; it has {', '.join(map(str, record))} "
            "(say which with --text-field)"
        )
    text = record[field]
    if not isinstance(text, str):
        raise UserError(f"{where}: field {field!r} is no text but {type(text).__name__}")
    surrogates = _NO_BYTE if options.invalid == "keep" else _SURROGATE
    wrong = None if text.isascii() else surrogates.search(text)
    if not wrong:
        return text
    if options.invalid == "strict":
        at = wrong.start()
        raise UserError(f"{where} has half a surrogate pair at {at} ({_POLICIES})")
    count("skipped" if options.invalid == "skip" else "replaced")
    if options.invalid == "skip":
        return ""
    text = _NO_BYTE.sub("\N{REPLACEMENT CHARACTER}", text)
    if options.invalid == "keep":
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # JSON may spell half of a pair
_POLICIES = "--invalid-utf8=replace, skip or keep goes on"
_READERS = {
    ".txt": _text,
    ".md": _text,
    ".rst": _text,
    ".txt.gz": _text,
    ".txt.zst": _text,
    ".jsonl": _json_lines,
    ".jsonl.gz": _json_lines,
    ".jsonl.zst": _json_lines,
    ".json.gz": _json_lines,
    ".json.zst": _json_lines,
    ".csv": _csv,
    ".parquet": _parquet,
}
