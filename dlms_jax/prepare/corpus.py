"""Get the documents of a public corpus, from downloaded files, the Hub or TFDS."""

import pathlib

from dlms_jax.config import add_option
from dlms_jax.errors import UserError
from dlms_jax.prepare.clean import clean_here
from dlms_jax.prepare.options import DATA


def add_arguments(parser):
    """Adds the command's options to a parser."""
    add = parser.add_argument
    add("--name", default="", help="the corpus, one of --list")
    add("--list", action="store_true", help="list the corpora")
    add("--card", action="store_true", help="show the corpus's source, licence, size and commands")
    add("--from", dest="files", nargs="+", metavar="PATH", help="downloaded files")
    add(
        "--via",
        choices=("files", "tfds", "datasets"),
        help="(default: files with --from, else TFDS, else the Hub)",
    )
    add_option(parser, "--tfds-directory", "data.tfds_directory", default=DATA.tfds_directory)
    add("--out", metavar="DIR", help="where documents-*.jsonl.zst are written")


def run(a):
    """Runs the command with parsed arguments."""
    from dlms_jax.data.cleaning.options import CleaningOptions
    from dlms_jax.data.corpora.public_corpora import PUBLIC_CORPORA
    from dlms_jax.data.corpora.public_corpus import card, documents

    if a.list:
        for name, corpus in PUBLIC_CORPORA.items():
            print(f"{name:<18}{corpus.title}: {corpus.size}")
        return
    if a.name not in PUBLIC_CORPORA:
        names = ", ".join(PUBLIC_CORPORA)
        raise UserError(f"--name={a.name}: unknown corpus; use one of {names} (see --list)")
    corpus = PUBLIC_CORPORA[a.name]
    if a.card:
        print(card(corpus))
        return
    if not a.out:
        raise UserError("--out is missing; give the folder to write: --out DIR")
    stream = documents(corpus, a.files, a.via, a.tfds_directory)
    clean_here([corpus.name], a.out, CleaningOptions(), lambda _: stream, None)
    (pathlib.Path(a.out) / "_README.md").write_text(card(corpus), encoding="utf-8")
