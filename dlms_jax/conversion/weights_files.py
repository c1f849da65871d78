"""Weights in the files of PyTorch users: safetensors, with an index if there are several files."""

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
    """Writes contiguous arrays to a safetensors file that every user can read.

    Raises:
      UserError: the file cannot be written.
    """
    with writable(path.parent):
        save_file(tensors, path, metadata={"format": "pt"})
        path.chmod(0o644)  # safetensors makes it readable to its owner only


class WeightsWriter:
    """Writes tensors, in the order in which they are added, to one or more files.

    It holds the tensors of one file in memory.

    Args:
      folder: where to write.
      limit: bytes per file; a tensor that is larger has a file of its own.

    Attributes:
      bytes: size of all tensors added so far.
    """

    def __init__(self, folder: pathlib.Path, limit: int):
        self._folder, self._limit = folder, limit
        self._tensors: dict[str, np.ndarray] = {}
        self._files: list[list[str]] = []
        self.bytes = 0

    def add(self, name: str, array: np.ndarray):
        """Adds a tensor; writes the current file first if the tensor does not fit into it."""
        held = sum(x.nbytes for x in self._tensors.values())
        if self._tensors and held + array.nbytes > self._limit:
            self._write()
        # safetensors writes the memory of an array in its physical order, whatever its strides.
        self._tensors[name] = np.ascontiguousarray(array)
        self.bytes += array.nbytes

    def close(self):
        """Writes the last file and, if there are several, the index."""
        if self._tensors:
            self._write()
        number = len(self._files)
        names = [f"model-{i + 1:05d}-of-{number:05d}.safetensors" for i in range(number)]
        if number == 1:
            names = [ONE_FILE]
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
    """Reads the tensors of a folder, each when it is asked for.

    Args:
      folder: the folder of a model.
      file: the file to read; "" reads all files of the model.

    Attributes:
      shapes: the shape of each tensor, by name.
      dtypes: the type of each tensor in safetensors' spelling ("F32", "BF16"), by name.

    Raises:
      UserError: files are missing or damaged, or do not hold what the index lists.
    """

    def __init__(self, folder: pathlib.Path, file: str = ""):
        self._folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self._file_of: dict[str, str] = {}
        index = {} if file else self._index()
        for part in sorted(set(index.values())) or [file or ONE_FILE]:
            handle = self._open(part)
            for name in handle.keys():  # noqa: SIM118 (it is not a dict)
                if index and index.get(name) != part:
                    raise UserError(
                        f"{folder / part} holds {name}, which {INDEX} lists in another file; "
                        "download the model again"
                    )
                entry = handle.get_slice(name)
                self.shapes[name], self.dtypes[name] = tuple(entry.get_shape()), entry.get_dtype()
                self._file_of[name] = part
        if lost := sorted(set(index) - set(self.shapes)):
            raise UserError(
                f"{folder}: no file holds {lost[0]}, which {INDEX} lists; download the model again"
            )

    def read(self, name: str, index: Any = ...) -> np.ndarray:
        """Returns a tensor, or the part of it that a tuple of slices selects."""
        entry = self._open(self._file_of[name]).get_slice(name)
        return entry[index] if self.shapes[name] else entry[...]

    def _index(self) -> dict[str, str]:
        """Returns the file of each tensor; {} if there is no index."""
        path = self._folder / INDEX
        if not path.is_file():
            if (self._folder / ONE_FILE).is_file():
                return {}
            raise UserError(
                f"{self._folder} has no {ONE_FILE} and no {INDEX}; give the folder of a model with "
                "weights in safetensors"
            )
        index = read_json(path).get("weight_map")
        if not isinstance(index, dict) or not index:
            raise UserError(f"{path} has no weight_map; download it again")
        for file in set(index.values()):
            if not (self._folder / str(file)).is_file() or "/" in file:
                raise UserError(
                    f"{self._folder / str(file)}, which {INDEX} lists, is missing; download it "
                    "again"
                )
        return index

    def _open(self, file):
        """Opens a file for one tensor: while it is open, what was read of it stays in memory."""
        try:
            return safe_open(self._folder / file, framework="numpy")
        except Exception as error:  # safetensors raises several kinds of its own
            said = " ".join(str(error).split())
            raise UserError(
                f"{self._folder / file} is truncated or damaged ({said}); download it again"
            ) from None
