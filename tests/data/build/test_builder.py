"""The builder: the same bytes whatever happens on the way, and one line for what cannot be."""

from collections import Counter
import errno
import gzip
import io
import json
import multiprocessing
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time

from hypothesis import HealthCheck, given, settings, strategies as st
from killed_builder import DeadlyBytes, build, contents, texts, write_texts
import numpy as np
import pytest
from rich.console import Console

from dlms_jax import files
from dlms_jax.config import TokenizerConfig
from dlms_jax.data import frames
from dlms_jax.data.build import bucket, builder, passes, resume
from dlms_jax.data.build.builder import DatasetBuilder
from dlms_jax.data.corpora.document import is_heldout, order_key, to_bytes
from dlms_jax.data.corpora.options import ReadOptions
from dlms_jax.data.store import card, shards
from dlms_jax.data.store.prepared import Prepared, is_prepared, open_prepared
from dlms_jax.data.store.shards import sha256_of
from dlms_jax.data.tokenizers import BPETokenizer, ByteTokenizer, fingerprint
from dlms_jax.errors import UserError

HELPER = pathlib.Path(__file__).parents[2] / "killed_builder.py"
ROOT = HELPER.parent.parent
TEXTS = texts(60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    return write_texts(tmp_path_factory.mktemp("input") / "texts", TEXTS)


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory) -> Prepared:
    """Two buckets, a trained tokenizer."""
    return build(folder, tmp_path_factory.mktemp("prepared") / "whole")


def json_lines(path: pathlib.Path, documents) -> pathlib.Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


def documents_of(dataset: Prepared, split: str) -> list[str]:
    """Returns the texts of a split's rows, which are in document order."""
    tokenizer, rows = dataset.tokenizer, dataset.rows(split).take(slice(None))
    ids = rows.tokens_RxL[rows.loss_mask_RxL]
    parts = np.split(ids, np.flatnonzero(ids == tokenizer.eos_id) + 1)
    assert not len(parts.pop())  # what comes last is an EOS
    return [tokenizer.decode(part) for part in parts]


def refused(call, *args, **kwargs) -> str:
    """Returns the one line that a call is refused with."""
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    message = str(error.value)
    assert message and "\n" not in message
    return message


def description(dataset: Prepared) -> dict:
    """Returns dataset.json without what may differ between equal datasets."""
    named = ("arguments", "sources", "digests")
    return {key: value for key, value in dataset.card.items() if key not in named}


def _silent() -> Console:
    return Console(file=io.StringIO(), soft_wrap=True)


