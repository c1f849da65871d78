"""Packing: every token of every document is scored once, and nothing else is."""

from collections import Counter
import itertools

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from dlms_jax.data import packing
from dlms_jax.data.packing import Rows, best_fit, join, no_rows, pack

PAD, BOS, EOS = 90, 91, 92
METHODS = ["concat", "best-fit"]
both = pytest.mark.parametrize("method", METHODS)
SIZES = st.lists(st.integers(0, 30), max_size=12)
LENGTH = st.integers(2, 20)


def packed(documents, length: int, method="concat") -> Rows:
    return join(blocks_of(documents, length, method), length)


def blocks_of(documents, length, method):
    ids = (np.array(document, np.int32) for document in documents)
    return pack(ids, length, BOS, EOS, PAD, method)


def documents_of(sizes) -> list[list[int]]:
    """Returns documents of these sizes, of which no two tokens are equal."""
    ends = np.cumsum([0, *sizes]) + 1000
    return [list(range(start, end)) for start, end in itertools.pairwise(ends.tolist())]


def parts_of(rows: Rows) -> list[list[list[int]]]:
    """Returns, for each row, the tokens of its segments 1, 2, ..., read from the ids alone."""
    parts = []
    for tokens_L, segments_L in zip(rows.tokens_RxL, rows.segments_RxL, strict=True):
        numbers = range(1, segments_L.max() + 1)
        parts.append([tokens_L[segments_L == number].tolist() for number in numbers])
    return parts


def assert_same(left: Rows, right: Rows):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


# Both methods


@both
@settings(deadline=None, max_examples=80)
@given(sizes=SIZES, length=LENGTH)
def test_documents_come_back_from_their_parts(method, sizes, length):
    """No token lost, repeated or moved, whatever was cut: parts put together are the documents."""
    documents = documents_of(sizes)
    texts, lone_ends = {}, 0
    for part in sum(parts_of(packed(documents, length, method)), []):
        if part[1:] == [EOS]:
            lone_ends += 1  # an empty document, or one whose end alone did not fit
        else:
            assert part[1] not in texts
            texts[part[1]] = part[1:]
    joined = []
    for document in documents:
        text = []
        while len(text) < len(document):
            text += texts.pop(document[len(text)])
        if text[len(document) :] != [EOS]:
            assert text == document
            lone_ends -= 1
            text = [*text, EOS]
        joined.append(text)
    assert joined == [[*document, EOS] for document in documents]
    assert not texts and not lone_ends


@both
@settings(deadline=None, max_examples=80)
@given(documents=st.lists(st.lists(st.integers(0, 9), max_size=30), max_size=8), length=LENGTH)
def test_each_token_and_eos_is_scored_once(method, documents, length):
    rows = packed(documents, length, method)
    expected = [token for document in documents for token in [*document, EOS]]
    scored = rows.tokens_RxL[rows.loss_mask_RxL].tolist()
    assert Counter(scored) == Counter(expected)
    if method == "concat":
        assert scored == expected  # in order, too


@both
@settings(deadline=None, max_examples=80)
@given(sizes=SIZES, length=LENGTH)
def test_rows_are_laid_out_as_promised(method, sizes, length):
    rows = packed(documents_of(sizes), length, method)
    for array, dtype in zip(rows.cells, (np.int32, np.int32, np.int32, bool), strict=True):
        assert array.shape == (rows.number, length) and array.dtype == dtype
    for tokens_L, segments_L, positions_L, scored_L in zip(*rows.cells, strict=True):
        filled = int((segments_L > 0).sum())
        # Text first, padding after it; segments 1, 2, ... without a gap, each in one piece.
        assert (segments_L[:filled] > 0).all()
        assert segments_L[0] == 1 and set(np.diff(segments_L[:filled])) <= {0, 1}
        starts = np.flatnonzero(np.diff(segments_L[:filled], prepend=0))
        for start, end in zip(starts, [*starts[1:], filled], strict=True):
            assert end - start >= 2  # BOS alone scores nothing
            assert tokens_L[start] == BOS
            assert BOS not in tokens_L[start + 1 : end]
            assert positions_L[start:end].tolist() == list(range(end - start))
            assert scored_L[start:end].tolist() == [False] + [True] * (end - start - 1)
            assert EOS not in tokens_L[start : end - 1]  # a segment is of one document
        assert (tokens_L[filled:] == PAD).all()
        assert not positions_L[filled:].any() and not scored_L[filled:].any()


