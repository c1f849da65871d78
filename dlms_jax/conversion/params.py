"""Reads the tensors of a model into the parameter tree: each device reads only its own part."""

from typing import Any

import jax
import numpy as np
from rich.console import Console

from dlms_jax.conversion.import_plan import ImportPlan
from dlms_jax.conversion.names import Tensor
from dlms_jax.conversion.weights_files import WeightsReader
from dlms_jax.denoiser import abstract_params
from dlms_jax.parallel import rules
from dlms_jax.terminal import byte_progress

_MEAN_ROWS = 4096  # rows that are read at a time to compute their mean


def read_params(
    reader: WeightsReader,
    padding: WeightsReader | None,
    plan: ImportPlan,
    tensors: list[Tensor],
    rows: int,
    console: Console,
) -> Any:
    """Returns the parameter tree in float32, sharded over as many devices as the sizes divide by.

    Args:
      reader: the tensors of the model.
      padding: the rows of the vocabulary after those of the model, as an export of ours kept them;
        None fills these rows with the mean of the others.
      plan: how the model is read.
      tensors: the Tensor of each parameter, in the order of the tree.
      rows: the padded size of the vocabulary.
      console: where to show the progress.
    """
    shapes = abstract_params(plan.config, rows)
    mesh = rules.largest_mesh(shapes, jax.device_count())
    leaves, tree = jax.tree.flatten(rules.abstract(shapes, mesh))
    found = []
    with byte_progress(console) as progress:
        task = progress.add_task("weights", total=sum(4 * leaf.size for leaf in leaves))
        for tensor, leaf in zip(tensors, leaves, strict=True):
            part = _Parameter(tensor, leaf.shape, reader, padding, plan)
            found.append(jax.make_array_from_callback(leaf.shape, leaf.sharding, part))
            progress.advance(task, 4 * leaf.size)
    return jax.tree.unflatten(tree, found)


class _Parameter:
    """A function from an index of slices to that part of a parameter, in float32."""

    def __init__(self, tensor, shape, reader, padding, plan):
        self.tensor, self.shape, self.reader = tensor, shape, reader
        self.padding, self.rename, self.mean = padding, plan.rename, None

    def __call__(self, index) -> np.ndarray:
        index = tuple(slice(*s.indices(n)[:2]) for s, n in zip(index, self.shape, strict=True))
        stack = self.tensor.stack
        if not stack:
            return self._read(self.tensor.name, index)
        names = np.array(self.tensor.names()).reshape(stack)[index[: len(stack)]]
        array = np.empty([s.stop - s.start for s in index], np.float32)
        for at in np.ndindex(names.shape):
            array[at] = self._read(str(names[at]), index[len(stack) :])
        return array

    def _read(self, name, index):
        """Returns a part of one tensor."""
        index = index[::-1] if self.tensor.transposed else index
        read = self._vocabulary_rows if self.tensor.vocabulary else self.reader.read
        array = read(self.rename(name), index)
        array = array.T if self.tensor.transposed else array
        return array.astype(np.float32, copy=False)

    def _vocabulary_rows(self, name, index):
        """Returns rows of the vocabulary: the model's, then those of padding or the mean row."""
        known, first, last = self.reader.shapes[name][0], index[0].start, index[0].stop
        rest, parts = index[1:], []
        if first < known:
            parts.append(self.reader.read(name, (slice(first, min(last, known)), *rest)))
        if last > known and self.padding is not None:
            kept = slice(max(first - known, 0), last - known)
            parts.append(self.padding.read(self.tensor.name, (kept, *rest)))
        elif last > known:
            if self.mean is None:
                self.mean = _mean_row(self.reader, name)
            row = self.mean[rest]
            parts.append(np.broadcast_to(row, (last - max(first, known), *row.shape)))
        return np.concatenate([part.astype(np.float32) for part in parts])


def _mean_row(reader, name) -> np.ndarray:
    """Returns the mean of the rows of a matrix, summed in float64."""
    number, total = reader.shapes[name][0], 0.0
    for first in range(0, number, _MEAN_ROWS):
        rows = reader.read(name, (slice(first, min(first + _MEAN_ROWS, number)),))
        total = total + rows.astype(np.float64).sum(axis=0)
    return (total / number).astype(np.float32)
