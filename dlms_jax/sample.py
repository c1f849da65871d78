"""Checkpoint -> text.

    python -m dlms_jax.sample --checkpoint runs/tiny --prompt "The " --length 128 --steps 64
    python -m dlms_jax.sample --checkpoint runs/tiny --infill "The {} of {12} is"
    python -m dlms_jax.sample --checkpoint runs/tiny --sampler confidence --top-p 0.9

What is left out is as in the checkpoint's config.sampling. On a terminal a diffusion model's canvas
is shown as it fills in. docs/sampling.md tells the samplers apart.
"""

import argparse
import json
import sys

from dlms_jax.config import add_option
from dlms_jax.errors import UserError, command_line

_OPEN = "░"  # stands, on a terminal, for a token that is still masked
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dlms_jax.sample",
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
        help="what the text begins with; several are written in one batch",
    )
    what.add_argument(
        "--infill", metavar="TEXT", help="text with holes: {} of --hole tokens, {12} of 12"
    )
    add_option(parser, "--length", "sampling.length")
    add("--hole", type=int, metavar="N", help="tokens in a hole {} (default 8)")
    add("--class", dest="class_name", metavar="NAME", help="a corpus of the mixture to write like")
    add("--num", type=int, default=1, metavar="N", help="samples to draw (default 1)")
    add_option(
        parser, "--seed", "evaluation.seed", default=0, help="the same seed gives the same text"
    )
    add("--json", action="store_true", help="print one JSON object a sample, on a line each")

    how = parser.add_argument_group("how it is drawn (config.sampling)")
    for name in _SAMPLING[:-1]:
        add_option(how, f"--{name.replace('_', '-')}", f"sampling.{name}")
    add_option(
        how,
        "--no-cache",
        "sampling.cache",
        help="Block diffusion and autoregressive models: reads everything again at each step.",
    )
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
    """Shows the canvases in place as they fill in; returns the last one."""
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
