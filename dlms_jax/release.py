"""Make a release of a checkpoint: two archives of the same files, with a demo.

    python -m dlms_jax.release --checkpoint runs/tiny --out dist
    python -m dlms_jax.release --checkpoint runs/tiny --out dist --version 1.1 --with-checkpoint

NAME-vN-linux.tar.gz and NAME-vN-linux.zip hold the weights for PyTorch, run_demo.sh and .bat, the
settings, log and curves of the run, and SHA256SUMS. docs/release.md describes them.
"""

import argparse
import pathlib
import shutil

from dlms_jax.errors import command_line

# The formats that transformers can load, with or without our files; convert.py has more.
_FORMATS = ("native", "qwen3")


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="DIR", help="a run's workdir, or a checkpoints/STEP")
    add(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("dist"),
        metavar="DIR",
        help="folder for the archives (default dist)",
    )
    add("--name", metavar="NAME", help="name of the release (default: that of the workdir)")
    add("--version", default="1", metavar="N", help="version of the release (default 1)")
    add(
        "--with-checkpoint",
        action="store_true",
        help="include the JAX checkpoint and the source of dlms_jax",
    )
    add("--licence", default="", metavar="NAME", help="licence of the weights, for the model card")

    weights = parser.add_argument_group("the weights, as dlms_jax.convert writes them").add_argument
    weights(
        "--layout",
        default="native",
        choices=_FORMATS,
        help="the class whose tensor names and config.json are written (default native); "
        "dlms_jax.convert has more formats, which the demo cannot run",
    )
    weights(
        "--ema",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="export the moving average of the weights (default: if the run kept one)",
    )
    weights(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="type of the weights (default: that of the checkpoint)",
    )
    weights(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="compare logits and greedy texts with PyTorch (default: if torch is installed)",
    )
    return parser


def _options(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Returns the options that affect the release and are not defaults."""
    options = []
    if arguments.layout != "native":
        options += ["--layout", arguments.layout]
    if arguments.dtype:
        options += ["--dtype", arguments.dtype]
    for name in ("ema", "verify"):
        if (value := getattr(arguments, name)) is not None:
            options.append(f"--{name}" if value else f"--no-{name}")
    if arguments.with_checkpoint:
        options.append("--with-checkpoint")
    if arguments.licence:
        options += ["--licence", arguments.licence]
    return tuple(options)


@command_line
def main(argv=None, prog="python -m dlms_jax.release"):
    """Runs the command.

    Args:
      argv: its arguments; None: those of the process.
      prog: how it was called, for --help and messages.
    """
    arguments = _parser(prog).parse_args(argv)

    from rich.console import Console  # after argparse: importing JAX takes seconds

    from dlms_jax.checkpoints.metrics import read_metrics
    from dlms_jax.conversion.bundle.archive import write_archives
    from dlms_jax.conversion.bundle.contents import Release, gather
    from dlms_jax.conversion.bundle.publish import publish
    from dlms_jax.conversion.export import export
    from dlms_jax.conversion.export_source import open_export_source
    from dlms_jax.conversion.folder import unfinished_folder, writable
    from dlms_jax.plot import draw_curves
    from dlms_jax.terminal import say

    console = Console(soft_wrap=True)
    source = open_export_source(arguments.checkpoint, arguments.ema)
    workdir = source.folder.parents[1]
    release = Release(
        arguments.name or workdir.name,
        arguments.version,
        _options(arguments),
        arguments.licence,
        arguments.with_checkpoint,
    )
    with unfinished_folder(arguments.out / release.title, console) as folder:
        files = folder / release.title
        export(
            source,
            files / "model",
            arguments.layout,
            arguments.dtype,
            verify=arguments.verify,
            licence=arguments.licence,
            name=release.title,
            console=console,
        )
        if any(row["tokens"] for row in read_metrics(workdir / "metrics.csv")):
            with writable(files):
                shutil.copyfile(workdir / "metrics.csv", files / "metrics.csv")
            draw_curves([files], files / "curves.png", [release.title])
        else:
            say(console, f"{workdir / 'metrics.csv'} has no metrics; skipping the log and curves")
        archives = write_archives(folder, release.title, gather(release, source, files), console)
        publish(archives, arguments.out, console)


if __name__ == "__main__":
    main()
