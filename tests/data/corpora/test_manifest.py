"""Manifests: their files, checked; their weights, in training; and one line for what is wrong."""

import hashlib
import json
import random
import shutil

import numpy as np
import pytest

from dlms_jax.config import DataConfig, from_dict
from dlms_jax.data import DatasetBuilder
from dlms_jax.data.corpora.files import list_files
from dlms_jax.data.corpora.manifest import is_manifest
from dlms_jax.data.feed.dataset import build_dataset, load_split
from dlms_jax.data.feed.loader import train_batches
from dlms_jax.data.store.prepared import open_prepared
from dlms_jax.data.tokenizers import ByteTokenizer
from dlms_jax.errors import UserError
from dlms_jax.prepare.__main__ import main


@pytest.fixture
def files(tmp_path):
    """Files of documents of one letter: a.jsonl of a, b.jsonl of b."""
    draw = random.Random(0)
    (tmp_path / "in").mkdir()
    for letter in "ab":
        texts = [letter * draw.randint(20, 60) for _ in range(120)]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / "in" / f"{letter}.jsonl").write_text(lines)
    return tmp_path / "in"


def manifest_of(folder, *records, name="files.jsonl"):
    lines = (r if isinstance(r, str) else json.dumps(r) for r in records)
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def sha256_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def error_of(call, *args):
    with pytest.raises(UserError) as error:
        call(*args)
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    return message


def config_of(corpus, **data):
    data = {"corpus": str(corpus), "sequence_length": 64, "heldout_fraction": 0.2} | data
    return from_dict({"data": data})


def test_manifest_stands_for_its_files_wherever_a_corpus_is(files, tmp_path, monkeypatch):
    """From any folder: its paths count from its own."""
    manifest = manifest_of(files, {"path": "a.jsonl"}, "", {"path": str(files / "b.jsonl")})
    plain = [files / "a.jsonl", files / "b.jsonl"]
    assert list_files(manifest) == plain == list_files([manifest, files / "a.jsonl"])
    monkeypatch.chdir(files)
    assert sorted(f.resolve() for f in list_files("files.jsonl")) == plain
    monkeypatch.chdir(tmp_path)

    expected = build_dataset(config_of(files))  # the manifest in it is not part of it
    for config in (config_of(manifest), config_of("in/files.jsonl"),
                   config_of("", mixture={str(manifest): 2.0})):  # fmt: skip
        found = build_dataset(config)
        assert found.train[0].fingerprint == expected.train[0].fingerprint
        assert found.heldout.fingerprint == expected.heldout.fingerprint
    data = DataConfig(sequence_length=64)
    split = load_split(str(manifest), ByteTokenizer(), data)
    assert split.fingerprint == load_split(str(files), ByteTokenizer(), data).fingerprint

    options = ["--out", "d", "--sequence-length", "64", "--heldout-fraction", "0.2"]
    main(["dataset", str(manifest), *options])
    prints = open_prepared("d").fingerprints()
    del prints["train"]["sha256"], prints["heldout"]["sha256"]  # of buckets
    for name, split in (("train", expected.train[0]), ("heldout", expected.heldout)):
        assert prints[name].items() <= split.fingerprint.items()
    main(["tokenizer", str(manifest), "--out", "t.json", "--vocab-size", "262"])
    main(["clean", str(manifest), "--out", "clean"])
    assert list((tmp_path / "clean").glob("documents-*"))


def test_folder_is_read_without_its_manifest(files, capsys):
    manifest_of(files, {"path": "a.jsonl"})
    assert [f.name for f in list_files(files)] == ["a.jsonl", "b.jsonl"]
    assert "files.jsonl is a manifest" in capsys.readouterr().err


def test_records_of_text_are_no_manifest(files):
    for record in ({"text": "a"}, {"path": "a", "text": "b"}, ["path"], "path", {}, "{", 5):
        assert not is_manifest(manifest_of(files, json.dumps(record)))
    assert not is_manifest(manifest_of(files, {"path": "a.jsonl"}, name="files.txt"))
    assert not is_manifest(files) and not is_manifest(files / "gone.jsonl")
    (files / "binary.jsonl").write_bytes(b"\xff\xfe\0")
    assert not is_manifest(files / "binary.jsonl")
    assert is_manifest(manifest_of(files, "\ufeff" + json.dumps({"path": "a", "license": "MIT"})))


# Weights


