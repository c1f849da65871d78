"""Make a dataset of dialogues, or prompts and responses, to fine-tune on."""

import pathlib

from dlms_jax.config import add_option
from dlms_jax.errors import UserError
from dlms_jax.prepare.options import (
    add_splitting,
    add_vocabulary,
    saved_tokenizer,
    tokenizer_settings,
)


def add_arguments(parser):
    """Adds the command's options to a parser."""
    add = parser.add_argument
    add("paths", nargs="+", metavar="FILE", help="JSON lines, also .gz, .zst or .bz2")
    add("--out", required=True, metavar="DIR")
    add_option(parser, "--sequence-length", "data.sequence_length", required=True)
    add(
        "--template",
        metavar="PATH",
        help="a Jinja chat template, or a Hugging Face folder that has one (default: prompt and "
        "response without a template)",
    )
    add("--prompt-field", default="prompt", metavar="NAME")
    add("--response-field", default="response", metavar="NAME")
    add("--messages-field", default="messages", metavar="NAME")
    add(
        "--task",
        default="",
        metavar="TOKEN",
        help="a special token at the start, which names the task",
    )
    add("--score", choices=("all", "last"), default="all", help="the answers to learn")
    add(
        "--prompt-length",
        type=int,
        default=0,
        metavar="N",
        help="one example per row, with prompts padded on the left to N tokens (default: several "
        "examples per row)",
    )
    add(
        "--eos",
        choices=("once", "fill"),
        default="once",
        help="with --prompt-length: end a row with one EOS and padding (default), or fill it with "
        "EOS tokens that are attended to and learned, as LLaDA does",
    )
    add(
        "--too-long",
        choices=("error", "skip"),
        default="error",
        help="what to do with an example that is longer than a row (default: error)",
    )
    add_vocabulary(parser)
    add_splitting(parser)


def run(a):
    """Runs the command with parsed arguments."""
    from dlms_jax.data.build.dialogues import DialogueOptions, prepare_dialogues
    from dlms_jax.data.chat import ChatOptions, load_template
    from dlms_jax.data.store.card import SPLITS
    from dlms_jax.data.tokenizers import Tokenizer, make_tokenizer

    vocab = saved_tokenizer(a) or tokenizer_settings(a)
    if not isinstance(vocab, Tokenizer):
        if vocab.name != "bytes" and not vocab.path:
            raise UserError(
                "no tokenizer of the model; use --tokenizer-from RUN or --tokenizer-path FILE"
            )
        vocab = make_tokenizer(vocab, ())
    chat = ChatOptions(
        template=load_template(a.template) if a.template else "",
        prompt_field=a.prompt_field,
        response_field=a.response_field,
        messages_field=a.messages_field,
        task=a.task,
        score=a.score,
    )
    options = DialogueOptions(
        a.sequence_length, a.prompt_length, a.eos, a.too_long, a.heldout_fraction, a.seed
    )
    dataset, left_out = prepare_dialogues(a.paths, pathlib.Path(a.out), vocab, chat, options)
    for name in SPLITS:
        split = dataset.card["splits"][name]
        print(
            f"{name}: {split['documents']} examples, {split['tokens']} learned tokens in "
            f"{split['rows']} rows of {a.sequence_length}"
        )
    if left_out:
        print(f"skipped {left_out} examples that are longer than a row")
    print(f"wrote {a.out}; train with --config.data.corpus={a.out}")
