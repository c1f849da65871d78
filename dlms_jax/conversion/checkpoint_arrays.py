"""The parameters of a checkpoint, a part at a time, without the devices that wrote them."""

from collections.abc import Iterator
import math
import pathlib

import numpy as np
import tensorstore

from dlms_jax.errors import UserError

_TOGETHER = 2**30  # bytes of a parameter that are read at a time


class CheckpointArrays:
    """The arrays under a checkpoint's params or ema, as orbax wrote them from any number of hosts.

    Orbax itself restores whole arrays; here a large one is read some layers at a time.
    """

    def __init__(self, folder: pathlib.Path):
        """folder: checkpoints/STEP/params or .../ema."""
        self._folder = folder

    def shape(self, path: str) -> tuple[int, ...]:
        """Returns the shape of the parameter at a path."""
        return self._array(path).shape

    def read(self, path: str) -> np.ndarray:
        """Returns a parameter, whole."""
        return self._read(path, self._array(path))

    def layers(self, path: str, limit: int = _TOGETHER) -> Iterator[np.ndarray]:
        """Yields the parts of a parameter along its first axis, of which it holds `limit` bytes at
        a time, or a chunk where that is more.

        A chunk is what one device held when the checkpoint was written, compressed as one piece:
        all of it is decoded whatever is asked for, so asking for less saves nothing.
        """
        array = self._array(path)
        item = array.dtype.numpy_dtype.itemsize
        held = max(limit, item * math.prod(array.chunk_layout.read_chunk.shape))
        together = max(1, array.shape[0] * held // max(item * array.size, 1))
        for start in range(0, array.shape[0], together):
            yield from self._read(path, array[start : min(start + together, array.shape[0])])

    def _array(self, path):
        base = {"driver": "file", "path": f"{self._folder}/"}
        store = {"driver": "ocdbt", "base": base, "path": path.replace("/", ".") + "/"}
        try:
            spec = {"driver": "auto", "kvstore": store}
            return tensorstore.open(spec, read=True, open=True).result()
        except Exception as error:  # tensorstore raises ValueError with its own codes
            raise self._unreadable(path, error) from None

    def _read(self, path, array):
        try:
            return array.read().result()
        except Exception as error:
            raise self._unreadable(path, error) from None

    def _unreadable(self, path, error):
        said = " ".join(str(error).split())[:160]
        return UserError(f"{self._folder}: {path} cannot be read ({said}); try another checkpoint")
