"""The synthetic language: what it says of its own probabilities is what is drawn, and exact."""

from collections import Counter
import functools
import hashlib
import math

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from dlms_jax.data.corpora.grammar import make_words
from dlms_jax.data.corpora.synthetic import SyntheticLanguage
from dlms_jax.errors import UserError

LANGUAGE = SyntheticLanguage(3)
SMALL = SyntheticLanguage(5, topics=3, nouns=4, verbs=3, adjectives=2, sentences=2)
# So few words that all texts of a length can be listed.
TINY = SyntheticLanguage(1, topics=2, nouns=2, verbs=2, adjectives=1, sentences=1)
BYTES = range(256)
LETTERS = b"abcdefghijklmnopqrstuvwxyz .:"


@functools.cache
def every_text() -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Returns, by size n, ([texts, n] bytes, [texts] probabilities): all of TINY's documents of up
    to 26 bytes, word by word, each with the product of its words' probabilities."""
    found, waiting = {}, [(b"", 0, 1.0)]
    while waiting:
        text, state, p = waiting.pop()
        row = TINY.states[state]
        for token, share in zip(row.tokens, np.diff(row.cumulative, prepend=0), strict=True):
            if not token:
                assert text not in found  # one derivation
                found[text] = p * share
            elif len(text) + len(token) <= 26:
                waiting.append((text + token, row.targets[token], p * share))
    sizes = {n: [text for text in found if len(text) == n] for n in {len(text) for text in found}}
    return {
        n: (np.array([list(text) for text in texts], np.uint8), np.array([found[t] for t in texts]))
        for n, texts in sizes.items()
    }


def sentence(language, subject: int, verb: int, clauses: str, topic: int = 0) -> bytes:
    """Returns a document's start: one sentence whose subject and verb have these classes."""
    words = {kind: by_topic[topic] for kind, by_topic in make_words(language).items()}
    name, det, noun, act = (
        list(words[kind][a])[0]
        for kind, a in (("topic", 0), ("determiner", subject), ("noun", subject), ("verb", verb))
    )
    return f"{name}: {det} {noun} {clauses}{act}.".encode()


def clause(language, pronoun: int, verb: int, topic: int = 0) -> str:
    words = {kind: by_topic[topic] for kind, by_topic in make_words(language).items()}
    parts = (("relative", 0), ("pronoun", pronoun), ("verb", verb))
    return "".join(f"{list(words[kind][a])[-1]} " for kind, a in parts)


def assert_log_p_equal(left, right):
    """Zeros must be zeros exactly."""
    np.testing.assert_array_equal(left == -np.inf, right == -np.inf)
    np.testing.assert_allclose(np.exp(left), np.exp(right), rtol=0, atol=1e-10)
    finite = left > -20  # where a relative error can be told from the sums' rounding
    np.testing.assert_allclose(left[finite], right[finite], rtol=0, atol=1e-6)


def within_four_errors(values, expected: float) -> bool:
    return abs(np.mean(values) - expected) < 4 * np.std(values) / len(values) ** 0.5


# Documents


def test_documents_are_named_by_seed_and_index_alone():
    in_order = list(SMALL.documents(20))
    again = SyntheticLanguage(5, topics=3, nouns=4, verbs=3, adjectives=2, sentences=2)
    assert [d.text for d in in_order] == [again.document(i) for i in reversed(range(20))][::-1]
    assert [d.name for d in in_order] == [f"synthetic/5/{i}" for i in range(20)]
    assert len({d.text for d in in_order}) == 20
    again.document(2**64 - 2)  # no end in sight


def test_seeds_make_other_languages():
    """A text of one is none of the other: words, not only draws, come of the seed."""
    assert SyntheticLanguage(4).log_probs(LANGUAGE.document(0)).sum() == -np.inf
    assert LANGUAGE.log_probs(LANGUAGE.document(0)).sum() > -np.inf


def test_documents_are_the_same_on_every_machine():
    texts = b"\n".join(d.text for d in SyntheticLanguage(0).documents(200))
    assert hashlib.sha256(texts).hexdigest()[:16] == "52283f1d4ad62d46"


def test_words_are_distinct():
    """So a word tells its kind, and its last letter its class."""
    kinds = [
        {word for by_class in by_topic for words in by_class for word in words}
        for by_topic in make_words(LANGUAGE).values()
    ]
    assert len(set.union(*kinds)) == sum(map(len, kinds))
    assert sum(map(len, kinds)) == 6 + 2 + 6 + 4 * (4 + 2 + 16 + 40 + 30)


