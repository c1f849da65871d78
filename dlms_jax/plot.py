"""Draw the metrics of one run, or of several runs in the same axes, as a PNG.

python -m dlms_jax.plot runs/tiny
python -m dlms_jax.plot runs/tiny runs/tiny-ar --out comparison.png
"""

import argparse
from collections.abc import Sequence
import pathlib

from dlms_jax.checkpoints.metrics import read_metrics
from dlms_jax.errors import UserError, command_line
from dlms_jax.files import written_whole

_PANELS = (
    ("loss", "training loss (nats/token)"),
    ("bound", "held-out bound (nats/token)"),
    ("learning_rate", "learning rate"),
    ("grad_norm", "gradient norm"),
)


def draw_curves(
    workdirs: Sequence[pathlib.Path], out: pathlib.Path | None = None, names: Sequence[str] = ()
) -> pathlib.Path:
    """Draws the metrics of runs over tokens seen, and returns the path of the PNG.

    Args:
      workdirs: the workdir of each run.
      out: the PNG. None: curves.png in the first workdir.
      names: the name of each run in the legend. (): the workdirs.

    Raises:
      UserError: a run has no metrics, or the PNG cannot be written.
    """
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2).ravel()
    for workdir, name in zip(workdirs, names or map(str, workdirs), strict=True):
        history = [r for r in read_metrics(workdir / "metrics.csv") if r["tokens"]]
        if not history:
            raise UserError(f"{workdir / 'metrics.csv'} has no metrics; give the workdir of a run")
        for (column, title), axis in zip(_PANELS, axes, strict=True):
            points = [(float(r["tokens"]), float(r[column])) for r in history if r[column]]
            marker = "o" if column == "bound" else ""
            axis.plot(
                *zip(*points, strict=True) if points else ([], []),
                marker=marker,
                markersize=3,
                linewidth=1,
                label=name,
            )
            axis.set_title(title)
            axis.set_xlabel("tokens seen")
            axis.grid(alpha=0.3)
    figure.axes[1].legend()
    out = out or workdirs[0] / "curves.png"
    try:
        with written_whole(out) as temporary:
            figure.savefig(temporary, format="png", dpi=110)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None
    return out


@command_line
def main(argv=None, prog="python -m dlms_jax.plot"):
    """Runs the command.

    Args:
      argv: its arguments; None: those of the process.
      prog: how it was called, for --help and messages.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Draws the loss, held-out bound, learning rate and gradient norm of runs.",
    )
    parser.add_argument("workdirs", nargs="+", type=pathlib.Path, help="the workdir of each run")
    parser.add_argument(
        "--out", type=pathlib.Path, help="the PNG (default: curves.png in the first workdir)"
    )
    arguments = parser.parse_args(argv)
    print(draw_curves(arguments.workdirs, arguments.out))


if __name__ == "__main__":
    main()
