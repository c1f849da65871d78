"""Prepare text: tokenizers, datasets, public corpora, cleaning, fine-tuning data.

    python -m dlms_jax.prepare dataset my_texts/ --out data/mine --sequence-length 256
    python -m dlms_jax.prepare tokenizer my_texts/ --out data/mine.json --vocab-size 8192
    python -m dlms_jax.prepare corpus --name wiki --from data/wiki --out datasets/wiki
    python -m dlms_jax.prepare clean datasets/wiki --out datasets/wiki-clean --near-duplicates 0.8
    python -m dlms_jax.prepare chat dialogues.jsonl --out data/chat --tokenizer-from runs/mine
    python -m dlms_jax.prepare verify data/mine

Each command has --help. Run an interrupted command again to continue where it stopped.
"""

import argparse
import logging

from dlms_jax.errors import UserError, command_line
from dlms_jax.prepare import chat, clean, corpus, dataset, tokenizer, verify

_COMMANDS = (dataset, tokenizer, corpus, clean, chat, verify)


@command_line
def main(argv=None, prog="python -m dlms_jax.prepare"):
    """Runs the command.

    Args:
      argv: its arguments; None: those of the process.
      prog: how it was called, for --help and messages.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in _COMMANDS:
        name = module.__name__.rpartition(".")[2]
        command = commands.add_parser(name, help=module.__doc__, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run, beam=False)
    arguments, rest = parser.parse_known_args(argv)
    if rest and not arguments.beam:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.beam_options = [option for option in rest if option != "--"]
    if arguments.beam:
        # Beam warns about modules that it does not need, and logs the traceback of each error.
        logging.getLogger().setLevel(logging.ERROR)
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    try:
        arguments.run(arguments)
    except OSError as error:  # such as a full disk, or a folder that is not writable
        raise UserError(f"{error.filename or 'the disk'}: {error.strerror or error}") from None


if __name__ == "__main__":
    main()
