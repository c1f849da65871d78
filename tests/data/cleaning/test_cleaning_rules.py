"""The rules that look at one document: each on both sides of its threshold, counted by hand."""

import dataclasses
import unicodedata

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from dlms_jax.data.cleaning import quality
from dlms_jax.data.cleaning.filters import Drop, check_languages, judge
from dlms_jax.data.cleaning.options import CleaningOptions
from dlms_jax.data.cleaning.words import ngram_hashes, word_hashes, words
from dlms_jax.data.corpora.document import Document, to_bytes
from dlms_jax.errors import UserError


def reason_of(text: str, **options) -> tuple[str, str] | None:
    """Returns (stage, reason) of a text that is dropped; None for one that stays."""
    judged = judge(Document("a", to_bytes(text)), CleaningOptions(**options))
    return judged.key if isinstance(judged, Drop) else None


def text_of(text: str, **options) -> str:
    return judge(Document("a", to_bytes(text)), CleaningOptions(**options)).characters


# Options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"normalize": "NFD"}, "cleaning.normalize is 'NFD'; it can be none, NFC, NFKC"),
        ({"min_characters": -1}, "cleaning.min_characters is -1"),
        ({"max_characters": -2}, "cleaning.max_characters is -2"),
        ({"min_characters": 5, "max_characters": 4}, "cleaning.max_characters is 4, less than"),
        ({"near_duplicates": 1.5}, "cleaning.near_duplicates is 1.5"),
        ({"near_duplicates": float("nan")}, "cleaning.near_duplicates is nan"),
        ({"languages": ("en",), "min_language_probability": 2}, "min_language_probability is 2"),
        ({"min_language_probability": 0.5}, "needs cleaning.languages"),
        ({"languages": "en"}, "cleaning.languages is a str; write ('en',)"),
        ({"quality": ("c5",)}, "cleaning.quality names 'c5'; the rule sets are c4, gopher"),
        ({"num_perm": 1}, "cleaning.num_perm is 1; it must be at least 2"),
        ({"shingle": 0}, "cleaning.shingle is 0; it must be at least 1"),
        ({"ngram": 0}, "cleaning.ngram is 0; it must be at least 1"),
    ],
)
def test_an_impossible_option_is_one_line_that_names_it(options, says):
    with pytest.raises(UserError) as error:
        CleaningOptions(**options)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_language_that_is_never_found_is_an_error():
    check_languages(CleaningOptions(languages=("en", "de")))
    with pytest.raises(UserError, match="names 'english'; known are .*en, ") as error:
        check_languages(CleaningOptions(languages=("en", "english")))
    assert "\n" not in str(error.value)


# Unicode, length, language


def test_normalisation_is_off_unless_asked():
    assert text_of("e\u0301 ﬁ") == "e\u0301 ﬁ"
    assert text_of("e\u0301 ﬁ", normalize="NFC") == "é ﬁ"
    assert text_of("e\u0301 ﬁ", normalize="NFKC") == "é fi"


@settings(deadline=None)
@given(text=st.text(), form=st.sampled_from(["NFC", "NFKC"]), raw=st.binary(max_size=3))
def test_normalisation_keeps_bytes_that_are_no_utf8(text, form, raw):
    text += raw.decode("utf-8", "surrogateescape")
    expected = unicodedata.normalize(form, text).encode("utf-8", "surrogateescape")
    document = Document("", to_bytes(text))
    assert judge(document, CleaningOptions(normalize=form)).text == expected


def test_name_that_is_not_unicode_is_escaped_in_counts():
    judged = judge(Document("\udcffa", b"ab\xff"), CleaningOptions(min_characters=4))
    assert judged == (("length", "under 4 characters"), (1, 3, "\\udcffa"))


def test_length_is_of_the_normalised_text():
    assert reason_of("abc", min_characters=3, max_characters=3) is None
    assert reason_of("ab", min_characters=3) == ("length", "under 3 characters")
    assert reason_of("abcd", max_characters=3) == ("length", "over 3 characters")
    assert reason_of("e\u0301", max_characters=1) == ("length", "over 1 characters")
    assert reason_of("e\u0301", max_characters=1, normalize="NFC") is None


ENGLISH = "The committee has not yet decided which of the proposals it will support this year."
GERMAN = "Der Ausschuss hat noch nicht entschieden, welchen der Vorschläge er unterstützen wird."


