"""Train a tokenizer on a reproducible random sample of text."""

import pathlib

from dlms_jax.config import add_option
from dlms_jax.errors import UserError
from dlms_jax.files import written_whole
from dlms_jax.prepare.options import (
    add_reading,
    add_splitting,
    add_training,
    at_least,
    read_options,
    tokenizer_settings,
)


def add_arguments(parser):
    """Adds the command's options to a parser."""
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="files, folders or globs of text")
    add("--out", required=True, metavar="FILE", help="a tokenizer.json, or a sentencepiece .model")
    add_option(parser, "--tokenizer", "tokenizer.name", default="bpe")
    add_training(parser)
    add_splitting(parser)
    add_reading(parser)
    add("--overwrite", action="store_true", help="replace --out")
    parser.set_defaults(tokenizer_path=None)


def run(a):
    """Runs the command with parsed arguments."""
    from rich.console import Console

    from dlms_jax.data.checks import check_memory
    from dlms_jax.data.corpora.document import to_bytes, to_str
    from dlms_jax.data.corpora.pieces import with_pieces
    from dlms_jax.data.corpora.source import find_sources
    from dlms_jax.data.tokenizers import make_tokenizer
    from dlms_jax.data.worker_pool import run_in_workers

    if a.tokenizer not in ("bpe", "sentencepiece"):
        raise UserError(f"--tokenizer={a.tokenizer} cannot be trained; use bpe or sentencepiece")
    out = pathlib.Path(a.out)
    if out.exists() and not a.overwrite:
        raise UserError(f"{out} already exists; use another --out, or --overwrite")
    sources = find_sources(a.paths[0] if len(a.paths) == 1 else a.paths, a.seed, 20_000)
    console = Console(soft_wrap=True)
    limit = at_least(a, "sample_bytes", 1)
    total = sum(source.size for source in sources)
    check_memory(min(limit, total), f"a sample of --sample-bytes={limit}")
    read = with_pieces(read_options(a), sources, a.heldout_fraction)
    sampling = (sources, read, a.seed, a.heldout_fraction, limit)
    (texts,) = run_in_workers(_sample, [sampling], 1, console, "reading", total or None)
    if not texts:
        raise UserError(f"{' '.join(a.paths)}: no text to train a tokenizer on")
    with console.status(f"training on {sum(map(len, texts))} bytes ..."):
        tokenizer = make_tokenizer(tokenizer_settings(a), map(to_str, texts))
    out.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(out) as unfinished:
        unfinished.write_bytes(tokenizer.file())
    print(f"wrote {out}: {tokenizer.size} tokens, trained on {len(texts)} documents")
    sample = to_str(texts[0])[:10_000]
    ratio = len(to_bytes(sample)) / len(tokenizer.encode(sample))
    print(
        f"{ratio:.2f} bytes per token on the first document; use it with --tokenizer {a.tokenizer} "
        f"--tokenizer-path {out}"
    )


def _sample(sources, read, seed, heldout_fraction, limit):
    """Returns the texts on which the tokenizer is trained."""
    from dlms_jax.data.corpora.source import first_texts
    from dlms_jax.data.worker_pool import advance

    def documents():
        for source in sources:
            for document in source.read(read):
                advance(len(document.text))
                yield document

    return first_texts(documents(), seed, heldout_fraction, limit)
