"""What cleaning dropped and why: counts that any number of workers can add up in any order."""

from collections.abc import Iterable
import csv
import io
from typing import NamedTuple


class Count(NamedTuple):
    """bytes: of UTF-8. example: the smallest name among the documents."""

    documents: int = 0
    bytes: int = 0
    example: str = ""


Key = tuple[str, str]  # stage, reason
Report = dict[Key, Count]

# Bytes are those that a document came with, but for WRITTEN: some stages change a text. So what
# was read is what was kept and all that was dropped, in documents and in bytes.
READ = ("input", "read")
KEPT = ("kept", "read")
WRITTEN = ("kept", "written")
_NO_STAGE = (READ, KEPT, WRITTEN)


def merge_counts(counts: Iterable[Count]) -> Count:
    """Returns the sum; associative, commutative, and Count() changes nothing."""
    counts = [count for count in counts if count.documents]
    if not counts:
        return Count()
    documents, sizes, examples = zip(*counts, strict=True)
    return Count(sum(documents), sum(sizes), min(examples))


def add(report: Report, key: Key, count: Count) -> None:
    """Adds a count to a report, in place; a count of nothing leaves no row."""
    if count.documents:
        report[key] = merge_counts([report.get(key, Count()), count])


def dropped(report: Report) -> Report:
    """Returns the rows of documents that were dropped."""
    return {key: count for key, count in report.items() if key not in _NO_STAGE}


def to_csv(report: Report) -> str:
    """Returns the report as CSV: what was read, what each stage dropped, what was kept."""
    place = {READ: 0, KEPT: 2, WRITTEN: 3}
    text = io.StringIO(newline="")
    writer = csv.writer(text)  # its line ends are \r\n: with others it leaves a \r unquoted
    writer.writerow(("stage", "reason", *Count._fields))
    for key in sorted(report, key=lambda key: (place.get(key, 1), key)):
        writer.writerow((*key, *report[key]))
    return text.getvalue()
