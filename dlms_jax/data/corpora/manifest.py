"""A manifest: JSON lines that name the files of a corpus, with weights, licences and checksums.

    {"path": "wiki.jsonl.zst", "weight": 2, "licence": "CC BY-SA 4.0", "sha256": "9f86d0..."}

Only "path" is required. It counts from the folder of the manifest. A manifest is known by its first
record, which has a path and no keys but these. It can be given wherever a corpus can.
"""

from collections import Counter
from collections.abc import Iterable
import json
import numbers
import pathlib
import re
from typing import Any, NamedTuple

from dlms_jax.errors import UserError
from dlms_jax.files import sha256_of

_KEYS = {"path", "weight", "licence", "license", "sha256"}
_LONGEST_RECORD = 1 << 16  # bytes of the first record


class Entry(NamedTuple):
    """A file of a manifest.

    Attributes:
      file: its path.
      weight: how often its text is seen in training, compared with that of other files.
      licence: its licence; "": not stated.
      sha256: its checksum; "": not stated.
      where: MANIFEST:LINE, for messages.
    """

    file: pathlib.Path
    weight: float
    licence: str
    sha256: str
    where: str


def is_manifest(path: str | pathlib.Path) -> bool:
    """Returns whether a path is that of a manifest."""
    path = pathlib.Path(path)
    if path.suffix.lower() != ".jsonl" or not path.is_file():
        return False
    try:
        with open(path, "rb") as stream:
            line = b""
            while not line.strip() and (line := stream.readline(_LONGEST_RECORD)):
                pass
        record = json.loads(line.decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and "path" in record and set(record) <= _KEYS


def read_manifest(path: str | pathlib.Path) -> list[Entry]:
    """Returns the files of a manifest, unchecked.

    Raises:
      UserError: a record is not one of a manifest, or names a file again; the message names the
        line.
    """
    path = pathlib.Path(path)
    entries: dict[pathlib.Path, Entry] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if line.strip():
            entry = _entry(line, path.parent, f"{path}:{number}")
            if before := entries.get(resolved := entry.file.resolve()):
                raise UserError(f"{entry.where} names {entry.file} again, after {before.where}")
            entries[resolved] = entry
    return list(entries.values())


def check_files(entries: Iterable[Entry]) -> None:
    """Raises UserError for the first file that is missing, or has another checksum."""
    for entry in entries:
        if not entry.file.is_file():
            what = "is not a file" if entry.file.exists() else "is missing"
            raise UserError(f"{entry.file} {what}; {entry.where} names it")
        if entry.sha256 and (found := sha256_of(entry.file)) != entry.sha256:
            raise UserError(
                f"{entry.file} has changed: its sha256 is {found[:16]}..., and {entry.where} has "
                f"{entry.sha256[:16]}..."
            )


def weights_of(corpus: str | pathlib.Path) -> dict[str, float]:
    """Returns the weight of each file of a corpus; {} unless it is a manifest with several."""
    if not is_manifest(corpus):
        return {}
    weights = {str(entry.file): entry.weight for entry in read_manifest(corpus)}
    return weights if len(set(weights.values())) > 1 else {}


def licences_of(paths: Iterable[str | pathlib.Path]) -> dict[str, int]:
    """Returns the licences that the manifests among some paths state, and the number of files."""
    entries = (entry for path in paths if is_manifest(path) for entry in read_manifest(path))
    return dict(Counter(entry.licence for entry in entries if entry.licence))


def _entry(line: bytes, folder: pathlib.Path, where: str) -> Entry:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error})") from None
    if not isinstance(record, dict) or set(record) - _KEYS:
        keys = ", ".join(sorted(_KEYS))
        raise UserError(f"{where} is not a record of a manifest, whose keys are {keys}")
    path, weight = record.get("path"), record.get("weight", 1)
    licence = record.get("licence", record.get("license", ""))
    sha256 = record.get("sha256", "")
    if not isinstance(path, str) or not path:
        raise UserError(f"{where} has no path of a file")
    if not _is_weight(weight):
        raise UserError(f"{where}: the weight {weight!r} should be a number from 1e-6 to 1e6")
    if not isinstance(licence, str):
        raise UserError(f"{where}: the licence should be text")
    if not isinstance(sha256, str) or not re.fullmatch("([0-9a-fA-F]{64})?", sha256):
        raise UserError(f"{where}: the sha256 should have 64 hexadecimal digits")
    return Entry(folder / path, float(weight), licence, sha256.lower(), where)


def _is_weight(weight: Any) -> bool:
    is_number = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
    return is_number and 1e-6 <= weight <= 1e6