def test_no_document_is_drawn_twice():
    """So a corpus without duplicates is drawn from the same distribution."""
    assert len({d.text for d in LANGUAGE.documents(5000)}) == 5000
    # The chance that two documents are equal, sum of p**2, is a sum over paths as the mean is.
    states, arcs = len(LANGUAGE.states), LANGUAGE._arcs
    system = np.eye(states)
    np.add.at(system, (arcs.source, arcs.target), -np.exp(2 * arcs.log_p))
    equal = np.linalg.solve(system, np.exp(2 * LANGUAGE._log_end))[0]
    million = 1e6
    assert million * equal < 1e-3  # the share of documents that stand in a million twice


# Probabilities


@pytest.mark.parametrize("language", [SMALL, TINY], ids=["small", "tiny"])
def test_what_may_follow_sums_to_one(language):
    texts = [d.text for d in language.documents(12)]
    prefixes = sorted({text[:n] for text in texts for n in range(len(text) + 1)})
    for prefix in prefixes[:: max(1, len(prefixes) // 60)]:
        p = [np.exp(language.log_probs(prefix + bytes([b]))[len(prefix)]) for b in BYTES]
        p.append(np.exp(language.log_probs(prefix)[-1]))
        assert sum(p) == pytest.approx(1, abs=1e-12)


def test_what_may_follow_sums_to_one_in_every_state():
    for state in LANGUAGE.states:
        children = Counter()
        for prefix, mass in state.mass.items():
            if prefix:
                children[prefix[:-1]] += mass
        children[b""] += state.end
        for prefix, mass in children.items():
            assert mass == pytest.approx(state.mass[prefix], rel=1e-12)
        assert state.mass[b""] == pytest.approx(1, abs=1e-12)
        # No token begins with another: where one ends nothing else goes on.
        assert not any(token in children for token in state.tokens if token)


def test_text_has_the_probability_of_its_words():
    for texts, p in every_text().values():
        for text, p_of_text in list(zip(texts, p, strict=True))[::5]:
            log_p = TINY.log_probs(text.tobytes())
            assert log_p.shape == (len(text) + 1,) and (log_p <= 0).all()
            assert log_p.sum() == pytest.approx(math.log(p_of_text), abs=1e-10)


def test_documents_are_drawn_with_their_probabilities():
    """Chi-square over the most probable documents, all others together."""
    number = 20_000
    counts = Counter(TINY.document(i) for i in range(number))
    cells = [
        (counts[text.tobytes()], p_of_text * number)
        for texts, p in every_text().values()
        for text, p_of_text in zip(texts, p, strict=True)
        if p_of_text * number > 4
    ]
    assert len(cells) > 80
    observed, expected = np.array([*cells, number - np.sum(cells, axis=0)]).T
    chi2 = (np.square(observed - expected) / expected).sum()
    assert abs(chi2 - len(cells)) < 4 * (2 * len(cells)) ** 0.5


def test_entropies_are_those_of_the_documents():
    texts = [d.text for d in LANGUAGE.documents(2000)]
    nats = np.array([-LANGUAGE.log_probs(text).sum() for text in texts])
    sizes = np.array([len(text) for text in texts])
    assert within_four_errors(nats, LANGUAGE.entropy_per_document)
    assert within_four_errors(sizes, LANGUAGE.bytes_per_document)
    # Tighter: most of the spread of nats comes of length, whose mean is known too.
    assert within_four_errors(nats - sizes * LANGUAGE.entropy_rate, 0)
    bits = LANGUAGE.bits_per_byte
    assert bits == LANGUAGE.entropy_per_document / LANGUAGE.bytes_per_document / math.log(2)


def test_much_can_be_learned_and_not_all():
    texts = b"".join(d.text for d in LANGUAGE.documents(300))
    p = np.bincount(np.frombuffer(texts, np.uint8)) / len(texts)
    unigram = -(p[p > 0] * np.log2(p[p > 0])).sum()
    assert 0.9 < LANGUAGE.bits_per_byte < 1.2 < 3.5 < unigram
    sizes = np.array([len(d.text) for d in LANGUAGE.documents(2000)])
    assert 150 < sizes.mean() < 300 and (sizes < 512).mean() > 0.95


def test_length_entropy_is_that_of_the_lengths():
    """Against the entropy of the frequencies, with Miller's correction of its bias."""
    number = 20_000
    counts = np.array(list(Counter(len(TINY.document(i)) for i in range(number)).values()))
    p = counts / number
    plain, spread = -(p * np.log(p)).sum(), np.sqrt(p @ np.square(np.log(p)) - (p @ np.log(p)) ** 2)
    estimate = plain + (len(p) - 1) / (2 * number)
    assert abs(estimate - TINY.length_entropy) < 4 * spread / number**0.5 + 1e-3


# Grammar


@pytest.mark.parametrize("clauses", [0, 1, 7, 60])
def test_verb_agrees_with_its_subject_over_any_distance(clauses):
    between = "".join(clause(LANGUAGE, k % 4, k % 4) for k in range(clauses))
    for subject in range(4):
        for verb in range(4):
            text = sentence(LANGUAGE, subject, verb, between)
            log_p = LANGUAGE.log_probs(text)[:-1]  # one sentence is not enough: no end yet
            assert (log_p[:-2] > -np.inf).all()
            assert (log_p[-2:] > -np.inf).all() == (subject == verb)


def test_verb_of_a_clause_agrees_within_it():
    for pronoun in range(4):
        for verb in range(4):
            text = sentence(LANGUAGE, 2, 2, clause(LANGUAGE, pronoun, verb))
            possible = (LANGUAGE.log_probs(text)[:-1] > -np.inf).all()
            assert possible == (pronoun == verb)


def test_what_is_no_document_has_probability_zero():
    text = LANGUAGE.document(0)
    log_p = LANGUAGE.log_probs(text)
    others = (b"", text[:-1], text + b" ", text[1:], text.upper(), text + b"\xc3", b"\xff" + text)
    for other in others:
        assert LANGUAGE.log_probs(other).sum() == -np.inf
        assert len(LANGUAGE.log_probs(other)) == len(other) + 1
    cut = text.index(b".") + 1
    changed = LANGUAGE.log_probs(text[:cut] + b"?" + text[cut:])
    np.testing.assert_array_equal(changed[:cut], log_p[:cut])  # what came before it is as it was
    assert (changed[cut:] == -np.inf).all()


def test_subject_tells_the_verb_and_verb_the_subject_across_clauses():
    between = "".join(clause(SMALL, k % 4, k % 4) for k in range(6))
    rest = SMALL.document(0).partition(b".")[2]  # of any topic: each has all words
    endings = set()
    for a in range(4):
        text = sentence(SMALL, a, a, between) + rest
        verb = np.arange(len(text)) == text.index(b".") - 1
        start = text.index(between.encode())
        subject = np.array([i < start and byte not in b" :" for i, byte in enumerate(text)])
        (told,) = np.exp(SMALL.conditional(text, verb))
        assert told[text[np.argmax(verb)]] == pytest.approx(1, abs=1e-12)
        (*_, noun) = np.exp(SMALL.conditional(text, subject))
        assert noun[text[start - 2]] == pytest.approx(1, abs=1e-12)
        *_, untold = np.exp(SMALL.conditional(text, subject | verb))
        assert untold[text[np.argmax(verb)]] < 0.9
        endings.add(text[np.argmax(verb)])
    assert len(endings) == 4


def test_topic_is_told_by_the_sentences():
    topics = [list(by_class[0])[0] for by_class in make_words(LANGUAGE)["topic"]]
    gains = []
    for document in LANGUAGE.documents(150):
        topic, _, rest = document.text.decode().partition(":")
        log_p = [LANGUAGE.log_probs(f"{other}:{rest}".encode()).sum() for other in topics]
        gains.append(log_p[topics.index(topic)] - np.logaddexp.reduce(log_p) + math.log(6))
    assert np.mean(gains) > 0.75 * math.log(6)


# The exact denoiser


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_conditional_is_bayes_over_all_texts(data):
    texts, p = every_text()[data.draw(st.sampled_from(sorted(every_text())))]
    n = texts.shape[1]
    text = texts[data.draw(st.integers(0, len(texts) - 1))]
    hidden = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    if data.draw(st.booleans()):  # long gaps, in which words may begin and end anywhere
        hidden[slice(*sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))))] = True
    garbled = np.where(hidden, ord("?"), text).astype(np.uint8).tobytes()
    fits = ((texts == text) | hidden).all(axis=1)
    expected = [np.bincount(texts[fits, i], p[fits], 256) / p[fits].sum() for i in range(n)]
    with np.errstate(divide="ignore"):
        expected = np.log(np.array(expected)[hidden].reshape(-1, 256))
    assert_log_p_equal(TINY.conditional(garbled, hidden), expected)


