"""Make a dataset to train on: shards of packed rows, with splits and fingerprints."""

import os

from dlms_jax.config import add_option
from dlms_jax.errors import UserError
from dlms_jax.prepare.options import (
    DATA,
    add_beam,
    add_reading,
    add_splitting,
    add_vocabulary,
    at_least,
    read_options,
    saved_tokenizer,
    tokenizer_settings,
)


def add_arguments(parser):
    """Adds the command's options to a parser."""
    add = parser.add_argument
    add(
        "paths",
        nargs="+",
        metavar="PATH",
        help="files, folders or globs of .txt, .md, .rst, .jsonl, .csv, .tsv (each also .gz, .zst, "
        ".bz2) or .parquet, or manifests of files; or one named corpus, or tfds:DATASET/SPLIT",
    )
    add("--out", metavar="DIR", help="(default: prepared/NAME-LENGTH)")
    add_option(parser, "--sequence-length", "data.sequence_length", required=True)
    add_option(parser, "--packing", "data.packing", default=DATA.packing)
    add_vocabulary(parser)
    add_splitting(parser)
    add_reading(parser)
    add(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="number of processes, which does not change the dataset (default: all cores)",
    )
    add(
        "--shard-bytes",
        type=int,
        default=64 << 20,
        metavar="N",
        help="bytes of text per shard; a worker needs about six times as much memory (default: "
        "64 MiB)",
    )
    add_option(
        parser,
        "--synthetic-documents",
        "data.synthetic_documents",
        default=DATA.synthetic_documents,
    )
    add_option(parser, "--tfds-directory", "data.tfds_directory", default=DATA.tfds_directory)
    add("--overwrite", action="store_true", help="replace another dataset in --out")
    add_beam(parser)


def run(a):
    """Runs the command with parsed arguments."""
    from dlms_jax.data.build.builder import DatasetBuilder

    paths = a.paths[0] if len(a.paths) == 1 else a.paths
    vocab = saved_tokenizer(a) or tokenizer_settings(a)
    if a.beam:
        _dataset_on_beam(a, paths, vocab)
        return
    DatasetBuilder(
        out=a.out,
        packing=a.packing,
        heldout_fraction=a.heldout_fraction,
        seed=a.seed,
        read=read_options(a),
        shard_bytes=at_least(a, "shard_bytes", 1),
        sample_bytes=at_least(a, "sample_bytes", 1),
        synthetic_documents=a.synthetic_documents,
        tfds_directory=a.tfds_directory,
        workers=at_least(a, "workers", 1),
        overwrite=a.overwrite,
    ).build_from_raw(paths, vocab, a.sequence_length)


def _dataset_on_beam(a, paths, vocab):
    from dlms_jax.data.build.beam import build_on_beam
    from dlms_jax.data.corpora.pieces import with_pieces
    from dlms_jax.data.corpora.source import find_sources
    from dlms_jax.data.store.card import ShardPlan
    from dlms_jax.data.tokenizers import Tokenizer, make_tokenizer

    if not a.out:
        raise UserError("--beam needs --out")
    if not isinstance(vocab, Tokenizer):
        if vocab.name != "bytes" and not vocab.path:
            raise UserError(
                "--beam needs a trained tokenizer; train one with `prepare tokenizer` and pass it "
                "with --tokenizer-path"
            )
        vocab = make_tokenizer(vocab, ())
    sources = find_sources(paths, a.seed, a.synthetic_documents, a.tfds_directory)
    buckets = max(1, -(-sum(source.size for source in sources) // at_least(a, "shard_bytes", 1)))
    plan = ShardPlan(buckets, a.sequence_length, a.packing, a.heldout_fraction, a.seed)
    read = with_pieces(read_options(a), sources, a.heldout_fraction)
    build_on_beam(sources, a.out, vocab, plan, read, a.beam_options)
    print(f"wrote {a.out}; train with --config.data.corpus={a.out}")
