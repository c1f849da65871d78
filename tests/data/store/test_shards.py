"""Shards: what is read is what was written, and what is damaged is named."""

import itertools
import json
import pathlib
import shutil

from hypothesis import given, settings, strategies as st
from killed_builder import build, contents, texts, write_texts
import numpy as np
import pytest

from dlms_jax.data.packing import Rows, join, no_rows
from dlms_jax.data.store import prepared
from dlms_jax.data.store.prepared import Prepared, is_prepared, open_prepared
from dlms_jax.data.store.shards import (
    Shard,
    ShardRows,
    check_shard,
    sha256_of,
    token_type,
    write_shard,
)
from dlms_jax.data.tokenizers import ByteTokenizer
from dlms_jax.errors import UserError

PAD = 77
LENGTH = 12
SHARDS = [
    f"{split}-{bucket:05}-of-00002.array_record"
    for split in ("train", "heldout")
    for bucket in range(2)
]


@pytest.fixture(scope="module")
def texts_folder(tmp_path_factory) -> pathlib.Path:
    return write_texts(tmp_path_factory.mktemp("input") / "texts", texts(60))


@pytest.fixture(scope="module")
def whole(texts_folder, tmp_path_factory) -> Prepared:
    dataset = build(texts_folder, tmp_path_factory.mktemp("prepared") / "whole")
    assert sorted(SHARDS) == sorted(s.file for split in dataset.shards.values() for s in split)
    return dataset


@pytest.fixture(scope="module")
def other(texts_folder, tmp_path_factory) -> Prepared:
    """Other rows, in shards of the same names and sizes."""
    return build(texts_folder, tmp_path_factory.mktemp("prepared") / "other", seed=1)


@pytest.fixture
def copied(whole, tmp_path) -> pathlib.Path:
    return shutil.copytree(whole.folder, tmp_path / "copied")


def refused(call, *args, **kwargs) -> str:
    """Returns the one line that a call is refused with."""
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    message = str(error.value)
    assert message and "\n" not in message
    return message