def test_weight_is_how_often_a_text_is_seen(files, capsys):
    manifest = manifest_of(files, {"path": "a.jsonl"}, {"path": "b.jsonl", "weight": 3})
    config = config_of(manifest)
    dataset = build_dataset(config)
    (train,) = dataset.train
    rows = train.rows.take(slice(None))
    a, b = ord("a"), ord("b")
    counted = {x: int((rows.tokens_RxL == x).sum()) for x in (a, b)}
    once = build_dataset(config_of(files)).train[0]
    unique = once.rows.take(slice(None)).tokens_RxL
    assert counted == {a: (unique == a).sum(), b: 3 * (unique == b).sum()}
    assert not rows.class_R.any()
    other = {"weights": train.fingerprint["weights"], "tokens": rows.loss_mask_RxL.sum()}
    assert train.fingerprint == once.fingerprint | other
    assert "of weight 3" in train.fingerprint["weights"]
    same = build_dataset(config_of(files)).heldout
    assert dataset.heldout.fingerprint == same.fingerprint
    np.testing.assert_array_equal(
        dataset.heldout.rows.take(slice(None)).tokens_RxL, same.rows.take(slice(None)).tokens_RxL
    )
    number = train.rows.number
    batches = train_batches(dataset, config, np.arange(4))
    seen = sorted(row for step in range(number) for _, row in batches.rows_of(step))
    share = config.training.batch_size  # every row of an epoch, in each epoch
    assert seen == sorted(list(range(number)) * share)
    for index in ([0, number - 1, 5], np.array([number // 2])):
        np.testing.assert_array_equal(
            train.rows.take(np.asarray(index)).tokens_RxL, rows.tokens_RxL[index]
        )
    assert capsys.readouterr().err.count("the weights of") == 1


@pytest.mark.parametrize("weights", [(0.5, 0.5), (2, 2), (1, 1)])
def test_equal_weights_are_none(files, weights, capsys):
    manifest = manifest_of(files, *({"path": f"{x}.jsonl", "weight": w}
                                    for x, w in zip("ab", weights, strict=True)))  # fmt: skip
    found, expected = (build_dataset(config_of(corpus)) for corpus in (manifest, files))
    assert found.train[0].fingerprint == expected.train[0].fingerprint
    assert "the weights of" not in capsys.readouterr().err


def test_weights_that_are_no_multiples_are_close(files):
    manifest = manifest_of(
        files, {"path": "a.jsonl", "weight": 0.4}, {"path": "b.jsonl", "weight": 1}
    )
    train = build_dataset(config_of(manifest)).train[0]
    tokens = train.rows.take(slice(None)).tokens_RxL
    assert train.fingerprint["tokens"] == train.rows.take(slice(None)).loss_mask_RxL.sum()
    once = build_dataset(config_of(files)).train[0].rows.take(slice(None)).tokens_RxL
    shares = [(tokens == x).sum() / (once == x).sum() for x in (ord("a"), ord("b"))]
    assert shares[0] == 1 and shares[1] == pytest.approx(2.5, rel=0.02)


def test_other_weights_are_another_text_to_a_resume(files):
    prints = []
    for weight in (2, 3):
        manifest = manifest_of(files, {"path": "a.jsonl"}, {"path": "b.jsonl", "weight": weight})
        prints.append(build_dataset(config_of(manifest)).train[0].fingerprint)
    assert prints[0] != prints[1]


def test_weights_and_a_number_of_unique_tokens_are_refused(files):
    manifest = manifest_of(files, {"path": "a.jsonl"}, {"path": "b.jsonl", "weight": 3})
    message = error_of(build_dataset, config_of(manifest, max_unique_tokens=100))
    assert "max_unique_tokens=100" in message and "weights" in message


# Licences and checksums


def test_licences_reach_dataset_json(files, tmp_path):
    manifest = manifest_of(
        files, {"path": "a.jsonl", "licence": "MIT"}, {"path": "b.jsonl", "license": "CC0"}
    )
    main(["dataset", str(manifest), "--out", str(tmp_path / "d"), "--sequence-length", "64",
          "--heldout-fraction", "0.2"])  # fmt: skip
    assert open_prepared(tmp_path / "d").card["arguments"]["licences"] == {"MIT": 1, "CC0": 1}
    plain = DatasetBuilder(tmp_path / "p").build_from_raw(str(files / "a.jsonl"), "bytes", 64)
    assert "licences" not in plain.card["arguments"]


def test_missing_or_changed_file_is_named(files, tmp_path):
    path = files / "b.jsonl"
    records = ({"path": "a.jsonl"}, {"path": "b.jsonl", "sha256": sha256_of(path).upper()})
    manifest = manifest_of(files, *records)
    good = path.read_bytes()
    assert len(list_files(manifest)) == 2

    def build():
        DatasetBuilder(tmp_path / "out").build_from_raw(manifest, "bytes", 64)

    for change in ("byte", "empty", "missing", "folder"):
        path.write_bytes(good.replace(b"b", b"c", 1) if change == "byte" else b"")
        if change in ("missing", "folder"):
            path.unlink()
        if change == "folder":
            path.mkdir()
        for call in (lambda: list_files(manifest), build,
                     lambda: build_dataset(config_of(manifest))):  # fmt: skip
            message = error_of(call)
            assert str(path) in message and f"{manifest}:2" in message
            said = {"missing": "is missing", "folder": "is not a file"}
            assert said.get(change, "has changed") in message
        assert not (tmp_path / "out").exists()
    shutil.rmtree(path)
    path.write_bytes(good)
    assert len(list_files(manifest)) == 2


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("{", "not JSON"),
        ("[]", "keys are"),
        ("[" * 100_000, "not JSON"),
        ({"path": "b.jsonl", "weigth": 2}, "keys are"),
        ({"weight": 2}, "no path"),
        ({"path": 5}, "no path"),
        ({"path": ""}, "no path"),
        *[({"path": "b.jsonl", "weight": w}, "weight")
          for w in (0, -1, "2", True, None, 1e-300, 1e300, float("nan"), float("inf"))],
        ({"path": "b.jsonl", "licence": 5}, "licence"),
        ({"path": "b.jsonl", "sha256": "abc"}, "64 hexadecimal"),
        ({"path": "b.jsonl", "sha256": 5}, "64 hexadecimal"),
        ({"path": "../in/a.jsonl"}, "again"),
        ({"path": "b.pdf"}, "unknown format"),
        ({"path": "files.jsonl"}, "a manifest itself"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_record_is_named_by_its_line(files, record, said):
    (files / "b.pdf").touch()
    manifest = manifest_of(files, {"path": "a.jsonl"}, "", record)
    message = error_of(list_files, manifest)
    assert f"{manifest}:3" in message and said in message
