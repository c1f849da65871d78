"""The builder as an Apache Beam pipeline: the same shards, byte for byte, from many machines.

Documents are keyed by bucket and grouped, and bucket.write_bucket writes each bucket, as it does on
one machine. cleaning/beam.py cleans a corpus in the same way.
"""

from collections.abc import Sequence
import dataclasses
import json
import pathlib
import tempfile

from dlms_jax.data import tokenizers
from dlms_jax.data.beam_pipeline import file_systems, make_folder, new_pipeline
from dlms_jax.data.build.bucket import unique_in_order, write_bucket
from dlms_jax.data.corpora.document import order_key
from dlms_jax.data.corpora.options import ReadOptions
from dlms_jax.data.corpora.source import Source
from dlms_jax.data.store.card import (
    CARD,
    SPLITS,
    VOCABULARY,
    ShardPlan,
    describe,
    sealed,
    why_unusable,
)
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.errors import UserError, optional_import


def build_on_beam(
    sources: Sequence[Source],
    out: str,
    tokenizer: Tokenizer,
    plan: ShardPlan,
    read: ReadOptions,
    pipeline_options: Sequence[str] = (),
) -> None:
    """Writes a prepared dataset. A worker holds one bucket at a time; dataset.json comes last.

    Args:
      sources: the files of the corpus, on paths that every worker can read.
      out: a folder on any file system that Beam knows.
      tokenizer: a trained one, such as `prepare tokenizer` makes.
      plan: how the corpus is divided.
      read: how files are read.
      pipeline_options: Beam's own flags (--runner, --project, ...); without a --runner it runs in
        this process.

    Raises:
      UserError: `out` is not empty, or the input gives no dataset.
    """
    beam = optional_import("apache_beam", "beam")
    make_folder(out)
    saved = tokenizer.to_dict()
    with new_pipeline(pipeline_options) as pipeline:
        keyed = (
            pipeline
            | "sources" >> beam.Create([dataclasses.asdict(source) for source in sources])
            | "spread" >> beam.Reshuffle()
            | "read" >> beam.FlatMap(_keyed, read, plan)
        )
        every = pipeline | "buckets" >> beam.Create([(b, None) for b in range(plan.buckets)])
        described = (
            {"texts": keyed, "every": every}
            | "by bucket" >> beam.CoGroupByKey()
            | "write" >> beam.Map(_write, out, plan, saved)
        )
        arguments = {"beam": True, "read": dataclasses.asdict(read)}
        _ = (
            pipeline
            | "once" >> beam.Create([None])
            | "finish"
            >> beam.Map(_finish, beam.pvalue.AsList(described), out, plan, saved, arguments)
        )

    files = file_systems()
    with files.open(files.join(out, CARD)) as stream:
        if why := why_unusable(json.load(stream)):
            files.delete([out])
            raise UserError(f"the input {why}")


def _keyed(source, read, plan):
    """Yields (bucket, (order key, text)) of a source's documents."""
    for _, text in Source(**source).read(read):
        key = order_key(text, plan.seed)
        yield plan.bucket_of(key), (key, text)


def _write(joined, out, plan, saved):
    """Writes a bucket's shards and returns (bucket, what dataset.json says of it)."""
    from apache_beam.io.filesystems import CompressionTypes

    files = file_systems()
    bucket, found = joined
    texts, duplicates = unique_in_order(found["texts"])
    with tempfile.TemporaryDirectory() as folder:
        local = pathlib.Path(folder)
        described = write_bucket(local, bucket, texts, plan, tokenizers.from_dict(saved))
        for split in SPLITS:
            name = described[split]["shard"]["file"]
            target = files.join(out, name)
            raw = CompressionTypes.UNCOMPRESSED
            with files.create(target, compression_type=raw) as stream:
                stream.write((local / name).read_bytes())
    return bucket, described | {"duplicates": duplicates}


def _finish(_, described, out, plan, saved, arguments):
    """Writes the files beside the shards."""
    files = file_systems()
    buckets = [bucket for _, bucket in sorted(described, key=lambda item: item[0])]
    splits = [bucket[split] for bucket in buckets for split in SPLITS]
    counts = {
        "documents": sum(part["documents"] for part in splits)
        + sum(bucket["duplicates"] for bucket in buckets),
        "bytes": sum(part["bytes"] for part in splits),
    }
    tokenizer = tokenizers.from_dict(saved)
    card = describe(buckets, plan, tokenizer, counts, arguments)
    for name, data in ((VOCABULARY, saved), (CARD, sealed(card, saved))):
        with files.create(files.join(out, name)) as stream:
            stream.write((json.dumps(data, indent=1, sort_keys=True) + "\n").encode())
