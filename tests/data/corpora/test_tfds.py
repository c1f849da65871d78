"""TensorFlow Datasets: a dataset that a real builder wrote, read, packed and trained on."""

import pytest

from dlms_jax.config import DataConfig
from dlms_jax.data.build.builder import DatasetBuilder
from dlms_jax.data.corpora import tfds
from dlms_jax.data.corpora.public_corpora import PUBLIC_CORPORA
from dlms_jax.data.corpora.public_corpus import documents
from dlms_jax.data.feed.dataset import build_dataset, load_split
from dlms_jax.data.tokenizers import ByteTokenizer
from dlms_jax.errors import UserError
from dlms_jax.prepare.__main__ import main as prepare
from dlms_jax.testing import small_config

TALES = [f"Tale {n}: caf\xe9 {'and so on ' * (n % 7)}" for n in range(60)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The folder of a dataset `tales`, with splits train and blank, and of a pg19 of one book."""
    library = pytest.importorskip("tensorflow_datasets")
    folder = tmp_path_factory.mktemp("tfds")

    def write(name, feature, splits, version="1.0.0"):
        class Builder(library.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = library.core.Version(version)

            def _info(self):
                text = library.features.Text()
                return library.core.DatasetInfo(
                    builder=self, features=library.features.FeaturesDict({feature: text})
                )

            def _split_generators(self, manager):
                return {split: self._generate_examples(texts) for split, texts in splits.items()}

            def _generate_examples(self, texts):
                yield from ((n, {feature: text}) for n, text in enumerate(texts))

        Builder.name = name
        Builder(data_dir=folder, file_format="array_record").download_and_prepare()

    write("tales", "text", {"train": TALES, "blank": [" ", ""]})
    write("pg19", "book_text", {"train": ["A book."]}, "0.1.1")
    return str(folder)


def test_every_text_is_a_document(directory):
    found = list(tfds.read("tfds:tales/train", "text", directory))
    assert sorted(document.text for document in found) == sorted(t.encode() for t in TALES)
    assert {document.name for document in found} == {f"tfds:tales/train#{n}" for n in range(60)}
    assert list(tfds.read("tfds:tales/blank", "text", directory)) == []
    assert tfds.size_of("tfds:tales/train", directory) > 1000


def test_a_version_can_be_named(directory):
    found = list(tfds.read("tfds:tales:1.0.0/train[:10]", "text", directory))
    assert len(found) == 10


def test_a_run_and_a_prepared_dataset_have_the_same_rows(directory, tmp_path, capsys):
    config = small_config(
        data__corpus="tfds:tales/train", data__tfds_directory=directory,
        data__heldout_fraction=0.2,
    )  # fmt: skip
    dataset = build_dataset(config)
    out = str(tmp_path / "tales")
    prepare([
        "dataset", "tfds:tales/train", "--out", out, "--sequence-length", "32",
        "--tfds-directory", directory, "--heldout-fraction", "0.2", "--workers", "1",
    ])  # fmt: skip
    assert out in capsys.readouterr().out
    prepared = build_dataset(small_config(data__corpus=out, data__heldout_fraction=0.2))
    for ours, theirs in (
        (dataset.train[0], prepared.train[0]),
        (dataset.heldout, prepared.heldout),
    ):
        for key in ("documents", "bytes", "tokens"):
            assert ours.fingerprint[key] == theirs.fingerprint[key] > 0
    split = load_split("tfds:tales/train", ByteTokenizer(), config.data)
    assert split.fingerprint["documents"] == 60


def test_a_public_corpus_comes_through_it(directory, monkeypatch):
    library = pytest.importorskip("tensorflow_datasets")
    data_source = library.data_source
    monkeypatch.setattr(
        library,
        "data_source",
        lambda name, **how: data_source(name, **how | {"data_dir": directory}),
    )
    assert [d.text for d in documents(PUBLIC_CORPORA["pg19"], via="tfds")] == [b"A book."]


@pytest.mark.parametrize(
    "corpus, field, words",
    [
        ("tfds:tales", "text", ["tfds:DATASET/SPLIT"]),
        ("tfds:/train", "text", ["tfds:DATASET/SPLIT"]),
        ("tfds:tales/valid", "text", ["tfds:tales/valid", "train"]),
        ("tfds:fables/train", "text", ["fables", "data.tfds_directory"]),
        ("tfds:tales/train", "story", ["'story'", "it has text", "data.text_field"]),
    ],
)
def test_what_cannot_be_read_is_one_line(directory, tmp_path, corpus, field, words):
    config = DataConfig(corpus=corpus, text_field=field, tfds_directory=directory)
    builder = DatasetBuilder(out=tmp_path / "out", tfds_directory=directory)
    calls = [
        lambda: list(tfds.read(corpus, field, directory)),
        lambda: load_split(corpus, ByteTokenizer(), config),
    ]
    if field == "text":
        calls.append(lambda: builder.build_from_raw(corpus, "bytes", 32))
    for call in calls:
        with pytest.raises(UserError) as error:
            call()
        assert "\n" not in str(error.value)
        for word in words:
            assert word in str(error.value)
    assert not (tmp_path / "out").exists()
