"""Reads metrics.csv, which a run writes to its workdir."""

import csv
import pathlib

COLUMNS = (
    "step",
    "loss",
    "bound",
    "bits_per_byte",
    "stderr",
    "learning_rate",
    "grad_norm",
    "param_norm",
    "skipped",
    "tokens",
    "epoch",
    "tokens_per_second",
    "flops_per_second",
    "mfu",
    "seconds",
)


def read_metrics(path: pathlib.Path) -> list[dict[str, str]]:
    """Returns the rows of a metrics.csv as text; [] if there is no file.

    A metric that was not logged is "". An incomplete last line, as a killed run leaves it, is
    dropped.
    """
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        rows = list(csv.DictReader(line for line in file if line.endswith("\n")))
    empty = dict.fromkeys(COLUMNS, "")  # files of other programs have other columns
    return [empty | row for row in rows if row.get("step", "").isdigit()]
