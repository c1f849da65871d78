"""Text of TensorFlow Datasets, read without TensorFlow from files that allow random access."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dlms_jax.data.corpora.document import Document, replace_stray_surrogates, strip, to_bytes
from dlms_jax.errors import UserError, optional_import

PREFIX = "tfds:"
_FORMAT = {"file_format": "array_record"}  # TensorFlow's own format has no random access


class Split(NamedTuple):
    """A split of a dataset, such as pg19 and train."""

    dataset: str
    split: str


def split_of(corpus: str) -> Split:
    """Returns the split that "tfds:DATASET/SPLIT" names; DATASET may have a config and a version.

    Raises:
      UserError: no split is named.
    """
    dataset, slash, split = corpus.removeprefix(PREFIX).rpartition("/")
    if not (dataset and slash and split):
        raise UserError(
            f"{corpus} names no split of a dataset; write {PREFIX}DATASET/SPLIT, such as "
            f"{PREFIX}pg19/train"
        )
    return Split(dataset, split)


def size_of(corpus: str, directory: str = "") -> int:
    """Returns the bytes of a split on disk, 0 if they are not known. Raises as `read` does."""
    dataset, split = split_of(corpus)
    tfds = optional_import("tensorflow_datasets", "tfds")
    try:
        info = tfds.builder(dataset, data_dir=directory or None, **_FORMAT).info
        return int(info.splits[split].num_bytes) if info.splits else 0
    except Exception as error:
        raise _unreadable(corpus, error) from None


def read(corpus: str, field: str, directory: str = "") -> Iterator[Document]:
    """Yields the documents of a split that hold text.

    Args:
      corpus: "tfds:DATASET/SPLIT". A dataset that is not prepared is downloaded first.
      field: the feature that holds the text.
      directory: where datasets are prepared; "": ~/tensorflow_datasets.

    Raises:
      UserError: the dataset or the split does not exist, or it has no such feature.
    """
    for number, row in enumerate(_rows(corpus, directory)):
        if field not in row:
            raise UserError(
                f"{corpus} has no feature {field!r}; it has {', '.join(row)}; set data.text_field "
                "(--text-field)"
            )
        if strip(text := text_of(row[field])):
            yield Document(f"{corpus}#{number}", text)


def rows(dataset: str, split: str, directory: str = "") -> Sequence[dict]:
    """Returns the rows of a split. Raises whatever the library raises."""
    tfds = optional_import("tensorflow_datasets", "tfds")
    return tfds.data_source(
        dataset, split=split, data_dir=directory or None, builder_kwargs=_FORMAT
    )  # fmt: skip


def _rows(corpus: str, directory: str) -> Iterator[dict]:
    try:
        yield from rows(*split_of(corpus), directory)
    except UserError:
        raise
    except Exception as error:
        raise _unreadable(corpus, error) from None


def text_of(value: str | bytes) -> bytes:
    """Returns the bytes of a text feature."""
    return value if isinstance(value, bytes) else to_bytes(replace_stray_surrogates(value))


def _unreadable(what: str, error: Exception) -> UserError:
    reason = (str(error).strip().splitlines() or [""])[0]
    return UserError(
        f"{what} cannot be read from TensorFlow Datasets ({type(error).__name__}: {reason}); set "
        "data.tfds_directory (--tfds-directory) to the folder where it is prepared"
    )
