"""Canvases: given text, holes, padding."""

import numpy as np
import pytest

from dlms_jax.data.tokenizers import ByteTokenizer
from dlms_jax.errors import UserError
from dlms_jax.sampling import make_canvas, parse_infill

T = ByteTokenizer()


def test_texts_stay_and_numbers_become_holes():
    tokens_BxL, holes_BxL, layout = make_canvas([["ab", 3, "c"], [2, "d"]], T, context=100)
    assert tokens_BxL[0, :7].tolist() == [T.bos_id, 97, 98, T.mask_id, T.mask_id, T.mask_id, 99]
    assert tokens_BxL[1, :4].tolist() == [T.bos_id, T.mask_id, T.mask_id, 100]
    assert [row.nonzero()[0].tolist() for row in holes_BxL] == [[3, 4, 5], [1, 2]]
    assert [row.nonzero()[0].tolist() for row in layout.prompt_mask_BxL] == [[1, 2, 6], [3]]


def test_rows_are_padded_to_one_length_with_segment_0():
    tokens_BxL, _, layout = make_canvas([["ab", 3, "c"], [2, "d"]], T, context=100, class_id=2)
    assert tokens_BxL.shape == (2, 64)
    assert layout.segments_BxL.sum(axis=1).tolist() == [7, 4]
    assert layout.positions_BxL[0, :8].tolist() == [0, 1, 2, 3, 4, 5, 6, 0]
    assert (tokens_BxL[layout.segments_BxL == 0] == T.pad_id).all()
    np.testing.assert_array_equal(layout.class_B, [2, 2])


@pytest.mark.parametrize(("tokens", "length"), [(1, 64), (63, 64), (64, 100), (99, 100)])
def test_padding_stays_within_the_context(tokens, length):
    assert make_canvas([[tokens]], T, context=100).tokens_BxL.shape == (1, length)


def test_too_long_for_the_context_is_one_line():
    with pytest.raises(UserError, match=r"3 tokens.*10 to fill.*context of 12.*9 tokens or fewer"):
        make_canvas([[1], ["ab", 10]], T, context=12)
    make_canvas([[1], ["ab", 9]], T, context=12)
    with pytest.raises(UserError, match="a model with a longer context"):
        make_canvas([["abcdef", 1]], T, context=5)


def test_infill_templates():
    assert parse_infill("The {} of {12} is", 8) == ["The ", 8, " of ", 12, " is"]
    assert parse_infill("{}", 3) == [3]
    for template in ("no hole", "", "{0}"):
        with pytest.raises(UserError, match="has no hole"):
            parse_infill(template, 8)
