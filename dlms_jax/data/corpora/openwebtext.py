"""OpenWebText: a tar of xz-compressed tars of text files, read without unpacking it on disk."""

from collections.abc import Iterator
import lzma
import pathlib
import tarfile

from dlms_jax.data.corpora.document import Document, strip
from dlms_jax.data.corpora.files import read_file
from dlms_jax.data.corpora.streams import BOM
from dlms_jax.errors import UserError

_END_BYTES = 1024  # a tar ends with two blocks of zeros


def parse(path: pathlib.Path) -> Iterator[Document]:
    """Yields the pages of an archive (the whole, a part, or one inner .xz) or a Parquet file.

    Raises:
      UserError: an archive is cut off or damaged; the message names the member. Without the check,
        a stream whose end is missing would look like a shorter one.
    """
    if path.suffix == ".parquet":
        yield from read_file(path)
        return
    try:
        with open(path, "rb") as stream:
            yield from _members(stream, str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _members(stream, where: str) -> Iterator[Document]:
    """Yields the texts of a tar, and of the tars in it. where: the path to it."""
    try:
        packed = where.endswith(".xz")
        watched = _Watched(lzma.open(stream) if packed else stream)  # noqa: SIM115 - owns no file
        with tarfile.open(fileobj=watched, mode="r|") as archive:  # type: ignore[call-overload]
            for member in archive:
                inside = f"{where}/{member.name}"
                if not member.isfile():
                    continue
                if member.name.endswith((".xz", ".tar")):
                    yield from _members(archive.extractfile(member), inside)
                elif member.name.endswith(".txt"):
                    text = archive.extractfile(member).read().removeprefix(BOM.encode())
                    if strip(text):
                        yield Document(inside, text)
        watched.check_end()
    except (EOFError, OSError, lzma.LZMAError, tarfile.TarError) as error:
        raise UserError(f"{where} is cut off or damaged: {error}") from None


class _Watched:
    """A stream that keeps its end: tarfile accepts an archive that stops between two members."""

    def __init__(self, stream):
        self._stream, self._tail = stream, b""

    def read(self, size: int) -> bytes:
        block = self._stream.read(size)
        self._tail = (self._tail + block)[-_END_BYTES:]
        return block

    def check_end(self) -> None:
        """Reads the rest; raises EOFError if the end of the archive is missing."""
        while self.read(1 << 20):
            pass
        if self._tail != bytes(_END_BYTES):
            raise EOFError("the end of the archive is missing")
