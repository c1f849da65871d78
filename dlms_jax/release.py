"""Checkpoint -> release: two archives of the same files, with a demo that runs the model.

    python -m dlms_jax.release --checkpoint runs/tiny --out dist
    python -m dlms_jax.release --checkpoint runs/tiny --out dist --version 1.1 --with-checkpoint

NAME-vN-linux.tar.gz and NAME-vN-linux.zip hold the weights for PyTorch, run_demo.sh and .bat, the
run's settings, log and curves, and SHA256SUMS. docs/release.md tells more.
"""

import argparse
import pathlib
import shutil

from dlms_jax.errors import command_line

# Those that transformers runs, with our files or with its own; convert.py has more.
_LAYOUTS = ("native", "qwen3")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dlms_jax.release",
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
        help="where the archives go (default dist)",
    )
    add("--name", metavar="NAME", help="of the release (default: the workdir's)")
    add("--version", default="1", metavar="N", help="of the release (default 1)")
    add(
        "--with-checkpoint",
        action="store_true",
        help="put the JAX checkpoint and dlms_jax's own source in too",
    )
    add("--licence", default="", metavar="NAME", help="of the weights, for the model card")

    weights = parser.add_argument_group("the weights, as dlms_jax.convert makes them").add_argument
    weights(
        "--layout",
        default="native",
        choices=_LAYOUTS,
        help="whose names and config.json (default native); those that need another program's "
        "classes are for dlms_jax.convert, as the demo could not run them",
    )
    weights(
        "--ema",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="the moving average of the weights (default: where the run kept one)",
    )
    weights("--dtype", choices=("float32", "bfloat16"), help="(default: the checkpoint's)")
    weights(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="compare logits and greedy texts with PyTorch (default: where it is installed)",
    )
    return parser


def _options(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Returns what of a command changes the release and is not a default."""
    said = []
    if arguments.layout != "native":
        said += ["--layout", arguments.layout]
    if arguments.dtype:
        said += ["--dtype", arguments.dtype]
    for name in ("ema", "verify"):
        if (value := getattr(arguments, name)) is not None:
            said.append(f"--{name}" if value else f"--no-{name}")
    if arguments.with_checkpoint:
        said.append("--with-checkpoint")
    if arguments.licence:
        said += ["--licence", arguments.licence]
    return tuple(said)


@command_line
def main(argv=None):
    arguments = _parser().parse_args(argv)

    from rich.console import Console  # after argparse: JAX takes its time

    from dlms_jax.conversion.bundle.archive import write_archives
    from dlms_jax.conversion.bundle.contents import Release, gather
    from dlms_jax.conversion.bundle.publish import publish, unfinished_folder
    from dlms_jax.conversion.export import export
    from dlms_jax.conversion.export_source import open_export_source
    from dlms_jax.conversion.folder import writable
    from dlms_jax.plot import draw_curves
    from dlms_jax.runtime.metric_writer import read_metrics

    console = Console(soft_wrap=True)

    def say(text):
        console.print(text, highlight=False, markup=False)

    source = open_export_source(arguments.checkpoint, arguments.ema)
    workdir = source.folder.parents[1]
    release = Release(
        arguments.name or workdir.name,
        arguments.version,
        _options(arguments),
        arguments.licence,
        arguments.with_checkpoint,
    )
    with unfinished_folder(arguments.out, release.title, say) as folder:
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
        if read_metrics(workdir / "metrics.csv"):
            with writable(files):
                shutil.copyfile(workdir / "metrics.csv", files / "metrics.csv")
            draw_curves([files], files / "curves.png", [release.title])
        else:
            say(f"{workdir / 'metrics.csv'} holds no metrics: the release has no log and no curves")
        archives = write_archives(folder, release.title, gather(release, source, files), console)
        publish(archives, arguments.out, say)


if __name__ == "__main__":
    main()
