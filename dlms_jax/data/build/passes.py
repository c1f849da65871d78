"""The two passes of a build: files -> buckets of documents, bucket -> shards.

Each unit of files and each bucket is kept on disk when it is finished, so that a build that was
interrupted continues with the others.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
import hashlib
import json
import os
import pathlib
import shutil
from typing import Any, NamedTuple

from dlms_jax.data.build.bucket import unique_in_order, write_bucket
from dlms_jax.data.corpora.document import is_heldout, order_key
from dlms_jax.data.corpora.options import ReadOptions
from dlms_jax.data.corpora.source import Source
from dlms_jax.data.frames import FrameWriter, read_frames
from dlms_jax.data.store.card import SPLITS, Part, ShardPlan
from dlms_jax.data.store.shards import check_shard
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.data.worker_pool import advance
from dlms_jax.errors import UserError
from dlms_jax.files import UNFINISHED, write_json

_BUFFERED = 32 << 20  # bytes of text held before they are written to their buckets
_UNIT = 32 << 20  # the fewest bytes of text in a unit; there are at most 256 units
# Earlier versions scattered into unit-*, as pickles. These are not read: they could run any code.
_SCATTERED = "scattered-"


class Job(NamedTuple):
    """A build, as its worker processes see it.

    Attributes:
      folder: where the dataset is written.
      building: the folder of intermediate files.
      plan: how the corpus is divided.
      read: how its files are read.
      units: groups of sources, each of which is scattered in one call.
    """

    folder: pathlib.Path
    building: pathlib.Path
    plan: ShardPlan
    read: ReadOptions
    units: list[list[Source]]


def units_of(sources: list[Source]) -> list[list[Source]]:
    """Returns the sources in groups; it avoids small groups and limits their number."""
    units: list[list[Source]] = [[]]
    size = 0
    enough = max(_UNIT, sum(source.size for source in sources) // 256)
    for source in sources:
        if size >= enough:
            units.append([])
            size = 0
        units[-1].append(source)
        size += source.size
    return units


def scatter_unit(job: Job, unit: int) -> dict[str, int]:
    """Writes a unit's documents into buckets, unless that was done before; returns the counts.

    The folder of a unit appears when it is complete.
    """
    complete = _unit_folder(job, unit)
    counts_file = complete / "counts.json"
    if counts_file.is_file():
        return json.loads(counts_file.read_text())
    unfinished = complete.with_name(complete.name + UNFINISHED)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    counts: Counter[str] = Counter()
    buffer, buffered = defaultdict(list), 0
    for source in job.units[unit]:
        left = source.size
        for _, text in source.read(job.read, lambda what: counts.update([what])):
            key = order_key(text, job.plan.seed)
            buffer[job.plan.bucket_of(key)].append((key, text))
            counts.update(documents=1, bytes=len(text))
            seen = min(len(text), left) if source.size else len(text)
            left -= seen
            advance(seen)
            buffered += len(text)
            if buffered >= _BUFFERED:
                _spill(unfinished, buffer)
                buffer, buffered = defaultdict(list), 0
        advance(max(left, 0))  # the size of a source is only an estimate
    _spill(unfinished, buffer)
    for file in unfinished.iterdir():
        with open(file, "ab") as stream:
            FrameWriter(stream, 2).end()
    write_json(unfinished / "counts.json", counts)
    os.replace(unfinished, complete)
    return counts


def gather_bucket(job: Job, tokenizer: Tokenizer, bucket: int) -> dict[str, Any]:
    """Writes a bucket's shards, unless that was done before; returns its entry in dataset.json."""
    saved = bucket_file(job.building, bucket)
    if saved.is_file():
        described = json.loads(saved.read_text())
        if shards_are_whole(job.folder, described):
            return described
    texts, duplicates = unique_in_order(_scattered(job, bucket))
    described = write_bucket(job.folder, bucket, texts, job.plan, tokenizer)
    described["duplicates"] = duplicates
    write_json(saved, described)
    return described


def is_anything_scattered(building: pathlib.Path) -> bool:
    """Returns whether a unit is complete."""
    return any(building.glob(f"{_SCATTERED}*/counts.json"))


def training_sample(job: Job, limit: int) -> Iterator[bytes]:
    """Yields the first `limit` bytes of training text, in document order: a random sample."""
    for bucket in range(job.plan.buckets):
        for text in unique_in_order(_scattered(job, bucket))[0]:
            if is_heldout(text, job.plan.heldout_fraction):
                continue
            limit -= len(text)
            if limit < 0:
                return
            yield text


def bucket_file(building: pathlib.Path, bucket: int) -> pathlib.Path:
    """Returns the file that says what a finished bucket holds."""
    return building / f"bucket-{bucket:05d}.json"


def shards_are_whole(folder: pathlib.Path, described: dict[str, Any]) -> bool:
    """Returns whether the shards of a bucket have their checksums."""
    try:
        for name in SPLITS:
            check_shard(folder, Part.from_dict(described[name]).shard, contents=True)
    except UserError:
        return False
    return True


def _unit_folder(job, unit):
    """Returns where a unit's documents are scattered. The name is a hash of the files and of how
    they are read and scattered, so that a build with other files or settings does not use them."""
    described = repr((job.units[unit], job.read, job.plan.buckets, job.plan.seed))
    return job.building / f"{_SCATTERED}{hashlib.sha256(described.encode()).hexdigest()[:32]}"


def _spill(folder, buffer):
    for bucket, pairs in buffer.items():
        with open(_scatter_file(folder, bucket), "ab") as stream:
            writer = FrameWriter(stream, 2)
            for pair in pairs:
                writer.write(pair)
            writer.flush()


def _scattered(job, bucket) -> Iterator[tuple[bytes, ...]]:
    """Yields the (order key, text) pairs of a bucket."""
    for unit in range(len(job.units)):
        path = _scatter_file(_unit_folder(job, unit), bucket)
        if path.is_file():
            yield from read_frames(path, 2)


def _scatter_file(folder, bucket):
    return folder / f"{bucket:05d}.frames"
