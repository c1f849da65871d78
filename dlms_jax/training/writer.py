"""Metrics to WORKDIR/metrics.csv and to TensorBoard, with the method names of clu.metric_writers
(which cannot be imported without TensorFlow)."""

from collections.abc import Mapping, Sequence
import csv
import os
import pathlib

import jax
from tensorboardX import SummaryWriter

COLUMNS = (
    "step", "loss", "bound", "bits_per_byte", "stderr", "learning_rate", "grad_norm", "param_norm",
    "skipped", "tokens", "epoch", "tokens_per_second", "flops_per_second", "mfu", "seconds",
)  # fmt: skip


class MetricWriter:
    """Appends after `step`, the last step already done; rows beyond it, from a run that was killed
    after its last checkpoint, are dropped, so that no step stands twice."""

    def __init__(self, workdir: pathlib.Path, step: int, more_columns: Sequence[str] = ()):
        self._workdir, self._columns = workdir, (*COLUMNS, *more_columns)
        self._path = workdir / "metrics.csv"
        self._open(step)

    def _open(self, step):
        kept = [row for row in read_metrics(self._path) if int(row["step"]) <= step]
        temporary = self._path.with_suffix(".tmp")
        with open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)
        os.replace(temporary, self._path)
        self._file = open(self._path, "a", newline="")  # noqa: SIM115 (close() does)
        self._csv = csv.DictWriter(self._file, self._columns, extrasaction="ignore")
        self._board = SummaryWriter(str(self._workdir / "tensorboard"), purge_step=step + 1)

    def go_back(self, step: int):
        """Goes on after an earlier step: the rows beyond it are dropped."""
        self.close()
        self._open(step)

    def write_scalars(self, step: int, scalars: Mapping[str, float]):
        """Writes one row; scalars that have no column go to TensorBoard alone."""
        self._csv.writerow({"step": step, **{k: f"{v:.7g}" for k, v in scalars.items()}})
        self._file.flush()
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def write_texts(self, step: int, texts: Mapping[str, str]):
        for name, text in texts.items():
            self._board.add_text(name, f"```\n{text}\n```", step)

    def write_hparams(self, hparams: Mapping[str, object]):
        table = "\n".join(f"|{name}|{value}|" for name, value in hparams.items())
        self._board.add_text("config", f"|setting|value|\n|-|-|\n{table}")

    def close(self):
        self._file.close()
        self._board.close()


class NoWriter:
    """What all processes but the first write to: nothing."""

    def __getattr__(self, method):
        return lambda *arguments: None


def make_writer(
    workdir: pathlib.Path, step: int, more_columns: Sequence[str] = ()
) -> MetricWriter | NoWriter:
    """Returns this process's writer."""
    return NoWriter() if jax.process_index() else MetricWriter(workdir, step, more_columns)


def read_metrics(path: pathlib.Path) -> list[dict[str, str]]:
    """Returns the rows of a metrics.csv as written ("" where a metric was not logged); none where
    there is no file. A last line that a killed run left incomplete is dropped."""
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        rows = list(csv.DictReader(line for line in file if line.endswith("\n")))
    empty = dict.fromkeys(COLUMNS, "")  # a file of another program has other columns
    return [empty | row for row in rows if row.get("step", "").isdigit()]
