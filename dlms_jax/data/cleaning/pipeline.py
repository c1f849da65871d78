"""Cleaning on one machine: files of documents -> a folder of fewer, cleaner ones."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import itertools
import pathlib
import shutil
import tempfile

import numpy as np

from dlms_jax.data.cleaning.contamination import (
    CONTAMINATED,
    check_evaluation,
    is_contaminated,
    ngrams,
    union,
)
from dlms_jax.data.cleaning.duplicates import (
    EXACT,
    NEAR,
    bands,
    keep_smallest,
    near_of_all,
    rank,
    signature,
)
from dlms_jax.data.cleaning.filters import Drop, check_languages, judge
from dlms_jax.data.cleaning.options import CleaningOptions
from dlms_jax.data.cleaning.output import (
    REPORT,
    SHARD_BYTES,
    shard_count,
    shard_name,
    shard_of,
    write_shard,
)
from dlms_jax.data.cleaning.record import Record
from dlms_jax.data.cleaning.report import KEPT, READ, WRITTEN, Count, Key, Report, add, to_csv
from dlms_jax.data.cleaning.spill import Spill
from dlms_jax.data.corpora.document import Document, to_str
from dlms_jax.errors import UserError

Read = Callable[[str], Iterable[Document]]  # a file's documents


def run_local_clean(
    inputs: Sequence[str],
    out: str | pathlib.Path,
    options: CleaningOptions,
    read: Read,
    shard_bytes: int = SHARD_BYTES,
) -> Report:
    """Writes the kept documents and the report to the folder `out`; returns the report.

    The folder appears when it is complete: until then the files are in OUT.partial, which a later
    run clears. Disk: twice the text that passes the filters. Memory: see `clean`.

    Args:
      inputs: files of documents.
      out: the folder that is written.
      options: which stages run.
      read: yields the documents of a file.
      shard_bytes: bytes of text in a shard.

    Raises:
      UserError: `out` is not empty, or a file cannot be read.
    """
    folder = pathlib.Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{out} is not empty: remove it, or choose another folder")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        documents = itertools.chain.from_iterable(map(read, inputs))
        evaluation = itertools.chain.from_iterable(map(read, options.decontaminate))
        with tempfile.TemporaryDirectory(dir=partial) as spill:
            records, report = clean(documents, evaluation, options, pathlib.Path(spill))
            shards = shard_count(report, shard_bytes)
            groups = _in_shards(records, shards)
            for number, group in enumerate(groups):
                with (partial / shard_name(number, shards)).open("wb") as stream:
                    write_shard(stream, group)
        (partial / REPORT).write_text(to_csv(report), encoding="utf-8", newline="")
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


def clean(
    documents: Iterable[Document],
    evaluation: Iterable[Document],
    options: CleaningOptions,
    folder: pathlib.Path,
) -> tuple[Iterator[Record], Report]:
    """Returns the records that are kept, in the order of their identities, and the report.

    Memory: the largest document, a 256th of the text that passes the filters (spill.py), the
    n-grams of the evaluation texts (8 bytes each) and, to find near duplicates, about 60 bytes for
    each document and 8 for each row of a band.

    Args:
      documents: the corpus.
      evaluation: evaluation texts.
      options: which stages run.
      folder: holds texts and signatures (num_perm * 4 bytes); it must stay until the records have
        been read.
    """
    check_options(options)
    known = union(ngrams(to_str(document.text), options) for document in evaluation)
    check_evaluation(known, options)
    report: Report = {}
    spill = Spill(folder)
    with contextlib.closing(spill):
        for document in documents:
            judged = judge(document, options)
            add(report, READ, judged.count)
            if isinstance(judged, Drop):
                add(report, judged.key, judged.count)
            else:
                spill.add(judged)
    ranks, signatures = bytearray(), folder / "signatures"
    with signatures.open("wb") as stream:

        def unique(records):
            for _, same in itertools.groupby(records, key=lambda record: record.identity):
                record, others = keep_smallest((record, Count()) for record in same)
                add(report, EXACT, others)
                if options.near_duplicates:
                    ranks.extend(rank(record.identity))
                    stream.write(signature(record.characters, options).tobytes())
                yield record

        spill.rewrite(unique)
    near = _near(ranks, signatures, options)

    def kept(records):
        for record in records:
            reason = last_stages(record, next(near), known, options)
            if reason:
                add(report, reason, record.count)
                continue
            add(report, KEPT, record.count)
            add(report, WRITTEN, record.count._replace(bytes=len(record.text)))
            yield record

    spill.rewrite(kept)
    return iter(spill), report


def check_options(options: CleaningOptions) -> None:
    """Raises UserError for options that only the libraries which take them can check."""
    check_languages(options)
    if options.near_duplicates:
        bands(options)


def last_stages(
    record: Record, near: bool, evaluation: np.ndarray, options: CleaningOptions
) -> Key | None:
    """Returns why a record that has no exact duplicate is dropped; None if it is kept."""
    if near:
        return NEAR
    if is_contaminated(record.characters, evaluation, options):
        return CONTAMINATED
    return None


def _near(ranks: bytearray, file: pathlib.Path, options: CleaningOptions) -> Iterator[bool]:
    """Returns, for each record in order, whether it is a near duplicate."""
    if not options.near_duplicates:
        return itertools.repeat(False)
    if not ranks:
        return iter(())
    ranks_Nx16 = np.frombuffer(ranks, np.uint8).reshape(-1, 16)
    signatures_NxP = np.memmap(file, np.uint32, "r").reshape(-1, options.num_perm)
    return iter(near_of_all(ranks_Nx16, signatures_NxP, options))


def _in_shards(records: Iterator[Record], shards: int) -> Iterator[Iterator[Record]]:
    """Yields the records of each shard in turn; `records` are in order."""
    groups = itertools.groupby(records, key=lambda record: shard_of(record, shards))
    number, group = next(groups, (shards, iter(())))
    for shard in range(shards):
        if shard == number:
            yield group
            number, group = next(groups, (shards, iter(())))
        else:
            yield iter(())
