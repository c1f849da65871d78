"""Which rows form the batch of each step: a pure function of (seed, step)."""

from collections.abc import Iterator

from absl import flags
import grain
import numpy as np

from dlms_jax.config import Config
from dlms_jax.data.checks import TOKEN_BYTES, check_memory
from dlms_jax.data.feed.dataset import Dataset
from dlms_jax.data.feed.order import Interleave, shuffled
from dlms_jax.data.feed.subset import cut_rows, gather
from dlms_jax.data.packing import Rows

_WORKER = 1 << 28  # bytes of memory of a process that prepares batches


class TrainBatches:
    """The batches of a run, by step. This process reads only its own rows of each.

    Each epoch of a corpus is another shuffle of its rows, and a batch may hold rows of two epochs.
    There is no state: the batch of step k does not depend on the batches before it. So a resumed
    run, on any number of processes, continues with the same batches.
    """

    def __init__(
        self,
        stores: list,
        weights: list[float],
        batch_size: int,
        seed: int,
        local_rows: np.ndarray,
        pad_id: int,
        short_rows: float = 0.0,
    ):
        """Makes the batches.

        Args:
          stores: the packed rows of each corpus.
          weights: rows are taken from the corpora in these proportions.
          batch_size: rows in a global batch.
          seed: the seed of the shuffles.
          local_rows: which rows of each global batch, 0..batch_size-1, this process reads.
          pad_id: the padding token.
          short_rows: the probability that a row is cut to a length uniform on 2..L.
        """
        self._stores = stores
        self._turns = Interleave(weights)
        self._batch_size, self._seed = batch_size, seed
        self._local_rows, self._pad_id, self._short_rows = local_rows, pad_id, short_rows

    def rows_of(self, step: int) -> list[tuple[int, int]]:
        """Returns (corpus, row) of each row of a step's global batch."""
        corpus_B, row_B = self._rows_at(self._indices(step, np.arange(self._batch_size)))
        return list(zip(corpus_B.tolist(), row_B.tolist(), strict=True))

    def epochs(self, step: int) -> list[float]:
        """Returns how often the rows of each corpus have been seen after `step` steps."""
        taken = self._turns.taken(step * self._batch_size)
        return [int(n) / store.number for n, store in zip(taken, self._stores, strict=True)]

    def __getitem__(self, step: int) -> Rows:
        """Returns this process's rows of a step's batch."""
        indices = self._indices(step, self._local_rows)
        rows = gather(self._stores, *self._rows_at(indices))
        if self._short_rows:
            rows = cut_rows(rows, self._columns(indices, rows.length), self._pad_id)
        return rows

    def iterate(self, first_step: int, prefetch: int, workers: int = 0) -> Iterator[Rows]:
        """Yields the batches of first_step, first_step + 1, ...

        Args:
          first_step: the step of the first batch.
          prefetch: the number of batches that are prepared ahead.
          workers: the number of processes that prepare them; 0: a thread. The batches are the same.
        """
        steps = grain.MapDataset.range(first_step, np.iinfo(np.int32).max).map(self.__getitem__)
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)
        batches = steps.to_iter_dataset(options)
        if workers:
            if not flags.FLAGS.is_parsed():  # grain's workers ask for flags that absl would parse
                flags.FLAGS.mark_as_parsed()
            batches = batches.mp_prefetch(grain.MultiprocessingOptions(workers, prefetch))
        return iter(batches)

    def _indices(self, step, within_batch):
        return int(step) * self._batch_size + np.asarray(within_batch, np.int64)

    def _rows_at(self, indices):
        """Returns the corpus and its row for each index of the run's sequence of all rows."""
        corpus_R = self._turns.corpus(indices)
        row_R = self._turns.taken(indices)[np.arange(len(indices)), corpus_R]
        for corpus, store in enumerate(self._stores):
            epoch_R, within_R = np.divmod(row_R, store.number)
            for epoch in np.unique(epoch_R[corpus_R == corpus]):
                here = (corpus_R == corpus) & (epoch_R == epoch)
                key = (self._seed, corpus, int(epoch))
                row_R[here] = shuffled(within_R[here], store.number, key)
        return corpus_R, row_R

    def _columns(self, indices, length):
        """Returns how many columns of each row are kept."""
        columns_R = np.full(len(indices), length)
        for place, index in enumerate(indices):
            draw = np.random.Generator(np.random.Philox(key=[self._seed, int(index)]))
            if draw.random() < self._short_rows:
                columns_R[place] = draw.integers(2, length, endpoint=True)
        return columns_R


def train_batches(dataset: Dataset, config: Config, local_rows: np.ndarray) -> TrainBatches:
    """Returns the batches of a config's run on its dataset; this process reads `local_rows`.

    Raises:
      UserError: the batches that are prepared ahead do not fit in memory.
    """
    training, data = config.training, config.data
    row = dataset.train[0].rows.length * TOKEN_BYTES
    check_memory(
        max(data.workers, 1) * data.prefetch * len(local_rows) * row + data.workers * _WORKER,
        f"what config.data.prefetch={data.prefetch} and config.data.workers={data.workers} "
        "prepare ahead",
    )
    return TrainBatches(
        [split.rows for split in dataset.train],
        dataset.weights,
        training.batch_size,
        training.seed,
        local_rows,
        dataset.tokenizer.pad_id,
        config.data.random_length_probability,
    )


def eval_batches(
    rows, number: int, batch_size: int, pad_id: int, local_rows: np.ndarray
) -> Iterator[Rows]:
    """Yields this process's part of the first `number` rows, in order; the last batch is padded."""
    for start in range(0, number, batch_size):
        mine = start + local_rows
        block = rows.take(mine[mine < number])
        short = ((0, len(mine) - block.number), (0, 0))
        yield Rows(
            np.pad(block.tokens_RxL, short, constant_values=pad_id),
            np.pad(block.segments_RxL, short),
            np.pad(block.positions_RxL, short),
            np.pad(block.loss_mask_RxL, short),
            np.pad(block.class_R, short[0]),
        )
