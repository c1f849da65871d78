"""Reads metrics.csv, which a run writes to its workdir."""

import csv
import pathlib
import re

from dlms_jax.errors import UserError

_STEP = re.compile("[0-9]{1,18}")
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

    Raises:
      UserError: the file cannot be read, or a value in a column of COLUMNS is not a number.
    """
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(line for line in file if line.endswith("\n")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({reason}); repair or remove it") from None
    empty = dict.fromkeys(COLUMNS, "")  # files of other programs have other columns
    history = [empty | row for row in rows if _STEP.fullmatch(row.get("step") or "")]
    for row in history:
        for column in COLUMNS:
            row[column] = row[column] or ""  # None: the line is too short
            if row[column] and not _is_number(row[column]):
                raise UserError(
                    f"{path}: {column}={row[column][:40]!r} at step {row['step']} is not a number; "
                    "correct or remove it"
                )
    return history


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
