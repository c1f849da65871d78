"""Evaluate a checkpoint: the likelihood bound of a text.

    python -m dlms_jax.evaluate --checkpoint runs/tiny
    python -m dlms_jax.evaluate --checkpoint runs/tiny --data my_text.txt --samples 32

The output has the bound, its standard error, the unigram entropy and how they were computed. The
defaults of the options are the checkpoint's config.evaluation.
"""

import argparse
import dataclasses
import json

from dlms_jax.config import add_option
from dlms_jax.errors import command_line


@command_line
def main(argv=None, prog="python -m dlms_jax.evaluate"):
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
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="DIR", help="a run's workdir, or a checkpoints/STEP")
    add(
        "--data",
        metavar="CORPUS",
        help="a corpus, text file or folder (default: the held-out documents of the training "
        "corpus)",
    )
    add_option(parser, "--samples", "evaluation.samples")
    add_option(parser, "--seed", "evaluation.seed")
    add_option(
        parser, "--rows", "evaluation.rows", default=0, help="evaluate the first N rows; 0: all"
    )
    add("--json", action="store_true", help="print the report as one JSON object")
    arguments = parser.parse_args(argv)

    from dlms_jax.model import DiffusionLM  # after the checks: importing JAX takes seconds

    lm = DiffusionLM.load_checkpoint(arguments.checkpoint)
    split = lm.load_split(arguments.data)
    bound = lm.evaluate(split, arguments.samples, arguments.seed, arguments.rows)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(bound) | {"data": split.fingerprint}))
        return
    data, best = split.fingerprint, lm.best_possible(split)
    for name, value in {
        "checkpoint": lm.metadata["path"],
        "text": f"{split.name}: {data['documents']} documents, {data['bytes']} bytes, "
        f"sha256 {data['sha256'][:16]}",
        "scored": f"{bound.tokens} tokens, {bound.bytes} bytes, in {bound.rows} rows",
        "nats/token": f"{bound.nats_per_token:.4f}",
        "bits/byte": f"{bound.bits_per_byte:.4f} +- {bound.stderr:.4f} (standard error over rows)",
        "perplexity": f"{bound.perplexity:.3f} per token",
        "unigram entropy": f"{bound.unigram_nats:.4f} nats/token; "
        f"the model is {bound.beside_unigram}",
        "best possible": f"{best:.4f} bits/byte for the synthetic language" if best else "",
        "protocol": bound.protocol,
    }.items():
        if value:
            print(f"{name:<16}{value}")


if __name__ == "__main__":
    main()
