"""Convert checkpoints to PyTorch and Hugging Face formats, and back.

    python -m dlms_jax.convert to-torch --checkpoint runs/tiny --out release/tiny
    python -m dlms_jax.convert to-torch --checkpoint runs/tiny-ar --out release/ar --layout qwen3
    python -m dlms_jax.convert from-torch --model release/tiny --out runs/back
    python -m dlms_jax.convert from-torch --model Qwen3-0.6B --out runs/qwen3 --context 1024

docs/release.md describes the layouts, and lists the models that can be imported.
"""

import argparse
import pathlib
import re

from dlms_jax.errors import UserError, command_line

# These are the keys of conversion/formats.py, whose import takes seconds.
_FORMATS = ("native", "qwen3", "a2d", "sdar", "megadlms", "llada", "dream")
_ROLES = ("pad", "bos", "eos", "mask")


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="to-torch|from-torch")
    out = commands.add_parser("to-torch", help="export a checkpoint to a folder for PyTorch")
    add = out.add_argument
    add("--checkpoint", required=True, metavar="DIR", help="a run's workdir, or a checkpoints/STEP")
    add("--out", required=True, type=pathlib.Path, metavar="DIR", help="the new folder")
    add(
        "--layout",
        default="native",
        choices=_FORMATS,
        help="the class whose tensor names and config.json are written (default native: our own "
        "PyTorch files, which hold everything; the others refuse what they cannot hold)",
    )
    add(
        "--ema",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="export the moving average of the weights (default: if the run kept one)",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="type of the weights (default: that of the checkpoint, which is lossless)",
    )
    add("--shard-size", default="5GB", metavar="SIZE", help="largest file (default 5GB)")
    add(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="compare logits and greedy texts with PyTorch, which takes the memory of both models "
        "(default: if torch is installed)",
    )
    add("--licence", default="", metavar="NAME", help="licence of the weights, for the model card")
    add(
        "--chat-template",
        type=pathlib.Path,
        metavar="FILE",
        help="a .jinja file to include (default: the template of the run's data)",
    )

    into = commands.add_parser("from-torch", help="import a folder of safetensors as a run")
    add = into.add_argument
    add(
        "--model",
        required=True,
        type=pathlib.Path,
        metavar="DIR",
        help="our own export, or a downloaded model: Qwen3, Qwen2, Llama, LLaDA, Dream, SDAR, a2d, "
        "MegaDLMs",
    )
    add("--out", required=True, type=pathlib.Path, metavar="DIR", help="the new workdir")
    add(
        "--context",
        type=int,
        metavar="N",
        help="tokens per row (default: that of the model, at most 2048)",
    )
    for role in _ROLES:
        add(
            f"--{role}-token",
            default="",
            metavar="TOKEN",
            help=f"the {role} token (default: the one that the tokenizer's files name, else a new "
            "one)",
        )
    add(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="compare logits with the class of transformers, if it has one (default: if torch is "
        "installed)",
    )
    return parser


def _bytes(text: str) -> int:
    """Returns the number of bytes of a text such as "5GB", "200MB" or "1000"."""
    found = re.fullmatch(r"(\d+)\s*([KMG]?)B?", text.strip(), re.IGNORECASE)
    size = int(found[1]) * 1000 ** " KMG".index((found[2] or " ").upper()) if found else 0
    if not size:
        raise UserError(
            f"--shard-size={text} should be a size such as 5GB, 200MB or a number of bytes"
        )
    return size


@command_line
def main(argv=None, prog="python -m dlms_jax.convert"):
    """Runs the command.

    Args:
      argv: its arguments; None: those of the process.
      prog: how it was called, for --help and messages.
    """
    arguments = _parser(prog).parse_args(argv)
    (_to_torch if arguments.command == "to-torch" else _from_torch)(arguments)


def _to_torch(arguments: argparse.Namespace):
    size = _bytes(arguments.shard_size)

    from dlms_jax.conversion.export import export  # after the checks: importing JAX takes seconds
    from dlms_jax.conversion.export_source import open_export_source
    from dlms_jax.data.chat import load_template

    template = load_template(arguments.chat_template) if arguments.chat_template else ""
    source = open_export_source(arguments.checkpoint, arguments.ema)
    export(
        source,
        arguments.out,
        arguments.layout,
        arguments.dtype,
        size,
        arguments.verify,
        arguments.licence,
        template,
    )
    print(
        f"wrote {source.folder} to {arguments.out} in the layout {arguments.layout}; see its "
        "README.md"
    )


def _from_torch(arguments: argparse.Namespace):
    from dlms_jax.conversion.importing import import_model

    roles = {role: getattr(arguments, f"{role}_token") for role in _ROLES}
    import_model(arguments.model, arguments.out, arguments.context, roles, arguments.verify)


if __name__ == "__main__":
    main()
