"""The two passes of a build: files -> buckets of documents, bucket -> shards."""

from collections import Counter, defaultdict
from collections.abc import Iterator
import hashlib
import json
import os
import pathlib
import pickle
import shutil
from typing import Any, NamedTuple

from dlms_jax.data.build.bucket import SPLITS, Layout, Part, unique_in_order, write_bucket
from dlms_jax.data.build.work import advance
from dlms_jax.data.corpora.document import is_heldout, order_key, to_bytes
from dlms_jax.data.corpora.files import ReadOptions
from dlms_jax.data.corpora.source import Source
from dlms_jax.data.store.shards import check_shard
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.errors import UserError
from dlms_jax.files import UNFINISHED, write_json

_BUFFERED = 32 << 20  # bytes of text held before they are written to their buckets


class Job(NamedTuple):
    """A build, as its worker processes see it. units: sources that are scattered in one go."""

    folder: pathlib.Path
    building: pathlib.Path
    layout: Layout
    read: ReadOptions
    units: list[list[Source]]


def scatter_unit(job: Job, unit: int) -> dict[str, int]:
    """Writes a unit's documents into buckets, unless that was done; returns what was counted.

    The folder of a unit appears when it is whole.
    """
    whole = _unit_folder(job, unit)
    counts_file = whole / "counts.json"
    if counts_file.is_file():
        return json.loads(counts_file.read_text())
    unfinished = whole.with_name(whole.name + UNFINISHED)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    counts: Counter[str] = Counter()
    buffer, buffered = defaultdict(list), 0
    for source in job.units[unit]:
        left = source.size
        for document in source.read(job.read, lambda what: counts.update([what])):
            text = to_bytes(document.text)
            key = order_key(text, job.layout.seed)
            buffer[job.layout.bucket_of(key)].append((key, text))
            counts.update(documents=1, bytes=len(text))
            seen = min(len(text), left) if source.size else len(text)
            left -= seen
            advance(seen)
            buffered += len(text)
            if buffered >= _BUFFERED:
                _spill(unfinished, buffer)
                buffer, buffered = defaultdict(list), 0
        advance(max(left, 0))  # a compressed file is smaller, or what was read is larger
    _spill(unfinished, buffer)
    write_json(unfinished / "counts.json", counts)
    os.replace(unfinished, whole)
    return counts


def gather_bucket(job: Job, tokenizer: Tokenizer, bucket: int) -> dict[str, Any]:
    """Writes a bucket's shards, unless that was done, and returns what dataset.json says of it."""
    saved = bucket_file(job.building, bucket)
    if saved.is_file():
        described = json.loads(saved.read_text())
        if shards_are_whole(job.folder, described):
            return described
    texts, duplicates = unique_in_order(_scattered(job, bucket))
    described = write_bucket(job.folder, bucket, texts, job.layout, tokenizer, advance)
    described["duplicates"] = duplicates
    write_json(saved, described)
    return described


def training_sample(job: Job, limit: int) -> Iterator[str]:
    """Yields the first `limit` bytes of training text, in document order: a random sample."""
    for bucket in range(job.layout.buckets):
        for text in unique_in_order(_scattered(job, bucket))[0]:
            if is_heldout(text, job.layout.heldout_fraction):
                continue
            limit -= len(text)
            if limit < 0:
                return
            yield text.decode("utf-8", "surrogateescape")


def bucket_file(building: pathlib.Path, bucket: int) -> pathlib.Path:
    """Returns where it is kept what a finished bucket holds."""
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
    """Returns where a unit's documents are scattered: a name that other files, or other ways to
    read or to scatter them, do not have."""
    described = repr((job.units[unit], job.read, job.layout.buckets, job.layout.seed))
    return job.building / f"unit-{hashlib.sha256(described.encode()).hexdigest()[:32]}"


def _spill(folder, buffer):
    for bucket, pairs in buffer.items():
        with open(folder / f"{bucket:05d}.pickle", "ab") as file:
            pickle.dump(pairs, file)


def _scattered(job, bucket) -> Iterator[tuple[bytes, bytes]]:
    for unit in range(len(job.units)):
        path = _unit_folder(job, unit) / f"{bucket:05d}.pickle"
        if path.is_file():
            with open(path, "rb") as file:
                while file.peek(1):
                    yield from pickle.load(file)
