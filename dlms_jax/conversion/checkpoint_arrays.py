"""The parameters of a checkpoint, read in parts, without the devices that wrote them."""

from collections.abc import Iterator, Mapping
import math
import pathlib

import numpy as np
import tensorstore

from dlms_jax.checkpoints.digests import sums_of, text_of
from dlms_jax.errors import UserError

_READ_BYTES = 2**30  # bytes of a parameter that are read at a time


class CheckpointArrays:
    """The arrays of a checkpoint's parameters, as orbax wrote them from any number of hosts.

    Orbax restores whole arrays only; this class reads a few layers of a large one at a time.

    Args:
      folder: checkpoints/STEP/params, or checkpoints/STEP/ema.
      digests: the digest of each parameter, by its path; without one it is not checked.
    """

    def __init__(self, folder: pathlib.Path, digests: Mapping[str, str] | None = None):
        self._folder, self._digests = folder, digests or {}

    def read(self, path: str) -> np.ndarray:
        """Returns a whole parameter.

        Raises:
          UserError: it is missing or damaged.
        """
        values = self._read(path, self._array(path))
        self._check(path, sums_of(values, (0,) * values.ndim, values.shape))
        return values

    def layers(self, path: str, limit: int = _READ_BYTES) -> Iterator[np.ndarray]:
        """Yields the slices of a parameter along its first axis, reading several at a time.

        A chunk is what one device held when the checkpoint was written. It is compressed as one
        piece, so all of it is decoded even if less is asked for.

        Args:
          path: the path of the parameter.
          limit: bytes to hold at a time; a chunk, if that is larger.

        Raises:
          UserError: it is missing or damaged. Damage may be seen only after the last slice.
        """
        array, sums = self._array(path), np.zeros(2, np.uint32)
        item = array.dtype.numpy_dtype.itemsize
        held = max(limit, item * math.prod(array.chunk_layout.read_chunk.shape))
        number = max(1, array.shape[0] * held // max(item * array.size, 1))
        for start in range(0, array.shape[0], number):
            part = self._read(path, array[start : min(start + number, array.shape[0])])
            sums += sums_of(part, (start,) + (0,) * (part.ndim - 1), array.shape)
            yield from part
        self._check(path, sums)

    def _check(self, path, sums):
        if path in self._digests and text_of(sums) != self._digests[path]:
            raise UserError(
                f"{self._folder}: {path} is damaged: not what was saved; try another checkpoint"
            )

    def _array(self, path):
        base = {"driver": "file", "path": f"{self._folder}/"}
        store = {"driver": "ocdbt", "base": base, "path": path.replace("/", ".") + "/"}
        try:
            spec = {"driver": "auto", "kvstore": store}
            return tensorstore.open(spec, read=True, open=True).result()
        except Exception as error:  # tensorstore raises ValueError with codes of its own
            raise self._unreadable(path, error) from None

    def _read(self, path, array):
        try:
            return array.read().result()
        except Exception as error:
            raise self._unreadable(path, error) from None

    def _unreadable(self, path, error):
        said = " ".join(str(error).split())[:160]
        return UserError(f"{self._folder}: {path} cannot be read ({said}); try another checkpoint")