@pytest.mark.parametrize("part", range(6))
def test_conditional_of_one_byte_is_bayes_of_log_probs(part):
    text = LANGUAGE.document(7)
    place = len(text) * part // 6 + part
    all_log_p = np.array([
        LANGUAGE.log_probs(text[:place] + bytes([byte]) + text[place + 1 :]).sum()
        for byte in BYTES
    ])  # fmt: skip
    (log_p,) = LANGUAGE.conditional(text, np.arange(len(text)) == place)
    assert_log_p_equal(log_p, all_log_p - np.logaddexp.reduce(all_log_p))


@pytest.mark.parametrize("apart", [1, 2, 9])
def test_conditional_of_two_bytes_is_bayes_of_log_probs(apart):
    text = SMALL.document(1)
    first = text.index(b" ", 20) - 1  # a word's last letter, and one that it may bear upon
    joint = np.full((256, 256), -np.inf)
    for one in LETTERS:
        for other in LETTERS:
            changed = bytearray(text)
            changed[first], changed[first + apart] = one, other
            joint[one, other] = SMALL.log_probs(bytes(changed)).sum()
    joint -= np.logaddexp.reduce(joint, axis=None)
    hidden = np.isin(np.arange(len(text)), [first, first + apart])
    log_p = SMALL.conditional(text, hidden)
    assert_log_p_equal(log_p, np.stack([np.logaddexp.reduce(joint, axis=axis) for axis in (1, 0)]))


