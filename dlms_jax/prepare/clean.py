"""Filter and deduplicate documents, with a report of what was dropped and why."""

import pathlib

from dlms_jax.prepare.options import add_beam, add_reading, read_options


def add_arguments(parser):
    """Adds the command's options to a parser."""
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="files, folders or globs of documents")
    add("--out", required=True, metavar="DIR", help="where documents-*.jsonl.zst are written")
    add("--normalize", choices=("none", "NFC", "NFKC"), default="none", help="(default: none)")
    add("--min-characters", type=int, default=0, metavar="N", help="drop shorter documents")
    add("--max-characters", type=int, default=0, metavar="N", help="drop longer ones (0: no limit)")
    add(
        "--languages",
        nargs="+",
        default=[],
        metavar="CODE",
        help="keep only these languages (en de ...)",
    )
    add("--min-language-probability", type=float, default=0.0, metavar="P")
    add(
        "--quality",
        nargs="+",
        default=[],
        metavar="RULES",
        help="keep documents that pass these rule sets: gopher, gopher-repetition, c4, fineweb",
    )
    add(
        "--near-duplicates",
        type=float,
        default=0.0,
        metavar="J",
        help="drop documents with at least this Jaccard similarity to another one (0: off; usual: "
        "0.8)",
    )
    add(
        "--decontaminate",
        nargs="+",
        default=[],
        metavar="PATH",
        help="evaluation texts: drop documents that share --ngram consecutive words with them",
    )
    add("--ngram", type=int, default=13, metavar="N", help="(default: 13)")
    add_reading(parser)
    add_beam(parser)


def run(a):
    """Runs the command with parsed arguments."""
    from dlms_jax.data.cleaning.beam import run_beam_clean
    from dlms_jax.data.cleaning.options import CleaningOptions
    from dlms_jax.data.corpora.files import list_files, read_file

    options = CleaningOptions(
        normalize=a.normalize,
        min_characters=a.min_characters,
        max_characters=a.max_characters,
        languages=tuple(a.languages),
        min_language_probability=a.min_language_probability,
        quality=tuple(a.quality),
        near_duplicates=a.near_duplicates,
        decontaminate=tuple(str(path) for p in a.decontaminate for path in list_files(p)),
        ngram=a.ngram,
    )
    how = read_options(a)

    def read(path):
        return read_file(pathlib.Path(path), how)

    inputs = list_files(a.paths)
    if a.beam:
        run_beam_clean(list(map(str, inputs)), a.out, options, read, a.beam_options)
        print(f"wrote {a.out}; {a.out}/_report.csv lists what was dropped")
    else:
        size = sum(path.stat().st_size for path in inputs)
        clean_here(list(map(str, inputs)), a.out, options, read, size)


def clean_here(inputs, out, options, read, size):
    """Cleans on this machine with a progress bar, and prints the report.

    Args:
      inputs: arguments of `read`.
      out: the folder to write.
      options: the CleaningOptions.
      read: input -> iterator over its documents.
      size: bytes of all inputs; None if unknown.
    """
    from rich.console import Console

    from dlms_jax.data.cleaning.pipeline import run_local_clean
    from dlms_jax.data.cleaning.report import to_csv
    from dlms_jax.data.worker_pool import advance, run_in_workers

    def counted(path):
        for document in read(path):
            yield document
            advance(len(document.text))

    call = (inputs, out, options, counted)
    (report,) = run_in_workers(run_local_clean, [call], 1, Console(), "cleaning", size)
    print(to_csv(report).rstrip())
    print(
        f"wrote {out}; make a dataset from it: python -m dlms_jax.prepare dataset {out} --out DIR"
    )
