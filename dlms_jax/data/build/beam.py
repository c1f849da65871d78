"""The builder as an Apache Beam pipeline: the same shards, byte for byte, from many machines.

Documents are keyed by bucket, grouped, and each bucket is written by bucket.write_bucket, as it is
locally. What is too large for one machine is cleaned the same way (cleaning/beam.py).
"""

from collections.abc import Sequence
import dataclasses
import json
import pathlib
import tempfile

from dlms_jax.data import tokenizers
from dlms_jax.data.build.bucket import SPLITS, Layout, unique_in_order, write_bucket
from dlms_jax.data.build.runner import file_systems, make_folder, new_pipeline
from dlms_jax.data.corpora.document import order_key, to_bytes
from dlms_jax.data.corpora.files import ReadOptions
from dlms_jax.data.corpora.source import Source
from dlms_jax.data.store.prepared import CARD, VOCABULARY, describe, why_useless
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.errors import UserError, optional_import


def build_on_beam(
    sources: Sequence[Source], out: str, tokenizer: Tokenizer, layout: Layout,
    read: ReadOptions, pipeline_options: Sequence[str] = (),
) -> None:  # fmt: skip
    """Writes a prepared dataset to `out`, a folder of any file system that Beam knows.

    tokenizer: ready, see `prepare tokenizer`. pipeline_options: Beam's own flags (--runner,
    --project, ...); without a --runner it runs in this process. A worker holds one bucket at a
    time. dataset.json comes last. Raises UserError where `out` holds something already.
    """
    beam = optional_import("apache_beam", "beam")
    make_folder(out)
    saved = tokenizer.to_dict()
    with new_pipeline(pipeline_options) as pipeline:
        keyed = (
            pipeline
            | "sources" >> beam.Create([dataclasses.asdict(source) for source in sources])
            | "spread" >> beam.Reshuffle()
            | "read" >> beam.FlatMap(_keyed, read, layout)
        )
        every = pipeline | "buckets" >> beam.Create([(b, None) for b in range(layout.buckets)])
        described = (
            {"texts": keyed, "every": every}
            | "by bucket" >> beam.CoGroupByKey()
            | "write" >> beam.Map(_write, out, layout, saved)
        )
        arguments = {"beam": True, "read": dataclasses.asdict(read)}
        _ = (
            pipeline
            | "once" >> beam.Create([None])
            | "finish" >> beam.Map(_finish, beam.pvalue.AsList(described), out, layout, saved,
                                   arguments)
        )  # fmt: skip

    files = file_systems()
    with files.open(files.join(out, CARD)) as stream:
        if why := why_useless(json.load(stream)):
            files.delete([out])
            raise UserError(f"the input {why}")


def _keyed(source, read, layout):
    """Yields (bucket, (order key, text)) of a source's documents."""
    for document in Source(**source).read(read):
        text = to_bytes(document.text)
        key = order_key(text, layout.seed)
        yield layout.bucket_of(key), (key, text)


def _write(joined, out, layout, saved):
    """Writes a bucket's shards and returns (bucket, what dataset.json says of it)."""
    from apache_beam.io.filesystems import CompressionTypes

    files = file_systems()
    bucket, found = joined
    texts, duplicates = unique_in_order(found["texts"])
    with tempfile.TemporaryDirectory() as folder:
        local = pathlib.Path(folder)
        described = write_bucket(local, bucket, texts, layout, tokenizers.from_dict(saved))
        for split in SPLITS:
            name = described[split]["shard"]["file"]
            target = files.join(out, name)
            raw = CompressionTypes.UNCOMPRESSED
            with files.create(target, compression_type=raw) as stream:
                stream.write((local / name).read_bytes())
    described |= {"duplicates": duplicates}
    return bucket, described


def _finish(_, described, out, layout, saved, arguments):
    files = file_systems()
    buckets = [bucket for _, bucket in sorted(described, key=lambda item: item[0])]
    splits = [bucket[split] for bucket in buckets for split in SPLITS]
    counts = {
        "documents": sum(part["documents"] for part in splits)
        + sum(bucket["duplicates"] for bucket in buckets),
        "bytes": sum(part["bytes"] for part in splits),
    }
    tokenizer = tokenizers.from_dict(saved)
    card = describe(buckets, layout, tokenizer, counts, arguments)
    for name, data in ((VOCABULARY, saved), (CARD, card)):
        with files.create(files.join(out, name)) as stream:
            stream.write((json.dumps(data, indent=1, sort_keys=True) + "\n").encode())
