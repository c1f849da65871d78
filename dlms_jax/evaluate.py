"""Checkpoint -> numbers: the likelihood bound of a text.

    python -m dlms_jax.evaluate --checkpoint runs/tiny
    python -m dlms_jax.evaluate --checkpoint runs/tiny --data my_text.txt --samples 32

The bound stands beside its standard error, the unigram entropy, and how it was estimated.
"""

import argparse
import dataclasses
import json

from dlms_jax.errors import UserError, command_line


@command_line
def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m dlms_jax.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="DIR", help="a run's workdir, or a checkpoints/STEP")
    add(
        "--data",
        metavar="CORPUS",
        help="a corpus, text file or folder (default, and for the corpus that was trained on: its "
        "held-out documents)",
    )
    add("--samples", type=int, metavar="N", help="Monte-Carlo strata a document (default: config)")
    add("--seed", type=int, metavar="N", help="of the Monte-Carlo draw (default: the config's)")
    add("--rows", type=int, default=0, metavar="N", help="only the first N rows (default: all)")
    add("--json", action="store_true", help="print the report as one JSON object")
    arguments = parser.parse_args(argv)
    if arguments.samples is not None and arguments.samples < 1:
        raise UserError(f"--samples={arguments.samples} should be at least 1")
    if arguments.rows < 0:
        raise UserError(f"--rows={arguments.rows} should be at least 0 (0: all)")

    from dlms_jax.model import DiffusionLM  # after the checks: JAX takes its time

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
        f"the model is {bound.below_unigram:.1%} below",
        "best possible": f"{best:.4f} bits/byte, the synthetic language's own" if best else "",
        "protocol": bound.protocol,
    }.items():
        if value:
            print(f"{name:<16}{value}")


if __name__ == "__main__":
    main()
