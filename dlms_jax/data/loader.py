"""Which rows form the batch of which step: a pure function of (seed, step)."""

from collections.abc import Iterator

import grain
import numpy as np

from dlms_jax.data.packing import Rows


class TrainBatches:
    """The batches of a run, by step, of which this process reads its own rows only.

    Each epoch is another shuffle of all rows, and a batch may straddle two epochs. There is no
    state: the batch of step k is found without the batches before it, so a resume, on whatever
    number of processes, goes on with the batches that would have come.
    """

    def __init__(self, rows: Rows, batch_size: int, seed: int, local_rows: np.ndarray):
        """local_rows: which rows of each global batch, 0..batch_size-1, this process reads."""
        self._rows = rows
        self._batch_size = batch_size
        self._local_rows = local_rows
        self._order = grain.MapDataset.source(range(rows.number)).seed(seed).shuffle().repeat()

    def rows_of(self, step: int) -> np.ndarray:
        """Returns the indices, among all training rows, of the whole global batch of a step."""
        return self._indices(step, np.arange(self._batch_size))

    def epochs(self, step: int) -> float:
        """Returns how often the training rows have been seen when `step` steps are done."""
        return step * self._batch_size / self._rows.number

    def __getitem__(self, step: int) -> Rows:
        """Returns this process's rows of the batch of a step."""
        return self._rows.take(self._indices(step, self._local_rows))

    def iterate(self, first_step: int, prefetch: int) -> Iterator[Rows]:
        """Yields the batches of first_step, first_step + 1, ..., prepared ahead in threads."""
        steps = grain.MapDataset.range(first_step, np.iinfo(np.int32).max).map(self.__getitem__)
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)
        return iter(steps.to_iter_dataset(options))

    def _indices(self, step, within_batch):
        return np.array([self._order[int(step * self._batch_size + i)] for i in within_batch])


def eval_batches(
    rows: Rows, batch_size: int, pad_id: int, local_rows: np.ndarray
) -> Iterator[Rows]:
    """Yields this process's part of all rows in order; empty rows fill up the last batch."""
    for start in range(0, rows.number, batch_size):
        block = rows.take(slice(start, start + batch_size))
        short = ((0, batch_size - block.number), (0, 0))
        block = Rows(
            np.pad(block.tokens_RxL, short, constant_values=pad_id),
            np.pad(block.segments_RxL, short),
            np.pad(block.positions_RxL, short),
        )
        yield block.take(local_rows)