def test_language():
    assert reason_of(ENGLISH, languages=("en",)) is None
    assert reason_of(GERMAN, languages=("en",)) == ("language", "language de")
    assert reason_of(GERMAN, languages=("en", "de"), min_language_probability=0.5) is None
    sure = {"languages": ("en",), "min_language_probability": 0.99}
    assert reason_of(ENGLISH * 20, **sure) is None
    assert reason_of("in the", **sure) == ("language", "language uncertain")


def test_a_language_is_that_of_the_start():
    assert reason_of(ENGLISH * 60 + GERMAN * 200, languages=("en",)) is None
    assert reason_of(GERMAN * 60 + ENGLISH * 200, languages=("en",)) is not None


# C4


def c4(text: str) -> tuple[str, str]:
    return quality.c4(text)


THREE = "One two three four five. Six is a number! Is seven a number too?"


def test_c4_keeps_lines_of_five_words_that_end_a_sentence():
    kept = [
        "this line has five words.",
        "this line has five words!",
        "this line has five words?",
        'this line has "five words."',
        "this line has “five words”",
    ]
    dropped = [
        "this line has five words",
        "this line has five words,",
        "this has four words.",
        "you must enable JavaScript to see this.",
        "By using this site you accept our Terms of Use.",
        "This site uses cookies to do things.",
        "",
    ]
    assert c4("\n".join([*dropped, *kept, *dropped])) == ("\n".join(kept), "")


def test_c4_drops_pages():
    assert c4(THREE) == (THREE, "")
    assert c4(THREE.replace("!", ","))[1] == "fewer than 3 sentences"
    assert c4(f"{THREE}\nLorem ipsum dolor")[1] == "lorem ipsum"
    assert c4(THREE + "\nvoid main() {")[1] == "curly bracket"
    assert c4("")[1] == "fewer than 3 sentences"


def test_c4_removes_citation_marks():
    marked = THREE.replace("three", "three[12]").replace("number!", "number [edit]!")
    assert c4(marked + " [citation needed]") == (THREE.replace("number!", "number !"), "")
    assert c4(THREE.replace("three", "[three]"))[0] == THREE.replace("three", "[three]")


@settings(deadline=None)
@given(st.lists(st.sampled_from([*THREE.split(), "\n", "javascript", "a", "..."]), max_size=60))
def test_c4_has_nothing_to_add_to_what_it_keeps(pieces):
    text, reason = c4(" ".join(pieces))
    assert reason or c4(text) == (text, "")


# Gopher's quality rules. GOOD has 50 words of 4 letters, 2 of them stop words.

GOOD = ["that", "with", *(f"wor{chr(97 + i % 26)}" for i in range(48))]


def gopher(words, join=" ") -> str:
    return quality.gopher(join.join(words))[1]


def test_gopher_takes_good_text():
    assert gopher(GOOD) == "" and gopher(GOOD, "\n") == ""


@pytest.mark.parametrize(
    ("good", "bad", "reason"),
    [
        (GOOD, GOOD[:-1], "fewer than 50 words"),
        (GOOD * 2000, [*GOOD * 2000, "word"], "more than 100000 words"),
        # 48 words of 3 letters are 144 of the 150 that 50 words of 3 have.
        (["the", "and", *["abc"] * 48], ["the", "to", *["abc"] * 48], "mean word length outside"),
        (["with", "have", *["a" * 10] * 47, "a" * 22], ["with", "have", *["a" * 10] * 47, "a" * 23],
         "mean word length outside"),
        ([*GOOD[:45], *["abc#"] * 5], [*GOOD[:44], *["abc#"] * 6], "more than 0.1 hashes"),
        ([*["a..."] * 5, *GOOD[:45]], [*["a..."] * 6, *GOOD[:44]], "more than 0.1 ellipses"),
        ([*["abc…"] * 5, *GOOD[:45]], [*["abc…"] * 6, *GOOD[:44]], "more than 0.1 ellipses"),
        ([*GOOD[:40], *["1234"] * 10], [*GOOD[:39], *["1234"] * 11], "under 80% of words"),
        (["that", "word", *["with"] * 48], ["word", "word", *["with"] * 48], "fewer than 2 stop"),
        (["That", "WITH", *["word"] * 48], ["That", "with,", *["word"] * 48], "fewer than 2 stop"),
    ],
)  # fmt: skip
def test_gopher_quality_thresholds(good, bad, reason):
    assert gopher(good) == ""
    assert gopher(bad).startswith(reason)