@both
def test_blocks_join_to_the_same_as_one_block(method, monkeypatch):
    sizes = [(37 * n) % 23 for n in range(3000)]
    blocks = list(blocks_of(documents_of(sizes), 16, method))
    numbers = [block.number for block in blocks]
    assert len(numbers) > 2 and set(numbers[:-1]) == {1024} and 0 < numbers[-1] <= 1024
    monkeypatch.setattr(packing, "_BLOCK", 10**9)
    (whole,) = blocks_of(documents_of(sizes), 16, method)
    assert_same(join(blocks, 16), whole)


@both
def test_last_block_may_be_full(method):
    """1024 rows are one block, not one and an empty one."""
    assert [block.number for block in blocks_of([[5]] * 1024, 3, method)] == [1024]


@both
@pytest.mark.parametrize("document", [[], [5]])
def test_shortest_documents(method, document):
    rows = packed([document], 4, method)
    assert parts_of(rows) == [[[BOS, *document, EOS]]]
    assert rows.tokens_RxL[rows.loss_mask_RxL].tolist() == [*document, EOS]


@both
def test_many_empty_documents_are_so_many_ends(method):
    rows = packed([[]] * 5, 4, method)
    assert parts_of(rows) == [[[BOS, EOS]] * 2, [[BOS, EOS]] * 2, [[BOS, EOS]]]


@both
def test_no_documents_are_no_rows(method):
    assert list(blocks_of([], 8, method)) == []
    rows = packed([], 8, method)
    assert rows.number == 0 and rows.length == 8
    assert_same(rows, no_rows(8))
    assert all(array.shape == (0, 8) for array in rows.cells)


@both
def test_padding_is_not_inferred_from_ids(method):
    """Text may use the pad id: what is padding is told by the segments."""
    rows = packed([[PAD, PAD]], 6, method)
    assert rows.tokens_RxL[rows.loss_mask_RxL].tolist() == [PAD, PAD, EOS]


@both
@pytest.mark.parametrize("dtype", [np.uint16, np.int64, np.uint32])
def test_ids_of_any_type_are_packed(method, dtype):
    """Also those of a tokenizer that gives types in which EOS would not fit beside the ids."""
    document = np.array([3, 4], dtype)
    rows = join(pack([document], 4, BOS, 70_000, PAD, method), 4)
    assert rows.tokens_RxL.tolist() == [[BOS, 3, 4, 70_000]]


# Documents one after the other


@settings(deadline=None, max_examples=80)
@given(sizes=SIZES, length=LENGTH)
def test_concat_loses_little_room(sizes, length):
    """One cell that would hold a lone BOS, in any row but the last."""
    padding_R = (packed(documents_of(sizes), length).segments_RxL == 0).sum(axis=1)
    assert (padding_R[:-1] <= 1).all()
    assert (padding_R[-1:] <= length - 2).all()


@settings(deadline=None, max_examples=100)
@given(sizes=SIZES, length=LENGTH)
def test_concat_cuts_a_document_only_at_a_rows_end(sizes, length):
    """A part without EOS is the last of its row, and the document goes on in the next row."""
    parts = parts_of(packed(documents_of(sizes), length))
    for number, row in enumerate(parts):
        assert all(part[-1] == EOS for part in row[:-1])
        if row[-1][-1] != EOS:
            assert sum(map(len, row)) >= length - 1
            assert number + 1 < len(parts)


def test_concat_worked_example():
    """Three documents in rows of six: the first is cut, the second leaves a cell free."""
    rows = packed([[1, 2, 3, 4, 5], [6], [7]], 6)
    assert rows.tokens_RxL.tolist() == [
        [BOS, 1, 2, 3, 4, 5],
        [BOS, EOS, BOS, 6, EOS, PAD],
        [BOS, 7, EOS, PAD, PAD, PAD],
    ]
    assert rows.segments_RxL.tolist() == [
        [1, 1, 1, 1, 1, 1],
        [1, 1, 2, 2, 2, 0],
        [1, 1, 1, 0, 0, 0],
    ]
    assert rows.positions_RxL.tolist() == [
        [0, 1, 2, 3, 4, 5],
        [0, 1, 0, 1, 2, 0],
        [0, 1, 2, 0, 0, 0],
    ]


def test_concat_is_a_stream():
    """The first rows come before the last document is read."""
    read = []
    documents = (read.append(n) or [n % 50] * 100 for n in range(3000))
    assert next(blocks_of(documents, 128, "concat")).number == 1024
    assert len(read) < 1500


# Best fit


