"""What cleaning dropped and why: counts that any number of workers add up in any order."""

from collections.abc import Iterable
import csv
import io
from typing import NamedTuple


class Count(NamedTuple):
    """A number of documents, their bytes of UTF-8, and the smallest of their names."""

    documents: int = 0
    bytes: int = 0
    example: str = ""


Key = tuple[str, str]  # stage, reason
Report = dict[Key, Count]

# Bytes are those of the original text, except for WRITTEN, since some stages change a text. So what
# was read is the sum of what was kept and what was dropped, in documents and in bytes.
READ = ("input", "read")
KEPT = ("kept", "read")
WRITTEN = ("kept", "written")
_NO_STAGE = (READ, KEPT, WRITTEN)


def merge_counts(counts: Iterable[Count]) -> Count:
    """Returns the sum of counts, which is associative and commutative; Count() is its zero."""
    counts = [count for count in counts if count.documents]
    if not counts:
        return Count()
    documents, sizes, examples = zip(*counts, strict=True)
    return Count(sum(documents), sum(sizes), min(examples))


def add(report: Report, key: Key, count: Count) -> None:
    """Adds a count to a report, in place; an empty count adds no row."""
    if count.documents:
        report[key] = merge_counts([report.get(key, Count()), count])


def dropped(report: Report) -> Report:
    """Returns the rows of dropped documents."""
    return {key: count for key, count in report.items() if key not in _NO_STAGE}


def to_csv(report: Report) -> str:
    """Returns the report as CSV: what was read, what each stage dropped, what was kept."""
    place = {READ: 0, KEPT: 2, WRITTEN: 3}
    text = io.StringIO(newline="")
    writer = csv.writer(text)  # with its own line end, \r\n, it quotes a \r
    writer.writerow(("stage", "reason", *Count._fields))
    for key in sorted(report, key=lambda key: (place.get(key, 1), key)):
        writer.writerow((*key, *report[key]))
    return text.getvalue()
