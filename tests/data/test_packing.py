"""Packing: every token of every document is scored once, in order, and nothing else is."""

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from dlms_jax.data.packing import Rows, pack

PAD, BOS, EOS = 90, 91, 92
DOCUMENTS = st.lists(st.lists(st.integers(0, 9), max_size=30), max_size=8)
LENGTH = st.integers(2, 20)


def packed(documents, length: int) -> Rows:
    ids = (np.array(document, np.int32) for document in documents)
    return pack(ids, length, bos_id=BOS, eos_id=EOS, pad_id=PAD)


def parts_of(rows: Rows) -> list[list[list[int]]]:
    """Returns, for each row, the tokens of its segments 1, 2, ..., read from the ids alone."""
    parts = []
    for tokens_L, segments_L in zip(rows.tokens_RxL, rows.segments_RxL, strict=True):
        numbers = range(1, segments_L.max() + 1)
        parts.append([tokens_L[segments_L == number].tolist() for number in numbers])
    return parts


@settings(deadline=None, max_examples=200)
@given(documents=DOCUMENTS, length=LENGTH)
def test_each_token_and_eos_is_scored_once_in_order(documents, length):
    rows = packed(documents, length)
    expected = [token for document in documents for token in [*document, EOS]]
    assert rows.tokens_RxL[rows.scored_RxL].tolist() == expected


@settings(deadline=None, max_examples=200)
@given(documents=DOCUMENTS, length=LENGTH)
def test_rows_are_laid_out_as_promised(documents, length):
    rows = packed(documents, length)
    for array in rows:
        assert array.shape == (rows.number, length) and array.dtype == np.int32
    for tokens_L, segments_L, positions_L in zip(*rows, strict=True):
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
            assert EOS not in tokens_L[start : end - 1]  # a segment is of one document
        assert (tokens_L[filled:] == PAD).all()
        assert (positions_L[filled:] == 0).all()


@settings(deadline=None, max_examples=200)
@given(documents=DOCUMENTS, length=LENGTH)
def test_little_room_is_lost(documents, length):
    """One cell that would hold a lone BOS, in any row but the last."""
    padding_R = (packed(documents, length).segments_RxL == 0).sum(axis=1)
    assert (padding_R[:-1] <= 1).all()
    assert (padding_R[-1:] <= length - 2).all()


@settings(deadline=None, max_examples=100)
@given(documents=DOCUMENTS, length=LENGTH)
def test_document_is_cut_only_at_a_rows_end(documents, length):
    """A part without EOS is the last of its row, and the document goes on in the next row."""
    parts = parts_of(packed(documents, length))
    for number, row in enumerate(parts):
        assert all(part[-1] == EOS for part in row[:-1])
        if row[-1][-1] != EOS:
            assert sum(map(len, row)) >= length - 1
            assert number + 1 < len(parts)


def test_worked_example():
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


@pytest.mark.parametrize("document", [[], [5]])
def test_shortest_documents(document):
    rows = packed([document], 4)
    assert parts_of(rows) == [[[BOS, *document, EOS]]]
    assert rows.tokens_RxL[rows.scored_RxL].tolist() == [*document, EOS]


def test_many_empty_documents_are_so_many_ends():
    rows = packed([[]] * 5, 4)
    assert parts_of(rows) == [[[BOS, EOS]] * 2, [[BOS, EOS]] * 2, [[BOS, EOS]]]


def test_no_documents_are_no_rows():
    rows = packed([], 8)
    assert rows.number == 0
    assert all(array.shape == (0, 8) for array in rows)
    assert not rows.scored_RxL.any()


def test_padding_is_not_inferred_from_ids():
    """Text may use the pad id: what is padding is told by the segments."""
    rows = packed([[PAD, PAD]], 6)
    assert rows.tokens_RxL[rows.scored_RxL].tolist() == [PAD, PAD, EOS]