def test_gopher_line_thresholds():
    nine, ten = [f"• {word} abcd" for word in GOOD[:9]], [f"- {word} abcd" for word in GOOD[:10]]
    rest = " ".join(GOOD)
    assert gopher([*nine, rest], "\n") == ""  # 9 of 10 lines
    assert gopher([*ten, rest], "\n") == "over 90% of lines start with a bullet"  # 10 of 11
    ellipsis, line = " ".join(GOOD[:30]) + " …", " ".join(GOOD)
    assert gopher([ellipsis] * 3 + [line] * 7, "\n\n") == ""  # 3 of 10, blank lines left out
    assert gopher([ellipsis] * 4 + [line] * 9, "\n") == "over 30% of lines end in an ellipsis"


# Gopher's repetition rules


def repetition(text: str) -> str:
    return quality.gopher_repetition(text)[1]


def unique(number: int, start: int = 0) -> list[str]:
    """Returns words of 5 characters, all different."""
    return [f"{number:05d}" for number in range(start, start + number)]


def test_repetition_takes_text_without_any():
    assert repetition(" ".join(unique(300))) == "" and repetition("") == ""


def test_lines_that_repeat():
    # "a" comes twice, once too often: 3 of 10 lines, then 3 of 9, all but no characters.
    lines = ["a", "b", "c", "a", "b", "c", *(" ".join(unique(9, 10 * i)) for i in range(4))]
    assert repetition("\n".join(lines)) == ""
    assert repetition("\n".join(lines[:-1])) == "over 30% of lines repeat"
    assert repetition("\n\n".join(lines[:-1])) == "over 30% of lines repeat"


def test_characters_in_lines_that_repeat():
    # 20 of 100 characters, then 20 of 99: as lines of one word, so no n-gram is long enough.
    lines = ["a" * 20, "b" * 30, "a" * 20, "c" * 15, "d" * 15]
    assert repetition("\n".join(lines)) == ""
    lines[-1] = "d" * 14
    assert repetition("\n".join(lines)) == "over 20% of characters in lines that repeat"


def test_paragraphs_that_repeat():
    # Ten lines a paragraph, so that few lines repeat where 1 of 4, then 2 of 5 paragraphs do.
    small, big = "a\nb", ["\n".join(unique(30, 100 * i)) for i in range(3)]
    assert repetition("\n\n".join([small, small, *big])) == ""
    assert repetition(" \n \n\n".join([small] * 3 + big)) == "over 30% of paragraphs repeat"


def test_characters_in_paragraphs_that_repeat():
    """The ends of lines count in a paragraph: 19 of 80 characters, and 10 of 62 in lines."""
    twice = "\n".join("abcdefghij")
    what = "over 20% of characters in paragraphs that repeat"
    paragraphs = [twice, twice, *(f"{i:03d}" for i in range(14))]
    assert repetition("\n\n".join(paragraphs)) == what
    paragraphs += [f"{i:03d}" for i in range(14, 19)]  # 19 of 95
    assert repetition("\n\n".join(paragraphs)) != what
    assert repetition("\n\n".join(paragraphs[:-1])) == what  # 19 of 92


def shares(words) -> dict[int, tuple[float, float]]:
    return {n: (top, again) for n, top, again in quality.ngram_shares(words, range(2, 11))}


def test_ngram_shares_by_hand():
    # "ab cd" twice and "x ab", "cd x" once: 2-grams ab cd, cd x, x ab, ab cd.
    found = shares(["ab", "cd", "x", "ab", "cd"])
    assert found[2] == (8 / 9, 4 / 9)  # both "ab cd"; the second of them
    assert found[3] == (0, 0) and found[10] == (0, 0)
    # "a a" three times in a row covers all; the second and third cover the last three.
    assert shares(["a"] * 4)[2] == (1.0, 0.75)
    # As often, but longer: "ccc d" before "a b".
    assert shares(["a", "b", "a", "b", "ccc", "d", "ccc", "d"])[2][0] == 8 / 12
    assert shares([])[2] == (0, 0)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=40))
def test_ngram_shares_equal_counting(words):
    total = sum(map(len, words)) or 1
    for n, (top, again) in shares(words).items():
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

        def covered(starts, n=n):
            inside = {i + k for i in starts for k in range(n)}
            return sum(len(words[i]) for i in inside) / total

        repeated = [i for i, gram in enumerate(grams) if gram in grams[:i]]
        assert again == covered(repeated)
        if not repeated:
            assert top == 0
            continue
        most = max(map(grams.count, grams))
        best = [gram for gram in grams if grams.count(gram) == most]
        best = max(best, key=lambda gram: len("".join(gram)))  # max takes the first of equals
        assert top == covered([i for i, gram in enumerate(grams) if gram == best])


