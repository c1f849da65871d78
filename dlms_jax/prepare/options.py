"""Options that several commands share, and the objects made from them."""

from dlms_jax.config import SETTINGS, DataConfig, TokenizerConfig, add_option
from dlms_jax.errors import UserError

DATA, TOKENIZER = DataConfig(), TokenizerConfig()  # the defaults


def add_reading(parser):
    """Adds the options of reading raw files."""
    add_option(parser, "--text-field", "data.text_field", default=DATA.text_field)
    add_option(parser, "--invalid-utf8", "data.invalid_utf8", default=DATA.invalid_utf8)
    add = parser.add_argument
    add(
        "--piece-bytes",
        type=int,
        metavar="N",
        help="split text files at line ends into documents of about this size (default: 16384, or "
        "less for a short text, so that some documents are held out; 0: never)",
    )


def add_splitting(parser):
    """Adds the options of splitting into training and held-out text."""
    heldout = DATA.heldout_fraction
    add_option(parser, "--heldout-fraction", "data.heldout_fraction", default=heldout)
    add_option(parser, "--seed", "data.seed", default=DATA.seed)


def add_vocabulary(parser):
    """Adds the options that choose or train a tokenizer."""
    kinds = ", ".join(SETTINGS["tokenizer.name"].choices)
    add_option(parser, "--tokenizer", "tokenizer.name", help=f"{kinds} (default: bytes)")
    add = parser.add_argument
    add(
        "--tokenizer-path",
        metavar="PATH",
        help="a tokenizer.json, a Hugging Face folder or a sentencepiece .model, instead of "
        "training one",
    )
    add("--tokenizer-from", metavar="DIR", help="the tokenizer of a run or a prepared dataset")
    add_training(parser)


def add_training(parser):
    """Adds the options of training a tokenizer."""
    add_option(parser, "--vocab-size", "tokenizer.vocab_size", default=TOKENIZER.vocab_size)
    add_option(parser, "--algorithm", "tokenizer.algorithm", default=TOKENIZER.algorithm)
    add = parser.add_argument
    add(
        "--special-token",
        dest="special_tokens",
        action="append",
        default=[],
        metavar="TEXT",
        help="an additional special token, for chat turns or tasks; can be repeated",
    )
    add(
        "--sample-bytes",
        type=int,
        default=100 << 20,
        metavar="N",
        help="bytes of training text on which the tokenizer is trained (default: 100 MiB)",
    )


def add_beam(parser):
    """Adds --beam."""
    add = parser.add_argument
    add(
        "--beam",
        action="store_true",
        help="run as an Apache Beam pipeline; Beam's own flags follow after -- "
        "(--runner=DataflowRunner ...)",
    )


def read_options(a):
    """Returns the ReadOptions of `add_reading`."""
    from dlms_jax.data.corpora.options import ReadOptions

    pieces = None if a.piece_bytes is None else at_least(a, "piece_bytes", 0)
    return ReadOptions(a.text_field, a.invalid_utf8, pieces)


def at_least(a, name: str, least: int) -> int:
    """Returns the value of an option.

    Raises:
      UserError: it is below `least`.
    """
    value = getattr(a, name)
    if value < least:
        raise UserError(f"--{name.replace('_', '-')}={value} should be at least {least}")
    return value


def saved_tokenizer(a):
    """Returns the tokenizer of the run or dataset in --tokenizer-from, or None.

    Raises:
      UserError: other options also choose a tokenizer, or it cannot be read.
    """
    if not a.tokenizer_from:
        return None
    if a.tokenizer or a.tokenizer_path:
        raise UserError(
            "--tokenizer-from already gives a tokenizer; leave out --tokenizer and its path"
        )
    from dlms_jax.data.store.prepared import is_prepared, open_prepared

    if is_prepared(a.tokenizer_from):
        return open_prepared(a.tokenizer_from).tokenizer
    from dlms_jax.checkpoints.checkpoint import open_checkpoint

    return open_checkpoint(a.tokenizer_from).tokenizer


def tokenizer_settings(a) -> TokenizerConfig:
    """Returns the TokenizerConfig of `add_vocabulary`."""
    return TokenizerConfig(
        name=a.tokenizer or TOKENIZER.name,
        vocab_size=a.vocab_size,
        path=a.tokenizer_path or "",
        algorithm=a.algorithm,
        special_tokens=tuple(a.special_tokens),
    )