def test_chain_of_conditionals_is_the_text_given_its_length():
    """In any order: sum of log p(byte | those seen before it) = log p(text) - log p(length)."""
    texts, p = every_text()[max(every_text())]
    text = texts[len(texts) // 2].tobytes()
    expected = math.log(p[len(texts) // 2] / p.sum())
    for seed in range(4):
        hidden, total = np.ones(len(text), bool), 0.0
        for place in np.random.default_rng(seed).permutation(len(text)):
            at = hidden[:place].sum()
            total += TINY.conditional(text, hidden)[at, text[place]]
            hidden[place] = False
        assert total == pytest.approx(expected, abs=1e-9)
        assert TINY.conditional(text, hidden).shape == (0, 256)


def test_conditional_of_a_long_text():
    """Its probability is far below the smallest float, exp(-745)."""
    name, _, rest = SMALL.document(0).partition(b" ")
    others = (d.text.partition(b" ") for d in SMALL.documents(60))
    text = b" ".join([name, rest] + [other for topic, _, other in others if topic == name])
    assert -np.inf < SMALL.log_probs(text).sum() < -1000
    places = [4, len(text) // 2, len(text) - 3]
    log_p = SMALL.conditional(text, np.isin(np.arange(len(text)), places))
    assert (np.abs(np.logaddexp.reduce(log_p, axis=1)) < 1e-9).all()
    for place, row in zip(places, log_p, strict=True):
        assert row[text[place]] > -20


# Errors


@pytest.mark.parametrize(
    "field, value",
    [("seed", -1), ("seed", 2**64), ("topics", 0), ("nouns", 0), ("verbs", 0),
     ("adjectives", 0), ("sentences", 0), ("nouns", 10**6)],
)  # fmt: skip
def test_sizes_out_of_range_are_named(field, value):
    with pytest.raises(UserError, match=f"synthetic language: {field}={value}; give") as caught:
        SyntheticLanguage(**{"seed": 0, field: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"x", b"ep: not of this language.", b"ep"])
def test_impossible_text_has_no_conditional(text):
    with pytest.raises(
        UserError, match=f"no document of {len(text)} bytes .* language 5"
    ) as caught:
        SMALL.conditional(text, np.arange(len(text)) == 2)
    assert "\n" not in str(caught.value)


def test_hidden_must_be_as_long_as_the_text():
    text = SMALL.document(0)
    with pytest.raises(ValueError, match=f"{len(text)} bytes"):
        SMALL.conditional(text, np.array([True]))
