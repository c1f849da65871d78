"""What cleaning writes: sorted documents in shards, and the report; the same on any machine.

A shard is JSON lines under zstandard: {"text": ..., "name": ...}. Documents are in the order of
order_key at seed 0, over all shards: a shuffle that depends on the texts alone.
"""

from collections.abc import Iterable
import json

from dlms_jax.data.cleaning.duplicates import identity
from dlms_jax.data.cleaning.filters import Record
from dlms_jax.data.cleaning.report import WRITTEN, Count, Report
from dlms_jax.errors import optional_import

REPORT = "_report.csv"  # with a _, which readers of a folder pass over
SHARD_BYTES = 128 * 2**20  # of text; a Beam worker holds a shard in memory


def shard_count(report: Report, shard_bytes: int) -> int:
    """Returns how many shards hold what is kept: at least one."""
    return max(1, -(-report.get(WRITTEN, Count()).bytes // shard_bytes))


def shard_of(record: Record, shards: int) -> int:
    """Returns which shard a record is in: equal parts of the range of identities, in order."""
    return int.from_bytes(identity(record.text)[:8], "big") * shards >> 64


def shard_name(number: int, shards: int) -> str:
    return f"documents-{number:05d}-of-{shards:05d}.jsonl.zst"


def write_shard(stream, records: Iterable[Record]) -> None:
    """Writes records, which are in order, to a binary stream, and leaves that open."""
    zstandard = optional_import("zstandard", "data")
    with zstandard.ZstdCompressor().stream_writer(stream, closefd=False) as compressed:
        for record in records:
            compressed.write(to_line(record))


def to_line(record: Record) -> bytes:
    """Returns a record as a line of JSON; a byte that was no UTF-8 is written as \\udcXX."""
    fields = {"text": record.characters, "name": record.name}
    # What UTF-8 cannot hold, backslashreplace writes as JSON itself would.
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
