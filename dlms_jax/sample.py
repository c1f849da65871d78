"""Sample text from a checkpoint.

    python -m dlms_jax.sample --checkpoint runs/tiny --prompt "The " --length 128 --steps 64
    python -m dlms_jax.sample --checkpoint runs/tiny --infill "The {} of {12} is"
    python -m dlms_jax.sample --checkpoint runs/tiny --sampler confidence --top-p 0.9

The defaults of the options are the checkpoint's config.sampling. On a terminal, the text of a
diffusion model is shown as it fills in. docs/sampling.md describes the samplers.
"""

import argparse
import json
import sys

from dlms_jax.config import add_option
from dlms_jax.errors import UserError, command_line

_OPEN = "░"  # shown on a terminal for a token that is still masked
_SAMPLING = (
    "sampler",
    "steps",
    "timestep_spacing",
    "temperature",
    "top_k",
    "top_p",
    "guidance",
    "eta",
    "corrector_steps",
    "clamp",
    "cache",
)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="DIR", help="a run's workdir, or a checkpoints/STEP")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="beginning of the text; can be repeated, for texts in one batch",
    )
    what.add_argument(
        "--infill", metavar="TEXT", help="text with holes: {} of --hole tokens, {12} of 12 tokens"
    )
    add_option(parser, "--length", "sampling.length")
    add("--hole", type=int, metavar="N", help="tokens in a hole {} (default 8)")
    add(
        "--class",
        dest="class_name",
        metavar="NAME",
        help="a corpus of the mixture, whose style the samples take",
    )
    add("--num", type=int, default=1, metavar="N", help="samples to draw (default 1)")
    add_option(
        parser, "--seed", "evaluation.seed", default=0, help="the same seed gives the same text"
    )
    add("--json", action="store_true", help="print one JSON object per line for each sample")

    how = parser.add_argument_group("sampling (config.sampling)")
    for name in _SAMPLING[:-1]:
        add_option(how, f"--{name.replace('_', '-')}", f"sampling.{name}")
    add_option(
        how,
        "--no-cache",
        "sampling.cache",
        help="Block diffusion and autoregressive models: read all tokens again in each step.",
    )
    return parser


@command_line
def main(argv=None, prog="python -m dlms_jax.sample"):
    """Runs the command.

    Args:
      argv: its arguments; None: those of the process.
      prog: how it was called, for --help and messages.
    """
    arguments = _parser(prog).parse_args(argv)
    if arguments.infill is not None and arguments.length is not None:
        raise UserError("--length needs --prompt; for holes, use --hole or {12}")
    if arguments.infill is None and arguments.hole is not None:
        raise UserError("--hole needs --infill; for text after a prompt, use --length")

    from dlms_jax.model import DiffusionLM  # after the checks: importing JAX takes seconds
    from dlms_jax.sampling import parse_infill

    lm = DiffusionLM.load_checkpoint(arguments.checkpoint)
    if arguments.infill is not None:
        begun = [{"infill": arguments.infill}]
        rows = [parse_infill(arguments.infill, 8 if arguments.hole is None else arguments.hole)]
    else:
        begun = [{"prompt": prompt} for prompt in arguments.prompt or [""]]
        rows = [lm.after(each["prompt"], arguments.length) for each in begun]
    live = sys.stdout.isatty() and not arguments.json
    canvases = lm.stream(
        rows,
        arguments.num,
        arguments.seed,
        every=1 if live else None,
        class_name=arguments.class_name,
        **{name: getattr(arguments, name) for name in _SAMPLING},
    )
    canvas = _show_live(lm, canvases) if live else list(canvases)[-1]
    if arguments.json:
        for number, text in enumerate(lm.texts(canvas)):
            of = begun[number // arguments.num]
            print(json.dumps({"text": text, "seed": arguments.seed, **of}))
    elif not live:
        print("\n---\n".join(lm.texts(canvas)))


def _show_live(lm, canvases):
    """Shows the canvases in place, and returns the last one."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from dlms_jax.terminal import printable

    with Live(console=Console(), auto_refresh=False, vertical_overflow="visible") as screen:
        for canvas in canvases:
            texts = lm.texts(canvas, unfilled=_OPEN)
            screen.update(Text("\n---\n".join(map(printable, texts))), refresh=True)
    return canvas


if __name__ == "__main__":
    main()
