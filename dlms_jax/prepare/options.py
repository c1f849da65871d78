"""Options that several commands share, and the objects that they give."""

from dlms_jax.config import TokenizerConfig
from dlms_jax.errors import UserError

TOKENIZERS = ("bytes", "bpe", "sentencepiece", "hf")


def add_reading(parser):
    add = parser.add_argument
    add("--field", default="text", metavar="NAME", help="the field that holds the text in "
        "JSON lines, CSV, Parquet (default: text)")  # fmt: skip
    add("--invalid", choices=("strict", "replace", "skip", "keep"), default="strict",
        help="what to do with bytes that are not UTF-8: end with an error (default), replace them "
        "by U+FFFD, skip the text, or keep them as they are")  # fmt: skip
    add("--piece-bytes", type=int, default=16384, metavar="N", help="cut text files at line ends "
        "into documents of about this size (default: 16384; 0: never)")  # fmt: skip


def add_splitting(parser):
    add = parser.add_argument
    add("--heldout-fraction", type=float, default=0.05, metavar="X", help="share of documents that "
        "is held out, by a hash of their text (default: 0.05)")  # fmt: skip
    add("--seed", type=int, default=0, help="seed of the documents' order (default: 0)")


def add_vocabulary(parser):
    add = parser.add_argument
    add("--tokenizer", choices=TOKENIZERS, help="(default: bytes)")
    add("--tokenizer-path", metavar="PATH", help="a tokenizer.json, a Hugging Face folder, or a "
        "sentencepiece .model, instead of training one")  # fmt: skip
    add("--tokenizer-from", metavar="DIR", help="the tokenizer of a run or a prepared dataset")
    add_training(parser)


def add_training(parser):
    add = parser.add_argument
    add(
        "--vocab-size",
        type=int,
        default=8192,
        metavar="N",
        help="number of symbols (default: 8192)",
    )
    add("--algorithm", choices=("unigram", "bpe"), default="unigram", help="of "
        "sentencepiece (default: unigram)")  # fmt: skip
    add(
        "--special-token",
        dest="special_tokens",
        action="append",
        default=[],
        metavar="TEXT",
        help="a further special token, for chat turns or tasks; repeat it for several",
    )
    add("--sample-bytes", type=int, default=100 << 20, metavar="N", help="bytes of training text "
        "on which the tokenizer is trained (default: 100 MiB)")  # fmt: skip


def add_beam(parser):
    add = parser.add_argument
    add("--beam", action="store_true", help="run as an Apache Beam pipeline; give Beam's own flags "
        "after -- (--runner=DataflowRunner ...)")  # fmt: skip


def read_options(a):
    """Returns how raw files are read."""
    from dlms_jax.data.corpora.options import ReadOptions

    return ReadOptions(a.field, a.invalid, at_least(a, "piece_bytes", 0))


def heldout_fraction(a) -> float:
    """Returns --heldout-fraction, checked."""
    if not 0 < a.heldout_fraction < 1:
        raise UserError(f"--heldout-fraction={a.heldout_fraction} should be between 0 and 1")
    return a.heldout_fraction


def at_least(a, name: str, least: int) -> int:
    """Returns the value of an option, checked."""
    value = getattr(a, name)
    if value < least:
        raise UserError(f"--{name.replace('_', '-')}={value} should be at least {least}")
    return value


def saved_tokenizer(a):
    """Returns the tokenizer of the run or dataset of --tokenizer-from; None without this option."""
    if not a.tokenizer_from:
        return None
    if a.tokenizer or a.tokenizer_path:
        raise UserError("--tokenizer-from brings its tokenizer: leave out --tokenizer and its path")
    from dlms_jax.data.store.prepared import is_prepared, open_prepared

    if is_prepared(a.tokenizer_from):
        return open_prepared(a.tokenizer_from).tokenizer
    from dlms_jax.checkpoints.checkpoint import open_checkpoint

    return open_checkpoint(a.tokenizer_from).tokenizer


def tokenizer_settings(a) -> TokenizerConfig:
    """Returns the settings of a tokenizer that is trained or read from a file."""
    return TokenizerConfig(
        name=a.tokenizer or "bytes",
        vocab_size=at_least(a, "vocab_size", 1),
        path=a.tokenizer_path or "",
        algorithm=a.algorithm,
        special_tokens=tuple(a.special_tokens),
    )
