"""What cleaning writes: sorted documents in shards, and the report; the same on any machine.

A shard is JSON lines, {"text": ..., "name": ...}, compressed with zstandard. Documents are in the
order of order_key at seed 0, over all shards: a shuffle that depends only on the texts.
"""

from collections.abc import Iterable
import json

from dlms_jax.data.cleaning.record import Record
from dlms_jax.data.cleaning.report import WRITTEN, Count, Report
from dlms_jax.errors import optional_import

REPORT = "_report.csv"  # readers of a folder ignore names with _
SHARD_BYTES = 128 * 2**20  # of text; a Beam worker holds a shard in memory


def shard_count(report: Report, shard_bytes: int) -> int:
    """Returns the number of shards of the kept documents: at least one."""
    return max(1, -(-report.get(WRITTEN, Count()).bytes // shard_bytes))


def shard_of(record: Record, shards: int) -> int:
    """Returns the shard of a record. Shards are equal parts of the range of identities."""
    return int.from_bytes(record.identity[:8], "big") * shards >> 64


def shard_name(number: int, shards: int) -> str:
    """Returns the file name of a shard."""
    return f"documents-{number:05d}-of-{shards:05d}.jsonl.zst"


def write_shard(stream, records: Iterable[Record]) -> None:
    """Writes records to a binary stream, which stays open."""
    zstandard = optional_import("zstandard", "data")
    with zstandard.ZstdCompressor().stream_writer(stream, closefd=False) as compressed:
        for record in records:
            compressed.write(to_line(record))


def to_line(record: Record) -> bytes:
    """Returns a record as a line of JSON; a byte that is not UTF-8 is written as \\udcXX."""
    fields = {"text": record.characters, "name": record.name}
    # backslashreplace writes lone surrogates as JSON's own escapes.
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