@settings(deadline=None, max_examples=80)
@given(sizes=SIZES, length=LENGTH)
def test_best_fit_cuts_only_what_is_longer_than_a_row(sizes, length):
    """And that into as few parts as hold it."""
    documents = documents_of(sizes)
    parts = sum(parts_of(packed(documents, length, "best-fit")), [])
    needed = [-(-(size + 1) // (length - 1)) for size in sizes]
    assert len(parts) == sum(needed)
    for document, number in zip(documents, needed, strict=True):
        if number == 1:
            assert [BOS, *document, EOS] in parts


def test_best_fit_worked_example():
    """Rows of 7: sizes with BOS and EOS 8 (cut: 7 and 2), 3, 4, 5; 5 takes the 2, 4 the 3."""
    rows = packed([[1] * 6, [2], [3, 3], [4, 4, 4]], 7, "best-fit")
    assert parts_of(rows) == [
        [[BOS, *[1] * 6]],
        [[BOS, 4, 4, 4, EOS], [BOS, EOS]],
        [[BOS, 3, 3, EOS], [BOS, 2, EOS]],
    ]


PIECES = st.lists(st.integers(1, 12), max_size=40)


@settings(deadline=None, max_examples=150)
@given(sizes=PIECES, capacity=st.integers(12, 25))
def test_best_fit_chooses_as_a_search_of_all_rows_would(sizes, capacity):
    """Replays the pieces, the largest first: each went where the least room was left."""
    row_of = {piece: r for r, row in enumerate(best_fit(sizes, capacity)) for piece in row}
    assert sorted(row_of) == list(range(len(sizes)))
    rooms = []
    for piece in sorted(row_of, key=lambda piece: (-sizes[piece], piece)):
        fitting = [room for room in rooms if room >= sizes[piece]]
        if not fitting:
            rooms.append(capacity)
            assert row_of[piece] == len(rooms) - 1
        else:
            assert rooms[row_of[piece]] == min(fitting)
        rooms[row_of[piece]] -= sizes[piece]
    assert all(room >= 0 for room in rooms)


def fewest_rows(sizes, capacity) -> int:
    """Returns the optimum by trying every row for every piece."""
    best = len(sizes)

    def place(left, rooms):
        nonlocal best
        if len(rooms) >= best and left:
            return
        if not left:
            best = min(best, len(rooms))
            return
        for room in {room for room in rooms if room >= left[0]}:
            rest = list(rooms)
            rest.remove(room)
            place(left[1:], [*rest, room - left[0]])
        place(left[1:], [*rooms, capacity - left[0]])

    place(sorted(sizes, reverse=True), [])
    return best


@settings(deadline=None, max_examples=100)
@given(sizes=st.lists(st.integers(1, 12), max_size=9))
def test_best_fit_needs_few_rows_more_than_the_optimum(sizes):
    """At most 11/9 of it, and one (Johnson 1973); exactly one where one suffices."""
    rows, optimum = len(best_fit(sizes, 12)), fewest_rows(sizes, 12)
    assert optimum <= rows <= optimum * 11 / 9 + 1
    if optimum <= 1:
        assert rows == optimum


def test_search_for_the_optimum_beats_best_fit_where_it_can():
    """A case in which best-fit decreasing is not optimal: else the bound above tests nothing."""
    sizes = [4, 4, 3, 3, 3, 3]  # 4+3+3 twice, capacity 10; best-fit pairs the fours
    assert fewest_rows(sizes, 10) == 2
    assert len(best_fit(sizes, 10)) == 3


def test_best_fit_of_many_pieces_is_nearly_full():
    """Of short documents, as corpora have: rows are more than 99% full."""
    sizes = np.random.default_rng(0).geometric(1 / 60, 20_000).clip(2, 512).tolist()
    rows = best_fit(sizes, 512)
    assert sum(sizes) / (len(rows) * 512) > 0.99
    assert max(sum(sizes[piece] for piece in row) for row in rows) <= 512


# Rows


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_find_token_finds_each(data):
    """Also where rows score nothing, and where not every token of a row is scored."""
    scored = data.draw(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1))
    loss_mask_RxL = np.array(scored)
    ids = np.zeros(loss_mask_RxL.shape, np.int32)
    rows = Rows(ids, ids, ids, loss_mask_RxL, ids[:, 0])
    found = [rows.find_token(n + 1) for n in range(loss_mask_RxL.sum())]
    assert found == [(r, k + 1) for r, row in enumerate(scored) for k in range(sum(row))]


def test_take_is_indexing():
    rows = packed(documents_of([3, 9, 1, 4, 7]), 6)
    for indices in (slice(1, 3), np.array([2, 0, 2]), np.array([], int)):
        assert_same(rows.take(indices), Rows(*(array[indices] for array in rows)))
