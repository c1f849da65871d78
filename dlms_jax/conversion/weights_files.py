"""Weights as PyTorch users have them: safetensors files, with an index where there are several."""

import pathlib
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from dlms_jax.conversion.folder import read_json, save_json, writable
from dlms_jax.errors import UserError

ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def save_tensors(tensors: dict[str, np.ndarray], path: pathlib.Path):
    """Writes contiguous arrays to a file that others can read: the library's own is the user's
    alone."""
    with writable(path.parent):
        save_file(tensors, path, metadata={"format": "pt"})
        path.chmod(0o644)


class WeightsWriter:
    """Writes tensors, in the order in which they come, to files of up to `limit` bytes each; holds
    one file's tensors in memory."""

    def __init__(self, folder: pathlib.Path, limit: int):
        self._folder, self._limit = folder, limit
        self._tensors: dict[str, np.ndarray] = {}
        self._files: list[list[str]] = []
        self.bytes = 0

    def add(self, name: str, array: np.ndarray):
        """Takes a tensor; where it no longer fits the file at hand, that is written first."""
        held = sum(x.nbytes for x in self._tensors.values())
        if self._tensors and held + array.nbytes > self._limit:
            self._write()
        # The library writes the memory as it lies, whatever the strides.
        self._tensors[name] = np.ascontiguousarray(array)
        self.bytes += array.nbytes

    def close(self):
        """Writes what is left, and the index."""
        if self._tensors:
            self._write()
        number = len(self._files)
        names = (
            [ONE_FILE]
            if number == 1
            else [f"model-{i + 1:05d}-of-{number:05d}.safetensors" for i in range(number)]
        )
        for i, name in enumerate(names):
            self._part(i).rename(self._folder / name)
        if number > 1:
            pairs = zip(names, self._files, strict=True)
            index = {tensor: name for name, tensors in pairs for tensor in tensors}
            save_json(
                self._folder / INDEX,
                {"metadata": {"total_size": self.bytes}, "weight_map": dict(sorted(index.items()))},
            )

    def _write(self):
        save_tensors(self._tensors, self._part(len(self._files)))
        self._files.append(list(self._tensors))
        self._tensors = {}

    def _part(self, number):
        return self._folder / f"part-{number:05d}.safetensors"


class WeightsReader:
    """The tensors of a folder, each read when it is asked for."""

    def __init__(self, folder: pathlib.Path, alone: str = ""):
        """alone: a file to read by itself; "" for all that make the model.

        Raises UserError for files that are missing, damaged, or not those of the index.
        """
        self._folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self._file_of: dict[str, str] = {}
        index = {} if alone else self._index()
        for file in sorted(set(index.values())) or [alone or ONE_FILE]:
            handle = self._open(file)
            for name in handle.keys():  # noqa: SIM118 (it is no dict)
                if index and index.get(name) != file:
                    raise UserError(f"{folder / file} holds {name}, which {INDEX} puts elsewhere")
                entry = handle.get_slice(name)
                self.shapes[name], self.dtypes[name] = tuple(entry.get_shape()), entry.get_dtype()
                self._file_of[name] = file
        if lost := sorted(set(index) - set(self.shapes)):
            raise UserError(f"{folder}: {INDEX} names {lost[0]}, which no file holds; get it anew")

    def read(self, name: str, index: Any = ...) -> np.ndarray:
        """Returns a tensor, or what an index of slices says of it."""
        entry = self._open(self._file_of[name]).get_slice(name)
        return entry[index] if self.shapes[name] else entry[...]

    def _index(self) -> dict[str, str]:
        """Returns the file of each tensor; {} where there is no index."""
        path = self._folder / INDEX
        if not path.is_file():
            if (self._folder / ONE_FILE).is_file():
                return {}
            raise UserError(f"{self._folder} has no {ONE_FILE} and no {INDEX}; is it a model?")
        index = read_json(path).get("weight_map")
        if not isinstance(index, dict) or not index:
            raise UserError(f"{path} has no weight_map; get it anew")
        for file in set(index.values()):
            if not (self._folder / str(file)).is_file() or "/" in file:
                raise UserError(f"{self._folder / str(file)}, which {INDEX} names, is missing")
        return index

    def _open(self, file):
        """Opens a file for one tensor: what was read of a file stays in memory while it is open."""
        try:
            return safe_open(self._folder / file, framework="numpy")
        except Exception as error:  # the library's own, of many kinds
            said = " ".join(str(error).split())
            raise UserError(
                f"{self._folder / file} is truncated or damaged ({said}); get it anew"
            ) from None