def killed(*arguments) -> dict:
    """Returns what the kills of killed_builder.py came to."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    with tempfile.TemporaryFile("w+") as out:  # no pipe, which a process left behind would hold
        command = [sys.executable, str(HELPER), *map(str, arguments)]
        code = subprocess.run(command, env=environment, stdout=out, timeout=200).returncode
        out.seek(0)
        assert code == 0
        return json.loads(out.read())


# Kills


def test_kills_at_ten_random_moments(tmp_path):
    """SIGKILL, twice each; the finished dataset has the bytes of one that was left alone."""
    source = write_texts(tmp_path / "in", texts(300, words=12))
    came = killed("moments", source, tmp_path, 1)
    assert came["wrong"] == []
    print(f"{len(came['stages'])} kills in {came['seconds']:.1f} s, at {Counter(came['stages'])}")
    assert len(came["stages"]) >= 10  # others came after the end
    assert len(set(came["stages"])) >= 4 and "scatter" in came["stages"]
    assert {"write a shard", "pack", "checksum", "sort"} & set(came["stages"])


def test_kills_before_every_change_on_disk(folder, tmp_path):
    """Each file that is opened, renamed or removed, each folder that is made; of a new dataset,
    and of one that is mended."""
    came = killed("changes", folder, tmp_path, 0)
    assert came["wrong"] == []
    assert len(came["killed"]) == 2 and min(came["killed"]) > 20


def test_kill_with_two_workers(tmp_path):
    """Then a run with one. Workers must not outlive the build: they would write beside the next."""
    source = write_texts(tmp_path / "in", texts(300, words=12))
    came = killed("workers", source, tmp_path, 2)
    assert came["wrong"] == []
    assert came["workers"] >= 2 and came["alive"] == 0


# The same bytes


def test_two_workers_write_the_same_bytes(tmp_path, folder, monkeypatch):
    """Everything, dataset.json too; with many pieces of work in both passes."""
    one = build(folder, tmp_path / "one", shard_bytes=1500)  # in one unit
    monkeypatch.setattr(passes, "_UNIT", 1000)
    two = build(folder, tmp_path / "two", shard_bytes=1500, workers=2)
    assert len(one.card["buckets"]) > 4
    assert contents(two.folder) == contents(one.folder)
    assert_all_ended()


@settings(
    deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(draw=st.randoms(use_true_random=False), names=st.lists(
    st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=1, max_size=7, unique=True))  # fmt: skip
def test_files_names_and_order_do_not_matter(tmp_path_factory, draw, names):
    """However the documents lie in files (the same bytes in all: they say how many buckets)."""
    path = tmp_path_factory.mktemp("in")
    plain = build(json_lines(path / "all.jsonl", TEXTS), path / "plain", workers=1)
    (path / "scattered").mkdir()
    files = {name: [] for name in names}
    for text in draw.sample(TEXTS, len(TEXTS)):
        files[draw.choice(names)].append(text)
    for name, documents in files.items():
        json_lines(path / "scattered" / f"{name}.jsonl", documents)
    other = build(path / "scattered", path / "other")
    assert description(other) == description(plain)
    for name, data in contents(plain.folder, "*.array_record").items():
        assert (other.folder / name).read_bytes() == data
    assert (other.folder / "vocab.json").read_bytes() == (plain.folder / "vocab.json").read_bytes()


def test_paths_may_be_a_file_a_folder_a_glob_or_a_list(tmp_path, folder, whole):
    for number, path in enumerate(
        [f"{folder}/*.txt", sorted(map(str, folder.iterdir()), reverse=True), (p for p in [folder])]
    ):
        other = build(path, tmp_path / str(number))
        assert description(other) == description(whole)
        assert other.card["arguments"]["path"], "a path that is not kept"


def test_order_is_that_of_the_hash_and_other_seeds_give_others(tmp_path, folder):
    orders = {}
    for seed in (0, 1):
        dataset = build(folder, tmp_path / f"{seed}", "bytes", seed=seed, shard_bytes=10**6)
        assert dataset.card["seed"] == seed
        for split in ("train", "heldout"):
            orders[seed, split] = documents_of(dataset, split)
            keys = [order_key(to_bytes(text), seed) for text in orders[seed, split]]
            assert keys == sorted(keys)
    for split in ("train", "heldout"):  # on the same sides, whatever the seed
        assert orders[0, split] != orders[1, split]
        assert sorted(orders[0, split]) == sorted(orders[1, split])


@pytest.mark.parametrize("shard_bytes", [700, 2500, 10**6])
def test_size_of_shards_changes_no_document(tmp_path, folder, shard_bytes):
    """Every document once, on its side, in the same order; only the rows' ends move."""
    dataset = build(folder, tmp_path / "out", "bytes", shard_bytes=shard_bytes)
    size = sum(len(text.encode()) for text in TEXTS)
    assert len(dataset.card["buckets"]) == -(-size // shard_bytes)
    for split, held in (("train", False), ("heldout", True)):
        expected = [t for t in TEXTS if is_heldout(t.encode(), 0.2) == held]
        found = documents_of(dataset, split)
        assert found == sorted(expected, key=lambda text: order_key(text.encode(), 0))


def test_packings_hold_the_same_tokens(tmp_path, folder):
    datasets = {
        method: build(folder, tmp_path / method, packing=method)
        for method in ("concat", "best-fit")
    }
    for split in ("train", "heldout"):
        tokens, prints = {}, {}
        for method, dataset in datasets.items():
            rows = dataset.rows(split).take(slice(None))
            tokens[method] = np.sort(rows.tokens_RxL[rows.loss_mask_RxL])
            prints[method] = dataset.fingerprints()[split]
        np.testing.assert_array_equal(*tokens.values())
        assert prints["concat"] == prints["best-fit"]
    whole_documents = Counter()
    rows = datasets["best-fit"].rows("train").take(slice(None))
    tokenizer = datasets["best-fit"].tokenizer
    for tokens_L, segments_L in zip(rows.tokens_RxL, rows.segments_RxL, strict=True):
        for segment in range(1, segments_L.max() + 1):
            whole_documents[tokenizer.decode(tokens_L[segments_L == segment])] += 1
    for text in documents_of(datasets["concat"], "train"):  # nothing that fits is cut
        if len(tokenizer.encode(text)) + 2 <= 32:
            assert whole_documents[text] == 1


def test_card_says_what_is_there(tmp_path, folder, whole):
    card = json.loads((whole.folder / "dataset.json").read_text())
    assert card == whole.card and card["duplicates"] == 0
    sides = {"train": [], "heldout": []}
    for text in TEXTS:
        sides["heldout" if is_heldout(text.encode(), 0.2) else "train"].append(text)
    for split, side in sides.items():
        rows = whole.rows(split).take(slice(None))
        counted = card["splits"][split]
        assert counted["documents"] == len(side)
        assert counted["bytes"] == sum(len(text.encode()) for text in side)
        assert counted["tokens"] == rows.loss_mask_RxL.sum()
        assert counted["rows"] == rows.number == sum(s.rows for s in whole.shards[split])
        for shard in whole.shards[split]:
            path = whole.folder / shard.file
            assert shard.size == path.stat().st_size and shard.sha256 == sha256_of(path)
    assert card["longest"] == max(len(whole.tokenizer.encode(text)) for text in TEXTS)
    assert card["read"]["documents"] == len(TEXTS)
    assert card["read"]["bytes"] == sum(len(text.encode()) for text in TEXTS)
    listed = {s.file for split in whole.shards.values() for s in split}
    assert set(contents(whole.folder)) == listed | {"dataset.json", "vocab.json"}


def test_duplicates_are_dropped_wherever_they_lie(tmp_path):
    path = tmp_path / "in"
    path.mkdir()
    json_lines(path / "a.jsonl", TEXTS)
    json_lines(path / "b.jsonl", [TEXTS[3], TEXTS[3], *TEXTS[10:20]])
    dataset = build(path, tmp_path / "out", "bytes")
    assert dataset.card["duplicates"] == 12
    found = documents_of(dataset, "train") + documents_of(dataset, "heldout")
    assert sorted(found) == sorted(TEXTS)


def test_bytes_that_are_no_utf8_follow_the_policy(tmp_path):
    path = write_texts(tmp_path / "in", TEXTS)
    (path / "broken.txt").write_bytes(b"before \xff\xfe after")
    assert "broken.txt" in refused(build, path, tmp_path / "out", "bytes")
    for policy, expected in [
        ("keep", b"before \xff\xfe after"),
        ("replace", "before \ufffd\ufffd after".encode()),
        ("skip", None),
    ]:
        dataset = build(path, tmp_path / policy, "bytes", read=ReadOptions(invalid=policy))
        ids = np.concatenate([
            rows.tokens_RxL[rows.loss_mask_RxL]
            for rows in (dataset.rows(split).take(slice(None)) for split in ("train", "heldout"))
        ])  # fmt: skip
        found = dataset.tokenizer.decode_bytes(ids)
        assert (expected is None) == (b"before" not in found)
        assert expected is None or expected in found
        counted = {"replace": {"replaced": 1}, "skip": {"skipped": 1}}.get(policy, {})
        read = dataset.card["read"]
        assert {k: read[k] for k in ("replaced", "skipped")} == {
            "replaced": 0, "skipped": 0,
        } | counted  # fmt: skip


def test_bad_input_that_is_counted_survives_a_rerun(tmp_path):
    """A unit that was read before the kill is counted as if it were read now."""
    path = write_texts(tmp_path / "in", TEXTS)
    (path / "broken.txt").write_bytes(b"before \xff after")
    read = ReadOptions(invalid="replace")
    expected = build(path, tmp_path / "whole", read=read)
    interrupted("gather_bucket", path, tmp_path / "out", read=read)
    assert contents(build(path, tmp_path / "out", read=read).folder) == contents(expected.folder)


# What a folder holds already


def test_complete_dataset_is_left_alone(tmp_path, folder):
    out = tmp_path / "out"
    build(folder, out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "run_in_workers", None)  # neither pass is run
        again = build(folder, out, workers=3)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert again.card == open_prepared(out).card


def test_folder_with_other_files_is_refused(tmp_path, folder):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("the only copy")
    for overwrite in (False, True):
        message = refused(build, folder, out, overwrite=overwrite)
        assert str(out) in message and "--out" in message
        assert contents(out) == {"thesis.tex": b"the only copy"}


OTHER_SETTINGS = pytest.mark.parametrize(
    ("named", "changed"),
    [
        ("seed", {"seed": 1}),
        ("packing", {"packing": "best-fit"}),
        ("heldout_fraction", {"heldout_fraction": 0.3}),
        ("shard_bytes", {"shard_bytes": 2000}),
        ("sample_bytes", {"sample_bytes": 3000}),
        ("tokenizer", {"vocab": "bytes"}),
        ("tokenizer", {"vocab": 310}),
        ("read", {"read": ReadOptions(invalid="keep")}),
    ],
    ids=str,
)


@OTHER_SETTINGS
def test_finished_dataset_with_other_settings_is_refused(folder, whole, named, changed):
    before = contents(whole.folder)
    message = refused(build, folder, whole.folder, **changed)
    assert f"(other {named})" in message and str(whole.folder) in message
    assert "--overwrite" in message
    assert contents(whole.folder) == before


@OTHER_SETTINGS
@pytest.mark.parametrize("at", ["scatter_unit", "write_dataset"])
def test_unfinished_dataset_with_other_settings_is_as_if_new(
    tmp_path, folder, monkeypatch, at, named, changed
):
    """Whatever of it was kept."""
    monkeypatch.setattr(passes, "_UNIT", 1000)
    interrupted(at, folder, tmp_path / "out")
    build(folder, tmp_path / "out", **changed)
    assert contents(tmp_path / "out") == contents(
        build(folder, tmp_path / "fresh", **changed).folder
    )


def interrupted(at, *args, after=0, **settings_):
    """Builds until a function is called, after so many calls."""
    function, calls = getattr(builder, at), []

    def interrupt(*arguments):
        calls.append(arguments)
        if len(calls) > after:
            raise KeyboardInterrupt
        return function(*arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(builder, at, interrupt)
        build(*args, **settings_)


class Opened:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_half_done_build_of_an_earlier_version_is_scattered_again(tmp_path, folder, whole):
    """Its pickles, in unit-*, are not read: whoever can write to the folder could run code."""
    out, touched = tmp_path / "out", tmp_path / "touched"
    interrupted("gather_bucket", folder, out)
    building = out / ".building"
    (scattered,) = building.glob("scattered-*")
    unit = scattered.rename(building / scattered.name.replace("scattered", "unit"))
    for file in unit.glob("*.frames"):
        file.rename(file.with_suffix(".pickle"))
        file.with_suffix(".pickle").write_bytes(pickle.dumps([Opened(touched)]))
    build(folder, out)
    assert contents(out) == contents(whole.folder)
    assert not touched.exists()


@pytest.mark.parametrize("damage", ["cut", "changed", "pickle"])
def test_damaged_intermediate_file_is_named(tmp_path, folder, whole, damage):
    """Without its folder, as the message says, the build continues."""
    out = tmp_path / "out"
    interrupted("gather_bucket", folder, out)
    file = sorted(out.glob(".building/scattered-*/*.frames"))[1]
    raw = file.read_bytes()
    at = len(raw) // 2
    file.write_bytes({
        "cut": raw[:at], "changed": raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :],
        "pickle": pickle.dumps([Opened(tmp_path / "touched")]),
    }[damage])  # fmt: skip
    message = refused(build, folder, out)
    assert message.startswith(f"{file} is damaged") and "remove its folder" in message
    assert not (tmp_path / "touched").exists()
    shutil.rmtree(file.parent)
    build(folder, out)
    assert contents(out) == contents(whole.folder)


def test_other_length_and_path_are_refused_and_named(tmp_path, folder, whole):
    quiet = {"shard_bytes": 6000, "heldout_fraction": 0.2}
    message = refused(DatasetBuilder(whole.folder, **quiet).build_from_raw, folder, 300, 64)
    assert "(other sequence_length)" in message
    other = write_texts(tmp_path / "other", TEXTS)
    assert "(other path)" in refused(build, other, whole.folder)


def test_other_number_of_synthetic_documents_is_refused(tmp_path):
    build("synthetic", tmp_path / "out", "bytes", synthetic_documents=50)
    message = refused(build, "synthetic", tmp_path / "out", "bytes", synthetic_documents=60)
    assert "synthetic_documents" in message or "files" in message


def test_overwrite_makes_the_other_dataset(tmp_path, folder, whole):
    out = tmp_path / "out"
    build(folder, out, "bytes", seed=3, shard_bytes=900)
    dataset = build(folder, out, overwrite=True)
    assert contents(out) == contents(whole.folder)
    assert dataset.card == whole.card


def test_overwrite_leaves_other_files_alone(tmp_path, folder, whole):
    """And does not find out too late that there are some."""
    out = tmp_path / "out"
    build(folder, out, "bytes", seed=3, shard_bytes=900)
    (out / "notes.txt").write_text("mine")
    build(folder, out, overwrite=True)
    assert contents(out) == contents(whole.folder) | {"notes.txt": b"mine"}


def test_overwrite_of_a_build_that_broke_off(tmp_path, folder, whole):
    interrupted("write_dataset", folder, tmp_path / "out", "bytes", seed=3, shard_bytes=900)
    build(folder, tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == contents(whole.folder)


def test_overwrite_of_a_damaged_card(tmp_path, folder, whole):
    out = build(folder, tmp_path / "out").folder
    (out / "dataset.json").write_text("{")
    build(folder, out, overwrite=True)
    assert contents(out) == contents(whole.folder)


@pytest.mark.parametrize("at", ["gather_bucket", "write_dataset"])
@pytest.mark.parametrize("change", ["text", "same size", "time", "new", "gone", "renamed"])
def test_input_that_changes_before_the_rerun(tmp_path, monkeypatch, at, change):
    """Half of the one and half of the other would be no dataset at all."""
    monkeypatch.setattr(passes, "_UNIT", 1000)
    path, out = write_texts(tmp_path / "in", TEXTS), tmp_path / "out"
    interrupted(at, path, out)
    file = path / "0003.txt"
    if change == "text":
        file.write_text(TEXTS[3] * 50)
    elif change == "same size":
        file.write_text(TEXTS[3][::-1])
    elif change == "time":
        os.utime(file, ns=(1, 1))
    elif change == "new":
        (path / "new.txt").write_text("new text")
    elif change == "gone":
        file.unlink()
    else:
        file.rename(path / "renamed.txt")
    build(path, out)
    assert contents(out) == contents(build(path, tmp_path / "fresh").folder)


@pytest.mark.parametrize("change", ["text", "new", "gone"])
def test_finished_dataset_of_other_files_is_refused(tmp_path, change):
    path, out = write_texts(tmp_path / "in", TEXTS), tmp_path / "out"
    build(path, out)
    if change == "text":
        (path / "0003.txt").write_text("something else, " * 300)
    elif change == "new":
        (path / "new.txt").write_text("new text")
    else:
        (path / "0003.txt").unlink()
    before = contents(out)
    message = refused(build, path, out)
    assert "(other files)" in message and "--overwrite" in message and str(out) in message
    assert contents(out) == before
    build(path, out, overwrite=True)
    assert contents(out) == contents(build(path, tmp_path / "fresh").folder)


def test_input_that_was_only_copied_is_the_same(tmp_path):
    path, out = write_texts(tmp_path / "in", TEXTS), tmp_path / "out"
    build(path, out)
    for file in path.iterdir():
        os.utime(file, ns=(1, 1))
    before = contents(out)
    build(path, out)
    assert contents(out) == before


@pytest.mark.parametrize("change", ["more", "same size"])
def test_mending_does_not_mix_old_and_new_input(tmp_path, change):
    """A finished dataset's shard is damaged, and its input is not what it was."""
    path, out = write_texts(tmp_path / "in", TEXTS), tmp_path / "out"
    dataset = build(path, out)
    for number, text in enumerate(TEXTS):
        new = "more, " * 50 if change == "more" else "".join(sorted(text))
        (path / f"{number:04}.txt").write_text(new)
    (out / dataset.shards["train"][1].file).unlink()
    message = refused(build, path, out)
    assert str(out) in message and "--overwrite" in message


# Input that gives no dataset


def nothing_left(tmp_path, source, vocab="bytes", seq_len=32, **changed) -> str:
    """Returns the one line of a build that leaves nothing behind."""
    out = tmp_path / "out"
    message = refused(
        DatasetBuilder(out, heldout_fraction=0.2, **changed).build_from_raw, source, vocab, seq_len
    )
    assert not out.exists(), f"left {sorted(contents(out))}"
    assert not is_prepared(str(out))
    assert_all_ended()
    return message


def assert_all_ended():
    """What a build has started ends with it: nothing writes to the folder later."""
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]
    # The pool's own thread may have waited for a process and not noted yet that it has ended.
    deadline = time.monotonic() + 5
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("text", ["", " \n\t \n"], ids=["empty", "white"])
def test_file_without_text(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    message = nothing_left(tmp_path, tmp_path / "a.txt")
    assert "a.txt" in message and "no text" in message


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt.gz"])
def test_file_without_text_of_other_kinds(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(b"") if suffix.endswith("gz") else b"")
    assert f"a{suffix}" in nothing_left(tmp_path, path)


def test_folder_without_files_or_text(tmp_path):
    path = tmp_path / "in"
    path.mkdir()
    assert str(path) in nothing_left(tmp_path, path)
    for number in range(3):
        (path / f"{number}.txt").write_text("\n\n")
    message = nothing_left(tmp_path, path)
    assert "no text" in message and str(path) in message  # and not one file of three


@pytest.mark.parametrize("path", ["nothing.txt", "*.txt", "", []])
def test_path_that_is_none(tmp_path, path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nothing_left(tmp_path, path)


@pytest.mark.parametrize("length", [1, 0, -5])
def test_length_without_room(tmp_path, folder, length):
    assert str(length) in nothing_left(tmp_path, folder, seq_len=length)


def test_length_beyond_all_training_text(tmp_path, folder):
    message = nothing_left(tmp_path, folder, seq_len=100_000)
    assert "100000" in message and "shorter" in message
    training = [t.encode() for t in TEXTS if not is_heldout(t.encode(), 0.2)]
    tokens = sum(len(text) + 1 for text in training)
    assert f"{tokens} training tokens" in message
    dataset = build(folder, tmp_path / "out", "bytes", shard_bytes=10**6)
    assert dataset.card["splits"]["train"]["tokens"] == tokens
    full = DatasetBuilder(tmp_path / "full", heldout_fraction=0.2, console=_silent())
    full = full.build_from_raw(folder, "bytes", tokens)
    assert full.card["splits"]["train"]["rows"] >= 1


def test_row_longer_than_every_document_is_said(tmp_path, folder):
    console = _silent()
    builder_ = DatasetBuilder(tmp_path / "out", heldout_fraction=0.2, console=console)
    builder_.build_from_raw(folder, "bytes", 2000)
    longest = max(len(text.encode()) for text in TEXTS)
    assert f"no document is longer than {longest} tokens" in console.file.getvalue()


def test_one_document_cannot_be_split(tmp_path):
    (tmp_path / "one.txt").write_text("the only document\n" * 20)
    message = nothing_left(tmp_path, tmp_path / "one.txt")
    assert "one.txt" in message and "no document" in message and "held-out" in message


def test_vocabulary_too_small(tmp_path, folder):
    message = nothing_left(tmp_path, folder, 259)
    assert "259" in message and "260" in message


@pytest.mark.parametrize("vocab", [None, True, 3.5, b"bytes"])
def test_vocab_that_is_none(tmp_path, folder, vocab):
    assert repr(vocab) in nothing_left(tmp_path, folder, vocab)


def test_settings_of_a_tokenizer_without_its_file(tmp_path, folder):
    assert "path" in nothing_left(tmp_path, folder, TokenizerConfig("hf"))
    assert "no.json" in nothing_left(tmp_path, folder, str(tmp_path / "no.json"))


@pytest.mark.parametrize(
    "changed",
    [{"shard_bytes": 0}, {"seed": -1}, {"packing": "worst-fit"}, {"heldout_fraction": 0.0},
     {"heldout_fraction": 1.0}, {"sample_bytes": 0}],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range(tmp_path, folder, changed):
    """The Python API has no parser before it that would refuse them."""
    settings_ = {"heldout_fraction": 0.2} | changed
    message = refused(DatasetBuilder, tmp_path / "out", console=_silent(), **settings_)
    assert next(iter(changed)) in message
    assert not (tmp_path / "out").exists()


def test_list_of_paths_needs_a_folder_to_write(folder):
    assert "--out" in refused(DatasetBuilder().build_from_raw, [folder], "bytes", 32)


def test_output_that_is_a_file(tmp_path, folder):
    (tmp_path / "out").write_text("mine")
    assert str(tmp_path / "out") in refused(build, folder, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


BROKEN = '{"text": "half a line\n'


@pytest.mark.parametrize("workers", [1, 2])
def test_broken_line_is_the_same_one_line_from_any_process(tmp_path, monkeypatch, workers):
    """When it is mended, the same command goes on."""
    monkeypatch.setattr(passes, "_UNIT", 100)
    path, out = tmp_path / "in", tmp_path / "out"
    path.mkdir()
    for number in range(6):
        json_lines(path / f"{number}.jsonl", TEXTS[number * 10 : number * 10 + 10])
    broken = path / "3.jsonl"
    good = broken.read_text()
    lines = good.splitlines(keepends=True)
    broken.write_text("".join([*lines[:4], BROKEN, *lines[5:]]))
    message = refused(build, path, out, workers=workers)
    assert message.startswith(f"{broken}:5 is not JSON")
    assert_all_ended()
    refused(open_prepared, out)
    broken.write_text(good)
    build(path, out)
    assert contents(out) == contents(build(path, tmp_path / "fresh").folder)


def test_broken_line_in_the_only_file_leaves_nothing(tmp_path):
    path = json_lines(tmp_path / "a.jsonl", TEXTS)
    good = path.read_text()
    path.write_text(good + BROKEN)
    assert nothing_left(tmp_path, path).startswith(f"{path}:61 is not JSON")
    path.write_text(good)
    assert build(path, tmp_path / "out").card["read"]["documents"] == 60


# Failures on the way


def go_on(folder, out, whole):
    """The same command, with nothing in its way, ends with the bytes of one that was whole."""
    refused(open_prepared, out)
    build(folder, out)
    assert contents(out) == contents(whole.folder)


@pytest.mark.parametrize("at", range(6))
def test_disk_full_when_json_is_written(tmp_path, folder, whole, monkeypatch, at):
    """The plan, what was read, the tokenizer, two buckets, the tokenizer, (dataset.json)."""
    write, calls = files.write_json, []

    def full(path, data):
        calls.append(path)
        if len(calls) > at:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, data)

    with monkeypatch.context() as patch:
        for module in (builder, passes, resume, card):
            patch.setattr(module, "write_json", full)
        message = refused(build, folder, tmp_path / "out")
    assert "No space left on device" in message and "continues" in message
    assert str(tmp_path / "out") in message
    go_on(folder, tmp_path / "out", whole)


def test_disk_full_when_documents_are_scattered(tmp_path, folder, whole, monkeypatch):
    def full(writer):
        writer._stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(frames.FrameWriter, "flush", full)
        message = refused(build, folder, tmp_path / "out")
    assert "No space left on device" in message and str(tmp_path / "out") in message
    go_on(folder, tmp_path / "out", whole)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_disk_full_when_a_shard_is_written(tmp_path, folder, whole, monkeypatch, split):
    """Really: /dev/full answers every write so, and array_record speaks its own errors."""
    write = shards.write_shard

    def full(path, blocks, dtype):
        if path.name == f"{split}-00001-of-00002.array_record":
            path.with_name(path.name + ".unfinished").symlink_to("/dev/full")
        return write(path, blocks, dtype)

    with monkeypatch.context() as patch:
        patch.setattr(bucket, "write_shard", full)
        message = refused(build, folder, tmp_path / "out")
    assert "No space left on device" in message and f"{split}-00001" in message
    unfinished = tmp_path / "out" / f"{split}-00001-of-00002.array_record.unfinished"
    assert not unfinished.is_symlink()
    go_on(folder, tmp_path / "out", whole)


def test_worker_that_is_killed(tmp_path):
    """One line, and the other processes end; then it goes on."""
    documents = [*texts(60), *(f"deadly {text}" for text in texts(3, seed=9))]
    path, out = write_texts(tmp_path / "in", documents), tmp_path / "out"
    start = time.monotonic()
    message = refused(build, path, out, DeadlyBytes(), workers=2)
    assert "worker" in message and "killed" in message and "--workers" in message
    assert time.monotonic() - start < 60
    assert_all_ended()
    assert "not a finished dataset" in refused(open_prepared, out)
    build(path, out, ByteTokenizer())
    assert contents(out) == contents(build(path, tmp_path / "whole", ByteTokenizer()).folder)


def test_processes_of_others_are_left_alone(tmp_path, folder):
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    other.start()
    try:
        build(folder, tmp_path / "out")
        other.join(0.5)
        assert other.is_alive()
    finally:
        other.kill()
        other.join()


# Tokenizers


def test_kinds_of_vocab(tmp_path, folder, whole):
    assert isinstance(whole.tokenizer, BPETokenizer) and whole.tokenizer.size == 300
    assert build(folder, tmp_path / "a", "bytes").tokenizer.size == 260
    given = build(folder, tmp_path / "b", whole.tokenizer)
    assert description(given) == description(whole)
    (tmp_path / "tokenizer.json").write_text(whole.tokenizer.to_dict()["tokenizer_json"])
    read = build(folder, tmp_path / "c", str(tmp_path / "tokenizer.json"))
    np.testing.assert_array_equal(
        read.rows("train").take(slice(None)).tokens_RxL,
        whole.rows("train").take(slice(None)).tokens_RxL,
    )
    configured = build(folder, tmp_path / "d", TokenizerConfig("bpe", 300))
    assert contents(configured.folder) == contents(whole.folder)


def test_vocabulary_is_trained_on_training_documents_alone(tmp_path):
    """Held-out text must not shape the symbols that it is scored with."""
    strange = [f"{i} zqxj zqxj zqxj" for i in range(400)]
    held = [text for text in strange if is_heldout(text.encode(), 0.2)]
    learned = [text for text in strange if not is_heldout(text.encode(), 0.2)]
    plain, more, other = (
        build(json_lines(tmp_path / f"{name}.jsonl", TEXTS + extra), tmp_path / name)
        for name, extra in (("plain", []), ("more", held), ("other", learned))
    )
    assert more.card["splits"]["heldout"]["documents"] > 50
    assert fingerprint(more.tokenizer) == fingerprint(plain.tokenizer)
    assert fingerprint(other.tokenizer) != fingerprint(plain.tokenizer)


def sample_of(monkeypatch, folder, out, **changed) -> list[str]:
    """Returns the texts that a build trains its tokenizer on."""
    seen = []
    make = builder.make_tokenizer

    def spy(config, sample):
        seen.extend(sample)
        return make(config, seen)

    with monkeypatch.context() as patch:
        patch.setattr(builder, "make_tokenizer", spy)
        build(folder, out, **changed)
    return seen


@pytest.mark.parametrize("limit", [300, 2000, 10**6])
def test_sample_is_bounded_and_the_beginning_of_the_order(tmp_path, folder, monkeypatch, limit):
    sample = sample_of(monkeypatch, folder, tmp_path / "a", sample_bytes=limit)
    training = sorted(
        (text for text in TEXTS if not is_heldout(text.encode(), 0.2)),
        key=lambda text: order_key(text.encode(), 0),
    )
    assert sample == training[: len(sample)]
    size = sum(len(text.encode()) for text in sample)
    assert size <= limit
    if len(sample) < len(training):
        assert size + len(training[len(sample)].encode()) > limit
    else:
        assert limit == 10**6
    assert sample == sample_of(
        monkeypatch, folder, tmp_path / "b", sample_bytes=limit, shard_bytes=500
    )


def test_tokenizer_is_trained_once(tmp_path, folder, whole, monkeypatch):
    """An interrupted build keeps it, and ends with the same bytes."""
    interrupted("gather_bucket", folder, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(builder, "training_sample", None)
        build(folder, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(whole.folder)


# Memory

_MEASURED = """
import pathlib, re, sys
from rich.console import Console
from dlms_jax.data.build.builder import DatasetBuilder

def peak():  # not getrusage: its peak is the parent's, from before exec
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) / 1024

before = peak()
DatasetBuilder(sys.argv[2], shard_bytes=16 << 20, sample_bytes=16 << 20,
               console=Console(quiet=True)).build_from_raw(sys.argv[1], 1000, 512)
print(before, peak())
"""


@pytest.mark.slow
def test_memory_is_bounded(tmp_path):
    """200 MB of text in buckets of 16 MB: six buckets' worth, and what is read ahead."""
    path = tmp_path / "in"
    path.mkdir()
    spelled = np.random.default_rng(0).integers(97, 123, (5000, 5), np.uint8)
    spelled[:, -1] = 32
    for number in range(20):
        words = np.random.default_rng([1, number]).integers(0, 5000, (20_000, 100))
        text = spelled[words].reshape(20_000, 500)
        text[:, -1] = 10
        (path / f"{number}.txt").write_bytes(text.tobytes())
    size = sum(file.stat().st_size for file in path.iterdir())
    assert size == 200_000_000
    result = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(path), str(tmp_path / "out")],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    before, peak = map(float, result.stdout.split())
    print(f"{before:.0f} MiB loaded, {peak:.0f} MiB at the peak")
    assert peak - before < 200


@pytest.mark.parametrize("there", ["in", "./in", "in/", "../work/in", "."])
def test_same_files_from_another_folder_are_the_same_dataset(tmp_path, monkeypatch, there):
    """A relative path names them differently; the dataset is complete, and is left alone."""
    (tmp_path / "work").mkdir()
    path = write_texts(tmp_path / "work" / "in", TEXTS)
    monkeypatch.chdir(path if there == "." else tmp_path / "work")
    build(there, tmp_path / "out")
    before = contents(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    for other in ("work/in", path, "../" + tmp_path.name + "/work/in"):
        build(other, tmp_path / "out")
        assert contents(tmp_path / "out") == before
    (path / "0003.txt").write_text("something else, " * 300)
    assert "(other path)" in refused(build, "work/in", tmp_path / "out")


def test_path_that_is_relative_to_another_folder_is_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = nothing_left(tmp_path, "texts")
    assert "'texts'" in message and f"in {tmp_path}" in message
