"""Writes metrics to WORKDIR/metrics.csv and to TensorBoard.

The methods have the names of clu.metric_writers, which needs TensorFlow.
"""

from collections.abc import Mapping, Sequence
import csv
import pathlib

import jax
from tensorboardX import SummaryWriter

from dlms_jax.checkpoints.metrics import COLUMNS, read_metrics
from dlms_jax.files import written_whole


class MetricWriter:
    """Appends rows after `step`, the last step done. Later rows, left by a run that was killed
    after its last checkpoint, are dropped: no step appears twice."""

    def __init__(self, workdir: pathlib.Path, step: int, more_columns: Sequence[str] = ()):
        self._workdir, self._columns = workdir, (*COLUMNS, *more_columns)
        self._path = workdir / "metrics.csv"
        self._open(step)

    def _open(self, step):
        kept = [row for row in read_metrics(self._path) if int(row["step"]) <= step]
        with written_whole(self._path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)
        self._file = open(self._path, "a", newline="")  # noqa: SIM115 (close() does)
        self._csv = csv.DictWriter(self._file, self._columns, extrasaction="ignore")
        self._board = SummaryWriter(str(self._workdir / "tensorboard"), purge_step=step + 1)

    def go_back(self, step: int):
        """Continues after an earlier step: later rows are dropped."""
        self.close()
        self._open(step)

    def write_scalars(self, step: int, scalars: Mapping[str, float]):
        """Writes one row; scalars without a column go to TensorBoard only."""
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
    """The writer of all processes but the first: it writes nothing."""

    def __getattr__(self, method):
        return lambda *arguments: None


def make_writer(
    workdir: pathlib.Path, step: int, more_columns: Sequence[str] = ()
) -> MetricWriter | NoWriter:
    """Returns this process's writer."""
    return NoWriter() if jax.process_index() else MetricWriter(workdir, step, more_columns)