def assert_same(left: Rows, right: Rows):
    for name, a, b in zip(Rows._fields, left, right, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, name
        np.testing.assert_array_equal(a, b)


# Rows: padding on the left (of prompts), segments, what is scored, padding on the right


@st.composite
def one_row(draw, largest: int) -> Rows:
    before = draw(st.integers(0, LENGTH))
    lengths, room = [], LENGTH - before
    while room and draw(st.booleans()):
        lengths.append(draw(st.integers(1, room)))
        room -= lengths[-1]
    number = sum(lengths)
    rows = Rows(np.full((1, LENGTH), PAD, np.int32), *np.zeros((2, 1, LENGTH), np.int32),
                np.zeros((1, LENGTH), bool), np.zeros(1, np.int32))  # fmt: skip
    here = slice(before, before + number)
    rows.tokens_RxL[0, here] = draw(
        st.lists(st.integers(0, largest), min_size=number, max_size=number)
    )
    rows.segments_RxL[0, here] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    rows.positions_RxL[0, here] = [i for n in lengths for i in range(n)]
    if draw(st.booleans()):  # a text: all but BOS
        rows.loss_mask_RxL[0, here] = rows.positions_RxL[0, here] > 0
    else:  # a dialogue: some
        rows.loss_mask_RxL[0, here] = draw(
            st.lists(st.booleans(), min_size=number, max_size=number)
        )
    return rows


@st.composite
def stored(draw, largest: int = 299):
    """Yields shards, each a list of blocks of rows; some hold none."""
    block = st.lists(one_row(largest), max_size=4).map(lambda rows: join(rows, LENGTH))
    return draw(st.lists(st.lists(block, max_size=2), min_size=1, max_size=3))


def write(folder, shards, vocabulary=300) -> tuple[ShardRows, Rows]:
    """Returns rows on disk, and the same ones in memory."""
    dtype = token_type(vocabulary)
    written = [
        write_shard(folder / f"{number}.array_record", blocks, dtype)
        for number, blocks in enumerate(shards)
    ]
    rows = join(itertools.chain(*shards), LENGTH)
    return ShardRows(folder, written, LENGTH, PAD, dtype), rows


@settings(deadline=None, max_examples=60)
@given(shards=stored(), data=st.data())
def test_rows_on_disk_are_those_in_memory(tmp_path_factory, shards, data):
    on_disk, rows = write(tmp_path_factory.mktemp("shards"), shards)
    assert on_disk.number == rows.number and on_disk.length == rows.length
    assert_same(on_disk.take(slice(None)), rows)
    bound = st.none() | st.integers(-10, 10)
    steps = st.none() | st.sampled_from([-3, -1, 1, 2, 5])
    chosen = slice(data.draw(bound), data.draw(bound), data.draw(steps))
    assert_same(on_disk.take(chosen), rows.take(chosen))
    indices = st.lists(st.integers(0, rows.number - 1), max_size=9) if rows.number else st.just([])
    chosen = np.array(data.draw(indices), np.int64)  # in any order, some twice
    assert_same(on_disk.take(chosen), rows.take(chosen))


@settings(deadline=None, max_examples=25)
@given(shards=stored())
def test_indices_mean_what_they_mean_in_memory(tmp_path_factory, shards):
    """From the end, and as a mask: a wrong row would be worse than an error."""
    on_disk, rows = write(tmp_path_factory.mktemp("shards"), shards)
    if rows.number:
        last = np.array([-1, -rows.number])
        assert_same(on_disk.take(last), rows.take(last))
        mask = np.arange(rows.number) % 2 == 1
        assert_same(on_disk.take(mask), rows.take(mask))
    for beyond in (rows.number, -rows.number - 1):
        with pytest.raises((IndexError, UserError)):
            on_disk.take(np.array([beyond]))


@settings(deadline=None, max_examples=40)
@given(shards=stored())
def test_nth_token_is_found_where_it_is(tmp_path_factory, shards):
    on_disk, rows = write(tmp_path_factory.mktemp("shards"), shards)
    counted = 0
    for row, scored_L in enumerate(rows.loss_mask_RxL):
        for nth in range(1, int(scored_L.sum()) + 1):
            counted += 1
            assert on_disk.find_token(counted) == rows.find_token(counted) == (row, nth)


@settings(deadline=None, max_examples=10)
@given(largest=st.sampled_from([65535, 65536, 70_000]), data=st.data())
def test_large_vocabularies(tmp_path_factory, largest, data):
    """The largest ids, in as few bytes as they need."""
    row = data.draw(one_row(largest))
    row.tokens_RxL[row.segments_RxL > 0] = largest
    on_disk, rows = write(tmp_path_factory.mktemp("shards"), [[row]], largest + 1)
    assert_same(on_disk.take(slice(None)), rows)


def test_token_type_is_the_smallest_that_holds_the_ids():
    assert [token_type(v) for v in (2, 65536)] == [np.uint16] * 2
    assert [token_type(v) for v in (65537, 2**20)] == [np.uint32] * 2


def test_find_token_beyond_blocks_of_a_shard(tmp_path):
    """Shards are searched a block at a time."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 300, (2500, LENGTH)).astype(np.int32)
    scored = rng.random((2500, LENGTH)) < 0.4
    rows = Rows(tokens, np.ones_like(tokens), np.tile(np.arange(LENGTH, dtype=np.int32), (2500, 1)),
                scored, np.zeros(2500, np.int32))  # fmt: skip
    on_disk, _ = write(tmp_path, [[rows.take(slice(0, 1100))], [rows.take(slice(1100, None))]])
    total = int(scored.sum())
    for n in (1, total // 3, total // 2, total - 1, total):
        assert on_disk.find_token(n) == rows.find_token(n)


def test_shard_is_described_and_nothing_else_is_left(tmp_path):
    rows = [_filled(5), no_rows(LENGTH), _filled(3)]
    shard = write_shard(tmp_path / "a.array_record", rows, token_type(300))
    path = tmp_path / "a.array_record"
    assert shard == Shard(path.name, 8, 8 * (LENGTH - 1), path.stat().st_size, sha256_of(path))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    again = write_shard(tmp_path / "b.array_record", [_filled(5), _filled(3)], token_type(300))
    assert again.sha256 == shard.sha256  # of rows, not of blocks
    check_shard(tmp_path, shard, contents=True)


def _filled(number) -> Rows:
    ids = np.tile(np.arange(LENGTH, dtype=np.int32), (number, 1))
    return Rows(ids + 5, np.ones_like(ids), ids, ids > 0, np.zeros(number, np.int32))


def test_shard_that_broke_off_is_not_there(tmp_path):
    def broken():
        yield _filled(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "a.array_record", broken(), token_type(300))
    assert not (tmp_path / "a.array_record").exists()
    assert write_shard(tmp_path / "a.array_record", [_filled(3)], token_type(300)).rows == 3


# Damage


def damage(folder: pathlib.Path, file: str, kind: str, other: Prepared):
    path = folder / file
    if kind == "missing":
        path.unlink()
    elif kind == "other":
        shutil.copy(other.folder / file, path)
    else:
        data = bytearray(path.read_bytes())
        if kind == "flipped":
            data[len(data) // 3] ^= 4
        elif kind == "empty":
            data = b""
        else:
            data = data[:-1] if kind == "shorter" else data + b"\0"
        path.write_bytes(data)


@pytest.mark.parametrize("kind", ["missing", "empty", "shorter", "longer", "flipped", "other"])
@pytest.mark.parametrize("file", SHARDS)
def test_damaged_shard_is_named_and_alone_made_again(
    whole, other, copied, texts_folder, file, kind
):
    damage(copied, file, kind, other)
    message = refused(open_prepared, copied)
    assert str(copied / file) in message and "again" in message
    assert not any(name in message for name in SHARDS if name != file)

    times = {path.name: path.stat().st_mtime_ns for path in copied.glob("*.array_record")}
    build(texts_folder, copied)
    assert contents(copied) == contents(whole.folder)
    bucket = file.partition("-")[2]  # both splits of a bucket are made together
    for path in copied.glob("*.array_record"):
        if not path.name.endswith(bucket):
            assert path.stat().st_mtime_ns == times[path.name]
    assert_same(
        open_prepared(copied).rows("train").take(slice(None)),
        whole.rows("train").take(slice(None)),
    )


@pytest.mark.parametrize("kind", ["missing", "empty", "shorter", "longer"])
@pytest.mark.parametrize("file", SHARDS)
def test_sizes_are_always_checked(other, copied, monkeypatch, file, kind):
    """However large the dataset."""
    monkeypatch.setattr(prepared, "_CHECKED_AT_START", -1)
    damage(copied, file, kind, other)
    assert str(copied / file) in refused(open_prepared, copied)


@pytest.mark.parametrize("file", SHARDS)
def test_flipped_byte_is_named_when_the_row_is_read(whole, copied, monkeypatch, file):
    """Where checksums would take minutes: a row is right, or is refused."""
    monkeypatch.setattr(prepared, "_CHECKED_AT_START", -1)
    split = file.partition("-")[0]
    expected = whole.rows(split).take(slice(None))
    good = (copied / file).read_bytes()
    used = [i for i, byte in enumerate(good) if byte]  # the rest is padding
    header = sum(i < 64 for i in used)
    seen = 0
    for at in [*used[header:][:: max(len(used) // 60, 1)], used[-1], used[-40]]:
        data = bytearray(good)
        data[at] ^= 1 << (at % 8)
        (copied / file).write_bytes(data)
        dataset = open_prepared(copied)
        try:
            rows = dataset.rows(split).take(slice(None))
        except UserError as error:
            assert str(copied / file) in str(error) and "\n" not in str(error)
            seen += 1
        else:
            assert_same(rows, expected)
    assert seen > 50


def test_shard_of_another_dataset_is_named_when_it_is_read(
    texts_folder, whole, copied, tmp_path, monkeypatch
):
    """As far as it shows: it has another number of rows."""
    monkeypatch.setattr(prepared, "_CHECKED_AT_START", -1)
    longer = build(texts_folder, tmp_path / "longer", "bytes")
    for split in ("train", "heldout"):
        file = f"{split}-00001-of-00002.array_record"
        assert longer.shards[split][1].size == whole.shards[split][1].size
        shutil.copy(longer.folder / file, copied / file)
        dataset = open_prepared(copied)
        assert str(copied / file) in refused(
            lambda d, s: d.rows(s).take(slice(None)), dataset, split
        )


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "null", '"text"', '{"name": "nothing"}', None, b"\xff\xfe"]
)
def test_damaged_vocabulary_is_named(copied, text):
    path = copied / "vocab.json"
    path.unlink()
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refused(open_prepared, copied)
    assert str(path) in message and "again" in message


def test_vocabulary_of_another_tokenizer_is_named(copied):
    (copied / "vocab.json").write_text(json.dumps(ByteTokenizer().to_dict()))
    assert str(copied / "vocab.json") in refused(open_prepared, copied)


@pytest.mark.parametrize("text", [None, "{", json.dumps(ByteTokenizer().to_dict())])
@pytest.mark.parametrize("shard", [None, SHARDS[1]])
def test_damaged_vocabulary_is_mended(whole, copied, texts_folder, text, shard):
    """ "Prepare the dataset again" must be of help."""
    (copied / "vocab.json").unlink()
    if text is not None:
        (copied / "vocab.json").write_text(text)
    if shard:
        (copied / shard).unlink()
    build(texts_folder, copied)
    assert contents(copied) == contents(whole.folder)


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_card_that_is_cut_off_is_named(whole, data):
    path = whole.folder / "dataset.json"
    good = path.read_bytes()
    size = data.draw(st.integers(0, len(good.rstrip()) - 1))
    try:
        path.write_bytes(good[:size])
        assert str(path) in refused(open_prepared, whole.folder)
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("text", ["[]", "null", '"text"', "{}", '{"format": 1}', b"\xff\xfe"])
def test_card_of_something_else_is_named(copied, texts_folder, text):
    (copied / "dataset.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert str(copied / "dataset.json") in refused(open_prepared, copied)
    assert is_prepared(str(copied))  # so it is not taken for a folder of texts


@pytest.mark.parametrize("text", ["{", "", "[]", '"text"', "{}", '{"format": 1}'])
def test_damaged_card_is_one_line_to_the_builder_too(whole, copied, texts_folder, text):
    (copied / "dataset.json").write_text(text)
    before = contents(copied)
    message = refused(build, texts_folder, copied)
    assert str(copied) in message
    assert contents(copied) == before
    build(texts_folder, copied, overwrite=True)
    assert_same(
        open_prepared(copied).rows("train").take(slice(None)),
        whole.rows("train").take(slice(None)),
    )


def test_card_of_another_format_is_refused(copied):
    card = json.loads((copied / "dataset.json").read_text()) | {"format": 99}
    (copied / "dataset.json").write_text(json.dumps(card))
    message = refused(open_prepared, copied)
    assert str(copied) in message and "99" in message and "update dlms_jax" in message


def test_no_dataset_is_named(tmp_path):
    assert str(tmp_path) in refused(open_prepared, tmp_path)
    assert "nothing" in refused(open_prepared, tmp_path / "nothing")
    assert not is_prepared(str(tmp_path)) and not is_prepared("")
    (tmp_path / ".building").mkdir()
    assert is_prepared(str(tmp_path))
    message = refused(open_prepared, tmp_path)
    assert "not a finished dataset" in message and str(tmp_path) in message


def test_dataset_may_be_moved(whole, tmp_path, monkeypatch):
    shutil.copytree(whole.folder, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    moved = open_prepared("moved")
    for split in ("train", "heldout"):
        assert_same(moved.rows(split).take(slice(None)), whole.rows(split).take(slice(None)))
