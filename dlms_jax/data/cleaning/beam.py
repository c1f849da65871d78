"""Cleaning on many machines: the stages of pipeline.py as an Apache Beam pipeline.

Up to the exact duplicates the work is divided by file, after that by text, band or shard. A text is
sent between workers once for exact duplicates, once for near duplicates (and its signature once for
each band), and once to be written.
"""

from collections.abc import Iterator, Sequence

from dlms_jax.data.beam_pipeline import file_systems, make_folder, new_pipeline
from dlms_jax.data.cleaning.contamination import check_evaluation, ngrams, union
from dlms_jax.data.cleaning.duplicates import (
    EXACT,
    bands,
    has_words,
    keep_smallest,
    near_in_bucket,
    signature,
)
from dlms_jax.data.cleaning.filters import Drop, judge
from dlms_jax.data.cleaning.options import CleaningOptions
from dlms_jax.data.cleaning.output import (
    REPORT,
    SHARD_BYTES,
    shard_count,
    shard_name,
    shard_of,
    write_shard,
)
from dlms_jax.data.cleaning.pipeline import Read, check_options, last_stages
from dlms_jax.data.cleaning.record import Record
from dlms_jax.data.cleaning.report import KEPT, READ, WRITTEN, Count, Key, merge_counts, to_csv
from dlms_jax.data.corpora.document import to_str
from dlms_jax.errors import optional_import

_PARTIAL = ".partial"  # the end of a shard's name until all shards are written


