"""Files of records (JSON lines, CSV, Parquet) -> the text of each record."""

from collections.abc import Iterator
import csv
import io
import json
import os
import pathlib
import re
import sys
from typing import Any

from dlms_jax.data.corpora.document import replace_stray_surrogates, to_bytes
from dlms_jax.data.corpora.options import POLICIES, OnInvalid, ReadOptions
from dlms_jax.data.corpora.streams import BOM, open_stream
from dlms_jax.errors import UserError, optional_import

_ARROWS, _NOT_ARROWS = b"ARROW:schema", b"arrow:schema"  # a key in the metadata of Parquet files
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_json_lines(
    path: pathlib.Path, options: ReadOptions, on_invalid: OnInvalid
) -> Iterator[tuple[int, bytes]]:
    """Yields (line, text) of a file of JSON lines."""
    with open_stream(path) as stream:
        for number, text in _lines(stream, path, options):
            where = f"{path}:{number}"
            if not text.strip():
                continue
            try:
                record = json.loads(text)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{where} is not JSON ({error.msg} at column {error.colno})"
                ) from None
            except (ValueError, RecursionError) as error:  # 5000 digits; 100 000 brackets
                raise UserError(f"{where} is JSON that cannot be read ({error})") from None
            yield number, _text_of(record, where, options, on_invalid)


def read_csv(
    path: pathlib.Path, options: ReadOptions, on_invalid: OnInvalid
) -> Iterator[tuple[int, bytes]]:
    """Yields (last line of the record, text) of a CSV file, whose first line names the fields.

    A file whose name says .tsv has tabs between the fields.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with open_stream(path) as stream:
        lines = (text for _, text in _lines(stream, path, options))
        tabs = ".tsv" in (suffix.lower() for suffix in path.suffixes[-2:])
        reader = csv.DictReader(lines, delimiter="\t" if tabs else ",", strict=True)
        try:
            for record in reader:
                line = reader.line_num
                yield line, _text_of(record, f"{path}:{line}", options, on_invalid)
        except csv.Error as error:
            raise UserError(f"{path}:{reader.reader.line_num} is not CSV ({error})") from None


def read_parquet(
    path: pathlib.Path, options: ReadOptions, on_invalid: OnInvalid
) -> Iterator[tuple[int, bytes]]:
    """Yields (row, text) of a Parquet file."""
    pyarrow = optional_import("pyarrow", "data")
    parquet = optional_import("pyarrow.parquet", "data")
    try:
        with parquet.ParquetFile(path, metadata=_plain_metadata(path, parquet)) as file:
            if options.field not in file.schema_arrow.names:
                raise UserError(
                    f"{path} has no column {options.field!r}; it has "
                    f"{', '.join(file.schema_arrow.names)} (choose one with --text-field)"
                )
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=[options.field]):
                column = batch.column(0)
                is_text = str(column.type) == "string"
                # Parquet does not check that its strings are UTF-8: read them as bytes.
                values = column.cast(pyarrow.large_binary()) if is_text else column
                for value in values.to_pylist():
                    where = f"{path}#{number}"
                    if is_text and value is not None:
                        yield number, _checked(value, where, options, on_invalid)
                    else:
                        record = {options.field: value}
                        yield number, _text_of(record, where, options, on_invalid)
                    number += 1
    except pyarrow.ArrowException as error:
        raise UserError(f"{path} is damaged, or not a Parquet file: {_first_line(error)}") from None


def _plain_metadata(path: pathlib.Path, parquet):
    """Returns the metadata of a Parquet file without the types of the program that wrote it.

    So a text is read as a string, where Arrow would make a category, a view or a large string of it
    again. For some categories, it refuses bytes that are not UTF-8.
    """
    parquet.read_metadata(path)  # raises if it is damaged
    with open(path, "rb") as file:
        file.seek(-8, os.SEEK_END)
        tail = file.read()
        file.seek(-8 - int.from_bytes(tail[:4], "little"), os.SEEK_END)
        footer = file.read()
    return parquet.read_metadata(io.BytesIO(b"PAR1" + footer.replace(_ARROWS, _NOT_ARROWS)))


def _first_line(error) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _text_of(record: Any, where: str, options: ReadOptions, on_invalid: OnInvalid) -> bytes:
    """Returns the text of a record whose strings `_decoded` gave; b"" if it is skipped."""
    field = options.field
    if not isinstance(record, dict):
        raise UserError(f"{where} is not an object with fields but {type(record).__name__}")
    if field not in record:
        raise UserError(
            f"{where} has no field {field!r}; it has {', '.join(map(str, record))} "
            "(choose one with --text-field)"
        )
    text = record[field]
    if text is None and options.invalid == "skip":
        on_invalid("skipped")
        return b""
    if text is None:
        raise UserError(f"{where}: field {field!r} is null (--invalid-utf8=skip leaves it out)")
    if not isinstance(text, str):
        raise UserError(f"{where}: field {field!r} is not text but {type(text).__name__}")
    if text.isascii() or not (surrogate := _SURROGATE.search(text)):
        return text.encode()
    if options.invalid == "strict":  # `_decoded` refused invalid bytes, so JSON spelled this
        raise UserError(f"{where} has half a surrogate pair at {surrogate.start()} ({POLICIES})")
    repaired = replace_stray_surrogates(text)
    if options.invalid == "keep":
        if repaired != text:
            on_invalid("replaced")
        return to_bytes(repaired)
    return _repaired(to_bytes(repaired), options, on_invalid)


def _checked(text: bytes, where: str, options: ReadOptions, on_invalid: OnInvalid) -> bytes:
    """Returns a text that may not be UTF-8, by the policy; b"" if it is skipped."""
    if options.invalid == "keep":
        return text
    try:
        text.decode()
        return text
    except UnicodeDecodeError as error:
        if options.invalid == "strict":
            raise _not_utf8(where, error) from None
    return _repaired(text, options, on_invalid)


def _repaired(text: bytes, options: ReadOptions, on_invalid: OnInvalid) -> bytes:
    """Returns an invalid text with U+FFFD for what is not UTF-8; b"" if it is skipped."""
    if options.invalid == "skip":
        on_invalid("skipped")
        return b""
    on_invalid("replaced")
    return text.decode("utf-8", "replace").encode()


def _lines(stream, path: pathlib.Path, options: ReadOptions) -> Iterator[tuple[int, str]]:
    """Yields (number, line) of a file, without the byte order mark that may open it."""
    for number, line in enumerate(stream, 1):
        text = _decoded(line, f"{path}:{number}", options)
        yield number, text.removeprefix(BOM) if number == 1 else text


def _decoded(line: bytes, where: str, options: ReadOptions) -> str:
    """Returns a line as a str, with lone surrogates for the bytes that are not UTF-8."""
    try:
        return line.decode("utf-8", "strict" if options.invalid == "strict" else "surrogateescape")
    except UnicodeDecodeError as error:
        raise _not_utf8(where, error) from None


def _not_utf8(where: str, error: UnicodeDecodeError) -> UserError:
    return UserError(f"{where} is not UTF-8 at byte {error.start} ({POLICIES})")
