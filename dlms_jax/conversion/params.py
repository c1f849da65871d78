"""Tensors of a folder -> the parameter tree, each device reading its own part."""

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

_TOGETHER = 4096  # rows of which a mean is taken at a time


def read_params(
    reader: WeightsReader,
    padding: WeightsReader | None,
    foreign: ImportPlan,
    tensors: list[Tensor],
    rows: int,
    console: Console,
) -> Any:
    """Returns the parameter tree in float32, on as many devices as sizes divide by.

    padding: the rows of the vocabulary after the file's, as they were; None: their mean.
    """
    config = foreign.config
    shapes = abstract_params(config, rows)
    mesh = rules.largest_mesh(shapes, jax.device_count())
    leaves, tree = jax.tree.flatten(rules.abstract(shapes, mesh))
    found = []
    with byte_progress(console) as progress:
        task = progress.add_task("weights", total=sum(4 * leaf.size for leaf in leaves))
        for tensor, leaf in zip(tensors, leaves, strict=True):
            part = _Parameter(tensor, leaf.shape, reader, padding, foreign)
            found.append(jax.make_array_from_callback(leaf.shape, leaf.sharding, part))
            progress.advance(task, 4 * leaf.size)
    return jax.tree.unflatten(tree, found)


class _Parameter:
    """A function: an index of slices -> that part of a parameter, in float32."""

    def __init__(self, tensor, shape, reader, padding, foreign):
        self.tensor, self.shape, self.reader = tensor, shape, reader
        self.padding, self.rename, self.mean = padding, foreign.rename, None

    def __call__(self, index) -> np.ndarray:
        index = tuple(slice(*s.indices(n)[:2]) for s, n in zip(index, self.shape, strict=True))
        stack = self.tensor.stack
        if not stack:
            return self._one(self.tensor.name, index)
        names = np.array(self.tensor.names()).reshape(stack)[index[: len(stack)]]
        array = np.empty([s.stop - s.start for s in index], np.float32)
        for place in np.ndindex(names.shape):
            array[place] = self._one(str(names[place]), index[len(stack) :])
        return array

    def _one(self, name, index):
        index = index[::-1] if self.tensor.transposed else index
        read = self._rows if self.tensor.vocabulary else self.reader.read
        array = read(self.rename(name), index)
        array = array.T if self.tensor.transposed else array
        return array.astype(np.float32, copy=False)

    def _rows(self, name, index):
        """Returns rows of the vocabulary: the file's, then those of padding or the mean."""
        known, (first, last), rest = self.reader.shapes[name][0], _ends(index[0]), index[1:]
        parts = []
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


def _ends(s: slice) -> tuple[int, int]:
    return s.start, s.stop


def _mean_row(reader, name) -> np.ndarray:
    """Returns the mean of a matrix's rows, in float64 sums."""
    number, total = reader.shapes[name][0], 0.0
    for first in range(0, number, _TOGETHER):
        rows = reader.read(name, (slice(first, min(first + _TOGETHER, number)),))
        total = total + rows.astype(np.float64).sum(axis=0)
    return (total / number).astype(np.float32)
