"""Checkpoint -> text.

    python -m dlms_jax.sample --checkpoint runs/tiny --prompt "The " --length 128 --steps 64
    python -m dlms_jax.sample --checkpoint runs/tiny --infill "The {} of {12} is"

On a terminal a diffusion model's canvas is shown as it fills in.
"""

import argparse
import json
import sys

from dlms_jax.errors import UserError, command_line

_OPEN = "░"  # stands, on a terminal, for a token that is still masked


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dlms_jax.sample",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="DIR", help="a run's workdir, or a checkpoints/STEP")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--prompt", default="", metavar="TEXT", help="what the text begins with")
    what.add_argument(
        "--infill", metavar="TEXT", help="text with holes: {} of --hole tokens, {12} of 12"
    )
    add("--length", type=int, metavar="N", help="tokens to write after the prompt")
    add("--hole", type=int, metavar="N", help="tokens in a hole {} (default 8)")
    add("--steps", type=int, metavar="N", help="of the reverse process: more is slower and better")
    add("--temperature", type=float, metavar="T", help="1: the model's own distribution; 0: greedy")
    add("--guidance", type=float, metavar="W", help="how much more to follow the prompt; 0: none")
    add("--num", type=int, default=1, metavar="N", help="samples to draw (default 1)")
    add("--seed", type=int, default=0, metavar="N", help="the same seed gives the same text")
    add("--json", action="store_true", help="print one JSON object a sample, on a line each")
    return parser


@command_line
def main(argv=None):
    arguments = _parser().parse_args(argv)
    if arguments.infill is not None and arguments.length is not None:
        raise UserError("--length goes with --prompt; of holes, --hole or {12} gives the length")
    if arguments.infill is None and arguments.hole is not None:
        raise UserError("--hole goes with --infill; --length is for what follows a prompt")

    from dlms_jax.model import DiffusionLM  # after the checks: JAX takes its time
    from dlms_jax.sampling import parse_infill

    lm = DiffusionLM.load_checkpoint(arguments.checkpoint)
    if arguments.infill is not None:
        pieces = parse_infill(arguments.infill, 8 if arguments.hole is None else arguments.hole)
    else:
        pieces = lm.after(arguments.prompt, arguments.length)
    live = sys.stdout.isatty() and not arguments.json
    canvases = lm.stream(
        pieces, arguments.num, arguments.steps, arguments.guidance, arguments.temperature,
        arguments.seed, every=1 if live else None,
    )  # fmt: skip
    canvas = _show_live(lm, canvases) if live else list(canvases)[-1]
    if arguments.json:
        for text in lm.texts(canvas):
            print(json.dumps({"text": text, "seed": arguments.seed, **_asked(arguments)}))
    elif not live:
        print("\n---\n".join(lm.texts(canvas)))


def _asked(arguments) -> dict:
    if arguments.infill is not None:
        return {"infill": arguments.infill}
    return {"prompt": arguments.prompt}


def _show_live(lm, canvases):
    """Shows the canvases in place as they fill in; returns the last one."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from dlms_jax.training.report import printable

    with Live(console=Console(), auto_refresh=False, vertical_overflow="visible") as screen:
        for canvas in canvases:
            texts = lm.texts(canvas, unfilled=_OPEN)
            screen.update(Text("\n---\n".join(map(printable, texts))), refresh=True)
    return canvas


if __name__ == "__main__":
    main()