def run_beam_clean(
    inputs: Sequence[str],
    out: str,
    options: CleaningOptions,
    read: Read,
    pipeline_options: Sequence[str] = (),
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes the same files as run_local_clean. The report comes last.

    Args:
      inputs: files of documents, on paths that every worker can read.
      out: a folder on any file system that Beam knows (gs://...).
      options: which stages run; `decontaminate` has paths that every worker can read.
      read: yields the documents of a file.
      pipeline_options: Beam's own flags (--runner, ...); without a --runner it runs in this
        process.
      shard_bytes: bytes of text in a shard.

    Raises:
      UserError: `out` is not empty, or a file cannot be read.
    """
    beam = optional_import("apache_beam", "beam")
    check_options(options)
    make_folder(out, ignored_suffix=_PARTIAL)
    with new_pipeline(pipeline_options) as pipeline:
        paths = pipeline | "inputs" >> beam.Create(list(map(str, inputs)))
        evaluation = pipeline | "evaluation" >> beam.Create(list(options.decontaminate))
        records, report = clean_on_beam(paths, evaluation, options, read)
        shards = report | "shards" >> beam.Map(shard_count, shard_bytes)
        number = beam.pvalue.AsSingleton(shards)
        by_shard = records | "shard of" >> beam.Map(
            lambda record, n: (shard_of(record, n), record), number
        ).with_output_types(tuple[int, Record])
        every = shards | "every shard" >> beam.FlatMap(
            lambda n: [(i, True) for i in range(n)]
        ).with_output_types(tuple[int, bool])  # a shard without a record is written too
        written = (
            {"records": by_shard, "every": every}
            | "by shard" >> beam.CoGroupByKey()
            | "write" >> beam.Map(_write, number, out)
        )
        report | "finish" >> beam.Map(_finish, beam.pvalue.AsIter(written), out)


def clean_on_beam(paths, evaluation, options: CleaningOptions, read: Read):
    """Returns (PCollection of the records that are kept, PCollection of one Report).

    Args:
      paths: PCollection of the files of documents.
      evaluation: PCollection of the files of evaluation texts.
      options: which stages run.
      read: yields the documents of a file.
    """
    beam = optional_import("apache_beam", "beam")
    # Steps state their output types, because Beam guesses them from the code, and wrongly.
    Entry = tuple[Key, Count]
    Found = tuple[Record, Count]  # a record, and the count of its dropped duplicates
    known = (
        evaluation
        | "read evaluation" >> beam.FlatMap(lambda path: _evaluation(path, options, read))
        | "all n-grams" >> beam.CombineGlobally(lambda sets: union(sets))
        | "check" >> beam.Map(_checked, options)
    )
    judged = (
        paths
        | "spread" >> beam.Reshuffle()
        | "filter" >> beam.FlatMap(lambda path: (judge(d, options) for d in read(path)))
    )
    unique = (
        judged
        | "stays" >> beam.Filter(lambda item: isinstance(item, Record))
        | "identity"
        >> beam.Map(lambda record: (record.identity, (record, Count()))).with_output_types(
            tuple[bytes, Found]
        )
        | "exact" >> beam.CombinePerKey(keep_smallest)
    )
    records = unique | "record" >> beam.MapTuple(
        lambda name, found: (name, found[0])
    ).with_output_types(tuple[bytes, Record])
    near = paths.pipeline | "none" >> beam.Create([]).with_output_types(tuple[bytes, bool])
    if options.near_duplicates:
        near = (
            records
            | "bands"
            >> beam.FlatMapTuple(
                lambda name, record: _bands(name, record, options)
            ).with_output_types(tuple[bytes, tuple[bytes, bytes]])
            | "by band" >> beam.GroupByKey()
            | "near"
            >> beam.FlatMapTuple(
                lambda _, bucket: near_in_bucket(bucket, options)
            ).with_output_types(bytes)
            | "once" >> beam.Distinct()
            | "as key" >> beam.Map(lambda name: (name, True)).with_output_types(tuple[bytes, bool])
        )
    last = (
        {"record": records, "near": near}
        | "by identity" >> beam.CoGroupByKey()
        | "last stages"
        >> beam.Map(_last, beam.pvalue.AsSingleton(known), options).with_output_types(
            tuple[Record, Key | None]
        )
    )
    kept = (
        last
        | "kept" >> beam.Filter(lambda item: item[1] is None)
        | "kept record" >> beam.Map(lambda item: item[0]).with_output_types(Record)
    )
    counts = (
        judged | "count read" >> beam.FlatMap(_count_judged).with_output_types(Entry),
        unique
        | "count exact" >> beam.Map(lambda item: (EXACT, item[1][1])).with_output_types(Entry),
        last | "count last" >> beam.FlatMap(_count_last).with_output_types(Entry),
    )
    report = (
        counts
        | "counts" >> beam.Flatten()
        | "some" >> beam.Filter(lambda entry: entry[1].documents > 0)
        | "sum" >> beam.CombinePerKey(merge_counts)
        | "report" >> beam.combiners.ToDict()
    )
    return kept, report


def _evaluation(path, options, read):
    # Reading and n-grams are one step, as are reading and judging documents: Beam cannot send a str
    # with lone surrogates between steps, and a document's name may have some.
    return (ngrams(to_str(document.text), options) for document in read(path))


def _checked(known, options):
    check_evaluation(known, options)
    return known


def _bands(name: bytes, record: Record, options: CleaningOptions) -> Iterator:
    """Yields (band, (identity, signature)), all as bytes."""
    values = signature(record.characters, options)
    if has_words(values):
        for number, band in enumerate(bands(options)):
            yield number.to_bytes(4, "big") + values[band].tobytes(), (name, values.tobytes())


def _last(joined, known, options):
    """Returns (record, why it is dropped or None) from (identity, what has this identity)."""
    _, found = joined
    (record,) = found["record"]
    return record, last_stages(record, bool(list(found["near"])), known, options)


def _count_judged(judged):
    yield READ, judged.count
    if isinstance(judged, Drop):
        yield judged.key, judged.count


def _count_last(item):
    record, reason = item
    if reason:
        yield reason, record.count
    else:
        yield KEPT, record.count
        yield WRITTEN, record.count._replace(bytes=len(record.text))


def _write(joined, shards, out):
    """Writes a shard under a temporary name; returns its name. A retry writes the same bytes."""
    shard, found = joined
    files = file_systems()
    name = shard_name(shard, shards)
    records = sorted(found["records"])
    with files.create(files.join(out, name + _PARTIAL)) as stream:
        write_shard(stream, records)
    return name


def _finish(report, names, out):
    files = file_systems()
    paths = [files.join(out, name) for name in sorted(names)]
    # A retry finds some that were renamed before.
    paths = [path for path in paths if files.exists(path + _PARTIAL)]
    files.rename([path + _PARTIAL for path in paths], paths)
    with files.create(files.join(out, REPORT)) as stream:
        stream.write(to_csv(report).encode())
