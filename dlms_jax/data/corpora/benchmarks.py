"""The plain text files of language-modelling benchmarks, each with its own rule for a document."""

from collections.abc import Iterable, Iterator
import contextlib
import io
import pathlib
import re
import zipfile
import zlib

from dlms_jax.data.corpora.document import Document
from dlms_jax.data.corpora.files import cut, read_file
from dlms_jax.errors import UserError

STORY_END = "<|endoftext|>"
_TITLE = re.compile(r" = (?!= ).*(?<! =) = \n?")  # sections have more: ` = = Section = = `
_PIECE = 16 * 1024  # characters of a document where the source has one text without end


def wikitext(path: pathlib.Path) -> Iterator[Document]:
    """Yields the articles of a WikiText file; joined, they are the file."""
    yield from _numbered(path, articles(_lines(path)))


def articles(lines: Iterable[str]) -> Iterator[str]:
    """Yields the articles of WikiText, given as lines: a title after a blank line starts one.

    The Hub's rows are such lines, too, with its blank ones emptied; they are filled again.
    """
    article, after_blank = [], True
    for line in lines:
        if after_blank and _TITLE.fullmatch(line) and any(map(str.strip, article)):
            # The blank line before a title is of the title's article, as in the file's first.
            *article, blank = article
            yield "".join(article)
            article = [blank]
        article.append(line or " \n")
        after_blank = not line.strip()
    yield "".join(article)


def sentences(path: pathlib.Path) -> Iterator[Document]:
    """Yields the lines of a file of the One Billion Word benchmark: sentences, shuffled."""
    yield from _numbered(path, (line.removesuffix("\n") for line in _lines(path)))


def stories(path: pathlib.Path) -> Iterator[Document]:
    """Yields the stories of a TinyStories file, .txt or .parquet."""
    if path.suffix == ".parquet":
        yield from read_file(path)
    else:
        yield from _numbered(path, _stories(_lines(path)))


def _stories(lines: Iterable[str]) -> Iterator[str]:
    story = []
    for line in lines:
        end, *others = line.split(STORY_END)
        story.append(end)
        for other in others:
            yield "".join(story).strip()
            story = [other]
    yield "".join(story).strip()


def whole(path: pathlib.Path) -> Iterator[Document]:
    """Yields the one text of a file, such as a book of PG-19, as one document."""
    with _opened(path) as text:
        yield from _numbered(path, [text.read()])


def endless(path: pathlib.Path) -> Iterator[Document]:
    """Yields enwik8 or text8, zipped or not, in pieces that end at line ends where there are some.

    Joined, they are the file, bytes that are no UTF-8 included.
    """
    if path.suffix != ".zip":
        with _opened(path) as text:
            yield from _numbered(path, _pieces(text))
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as stream:
                    yield from _numbered(f"{path}/{name}", _pieces(_as_text(stream)))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{path} is cut off or damaged: {error}") from None


def _pieces(text: io.TextIOBase) -> Iterator[str]:
    waiting = ""
    while block := text.read(1 << 20):
        *ready, waiting = cut(waiting + block, _PIECE)
        yield from ready
    yield waiting


def _lines(path: pathlib.Path) -> Iterator[str]:
    with _opened(path) as text:
        yield from text


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[io.TextIOBase]:
    try:
        with _as_text(open(path, "rb")) as text:
            yield text
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _as_text(stream) -> io.TextIOBase:
    """Returns a stream's text, byte for byte: a line ends at \\n alone, and no byte is lost."""
    return io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="\n")


def _numbered(source, texts: Iterable[str]) -> Iterator[Document]:
    for number, text in enumerate(texts):
        if text.strip():
            yield Document(f"{source}#{number}", text)