@pytest.mark.parametrize("n", range(2, 11))
def test_ngram_thresholds(n):
    """n words that come twice among words that come once: at the threshold, and a word beyond."""
    if n < 5:
        percent, what = round(quality._MAX_TOP[n] * 100), f"one {n}-gram"
        twice = unique(n)
        size = 2 * 5 * n  # both times count
    else:
        percent, what = round(quality._MAX_REPEATED[n] * 100), f"{n}-grams that repeat"
        twice = ["y" * 100, *"abcdefgh"[: n - 2], "z" * 100]  # so that fewer words stay below
        size = sum(map(len, twice))  # the second time counts
    least = -(-(100 * size // percent - 2 * len("".join(twice))) // 5)  # of other words
    for number in (least + 1, least - 1):
        rest = unique(number, 100)
        text = " ".join([*twice, *rest[: number // 2], *twice, *rest[number // 2 :]])
        over = 100 * size > percent * len(text.replace(" ", ""))
        assert over == (number < least)
        reason = f"over {percent}% of characters in {what}"
        assert repetition(text) == (reason if over else "")


# FineWeb


def fineweb(lines) -> str:
    return quality.fineweb("\n".join(lines))[1]


def test_fineweb_lines_that_end_in_punctuation():
    plain = [f"{i:02d} this line is long enough but ends" for i in range(25)]
    ended = [f"{line}." for line in plain]
    assert fineweb(ended[:4] + plain[4:]) == ""  # 16%
    assert fineweb(ended[:3] + plain[3:]) == "at most 12% of lines end in punctuation"  # 12%
    assert fineweb([]) == "at most 12% of lines end in punctuation"


def test_fineweb_lines_that_repeat():
    lines = [f"{i:02d} this line is long enough and ends." for i in range(10)]
    assert fineweb([*lines, lines[0]]) == ""  # 1 of 11
    assert fineweb([*lines[:9], lines[0]]) == "10% of characters in lines that repeat"  # 1 of 10


def test_fineweb_short_lines():
    long = [f"{i:02d} is thirty characters long.." for i in range(34)]
    short = [f"{i:02d} is twenty nine characters." for i in range(67)]
    assert {len(line) for line in long} == {30} and {len(line) for line in short} == {29}
    assert fineweb(long + short[:-1]) == ""  # 66 of 100
    assert fineweb(long[1:] + short) == "67% of lines under 30 characters"


# Rule sets together


def test_c4_comes_before_the_others_whatever_the_order():
    """It leaves lines out; the others judge what is left."""
    text = "\n".join([THREE, *GOOD])  # 50 lines without an end: all dropped by C4
    for names in (("gopher", "c4"), ("c4", "gopher")):
        assert reason_of(text, quality=names) == ("quality", "gopher: fewer than 50 words")
    assert text_of(text, quality=("c4",)) == THREE
    assert reason_of(text, quality=("gopher",)) is None


def test_options_are_all_read():
    """Every field changes what some test here, or in the other test_cleaning files, sees."""
    assert {field.name for field in dataclasses.fields(CleaningOptions)} == {
        "normalize", "min_characters", "max_characters", "languages", "min_language_probability",
        "quality", "near_duplicates", "num_perm", "shingle", "decontaminate", "ngram",
    }  # fmt: skip


# Words


def test_words():
    assert words("Don't STOP: 3.5 §x_y  é") == ["don", "t", "stop", "3", "5", "x", "y", "é"]
    assert words("हिन्दी") == ["हिन्दी"]  # vowel signs are part of a word
    assert words(" \n.,!") == []


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 14))
def test_ngram_hashes_are_equal_just_where_the_words_are(letters, n):
    hashes = ngram_hashes(word_hashes(letters), n)
    grams = [tuple(letters[i : i + n]) for i in range(len(letters) - n + 1)]
    assert len(hashes) == len(grams) and hashes.dtype == np.uint64
    assert len(set(hashes.tolist())) == len(set(grams))
    if grams:
        assert ngram_hashes(word_hashes(list(grams[-1])), n)[0] == hashes[-1]  # wherever they stand
