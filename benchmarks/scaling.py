"""Measure how a train step scales with length, width, vocabulary and batch, as PNG and CSV.

    python benchmarks/scaling.py --out=runs/scaling
    python benchmarks/scaling.py --out=runs/scaling --draw   # redraw the PNG from the CSV

One quantity changes at a time around one point. All steps of a panel run in turns; memory is that
of the compiled program (see train_step.py). The exponent of a line is that of the power law through
the upper half of its points.
"""

import argparse
import csv
import os
import pathlib

import numpy as np

AROUND = {"width": 256, "layers": 4, "vocabulary": 8192, "length": 256, "batch": 8}
AXES = {
    "length": (64, 128, 256, 512, 1024),
    "width": (64, 128, 256, 512),
    "vocabulary": (1024, 4096, 8192, 16_384, 65_536),
    "batch": (2, 4, 8, 16, 32),
}
LABELS = {
    "length": "length (tokens of a row)",
    "width": "width",
    "vocabulary": "vocabulary (tokens)",
    "batch": "batch (rows)",
}
STEPS = ("dlms_jax", "full logits", "newcomer")
COLUMNS = ("axis", "value", "step", "seconds", "bytes")


def main(argv=None):
    """Runs the benchmark with command-line arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for PNG and CSV")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--draw", action="store_true", help="only redraw the PNG from the CSV")
    arguments = parser.parse_args(argv)
    table = arguments.out / "scaling.csv"
    if not arguments.draw:
        arguments.out.mkdir(parents=True, exist_ok=True)
        write(table, arguments.repeats)
    with table.open(newline="") as file:
        title, rows = file.readline().removeprefix("# ").strip(), list(csv.DictReader(file))
    print(draw(rows, title, arguments.out / "scaling.png"))


def write(path, repeats):
    """Measures all points and writes the file atomically."""
    from dlms_jax.studies.tables import hardware

    at = ", ".join(f"{name} {value}" for name, value in AROUND.items())
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", newline="") as file:
        file.write(f"# around {at}; float32, {hardware()}\n")
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for axis, values in AXES.items():
            for (value, step), (seconds, memory) in measure(axis, values, repeats).items():
                writer.writerow((axis, value, step, f"{seconds:.4f}", memory))
                print(
                    f"{axis} {value}, {step}: {seconds:.3f} s, {memory / 2**20:.0f} MiB", flush=True
                )
    os.replace(temporary, path)


def measure(axis, values, repeats) -> dict[tuple[int, str], tuple[float, int]]:
    """Returns {(value, step): (seconds, bytes of the program)} for an axis."""
    from steps import prepare, settings
    from timing import seconds_in_turns

    from dlms_jax.config import from_dict

    steps = {
        (value, name): prepare(from_dict(settings(**AROUND | {axis: value})), name)
        for value in values
        for name in STEPS
    }
    seconds = seconds_in_turns({key: step.take for key, step in steps.items()}, repeats)
    return {key: (seconds[key], step.memory) for key, step in steps.items()}


def exponent(x, y) -> float:
    """Returns b of the power law y = a x^b through the upper half of the points."""
    upper = len(x) // 2
    return np.polyfit(np.log(x[upper:]), np.log(y[upper:]), 1)[0]


def draw(rows, title, path) -> pathlib.Path:
    """Draws seconds (top) and memory (bottom) over each axis, and returns the path."""
    import matplotlib.figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure = matplotlib.figure.Figure(figsize=(13, 6.6), layout="constrained")
    panels = figure.subplots(2, len(AXES), sharex="col", sharey="row")
    quantities = (
        ("seconds", 1, "seconds per step"),
        ("bytes", 2**20, "memory of the program (MiB)"),
    )
    for (column, unit, label), line in zip(quantities, panels, strict=True):
        line[0].set_ylabel(label)
        for axis, panel in zip(AXES, line, strict=True):
            for step, marker in zip(STEPS, "osD", strict=True):
                points = [r for r in rows if (r["axis"], r["step"]) == (axis, step)]
                x = np.array([float(r["value"]) for r in points])
                y = np.array([float(r[column]) for r in points]) / unit
                panel.loglog(
                    x, y, marker=marker, markersize=4, linewidth=1.2, label=f"{exponent(x, y):.2f}"
                )
            panel.set_xticks(AXES[axis], [short(value) for value in AXES[axis]])
            panel.xaxis.set_minor_locator(NullLocator())
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_minor_locator(NullLocator())
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panel.axvline(AROUND[axis], color="0.6", linewidth=0.8, linestyle=":", zorder=0)
            panel.grid(alpha=0.3)
            panel.legend(title="exponent", fontsize=8, title_fontsize=8, loc="upper left")
    for axis, panel in zip(AXES, panels[-1], strict=True):
        panel.set_xlabel(LABELS[axis])
    figure.legend(
        panels[0, 0].lines[: len(STEPS)],
        STEPS,
        ncols=len(STEPS),
        loc="outside lower center",
        frameon=False,
    )
    figure.suptitle(f"The train step {title}", fontsize=11)
    temporary = path.with_name(path.name + ".tmp")
    figure.savefig(temporary, format="png", dpi=150)
    os.replace(temporary, path)
    return path


def short(value: int) -> str:
    """Returns a number as a tick label, such as "8k"."""
    return f"{value // 1024}k" if value >= 1024 else str(value)


if __name__ == "__main__":
    main()
