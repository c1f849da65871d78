"""Datasets: what a fingerprint tells, corpora in memory and prepared ones, mixtures, subsets."""

import dataclasses
import json
import pathlib

from hypothesis import given, settings, strategies as st
from killed_builder import build, texts
import numpy as np
import pytest

from dlms_jax.config import Config, DataConfig, from_dict
from dlms_jax.data.corpora.document import Document, is_heldout, order_key, to_bytes, to_str
from dlms_jax.data.corpora.synthetic import SyntheticLanguage
from dlms_jax.data.feed import dataset as dataset_module
from dlms_jax.data.feed.dataset import Split, build_dataset, load_split, make_split
from dlms_jax.data.packing import Rows
from dlms_jax.data.store.prepared import open_prepared
from dlms_jax.data.tokenizers import ByteTokenizer, fingerprint
from dlms_jax.errors import UserError
from dlms_jax.runtime.same_run import check_same_run

TEXTS = ("first text", "second, é\U0001f600", "third")
FRACTION = 0.2  # of killed_builder's datasets, whose rows have 32 places


def split_of(texts_, length: int = 8) -> Split:
    documents = [Document(f"{number}", to_bytes(text)) for number, text in enumerate(texts_)]
    return make_split("test", documents, ByteTokenizer(), DataConfig(sequence_length=length))


def config_of(corpus="", tokenizer=None, **data) -> Config:
    data = {"corpus": str(corpus), "sequence_length": 32, "heldout_fraction": FRACTION} | data
    return from_dict({"data": data, "tokenizer": tokenizer or {}})


def refused(call, *args, **kwargs) -> str:
    """Returns the one line that a call is refused with."""
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    message = str(error.value)
    assert message and "\n" not in message
    return message


def all_rows(split: Split) -> Rows:
    return split.rows.take(slice(None))


def scored(split: Split) -> np.ndarray:
    """Returns the scored tokens in order."""
    rows = all_rows(split)
    return rows.tokens_RxL[rows.loss_mask_RxL]


def assert_same(left: Rows, right: Rows):
    for name, a, b in zip(Rows._fields, left, right, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, pathlib.Path]:
    """Two corpora of files."""
    base = tmp_path_factory.mktemp("raw")
    for seed, name in enumerate(("one", "two")):
        (base / name).mkdir()
        for number, text in enumerate(texts(60, seed=seed)):
            (base / name / f"{number}.txt").write_text(text)
    return {path.name: path for path in base.iterdir()}


@pytest.fixture(scope="module")
def prepared(folders, tmp_path_factory) -> dict[str, str]:
    """The two corpora prepared, in one bucket and in several; and with other tokenizers."""
    base = tmp_path_factory.mktemp("prepared")
    build(folders["one"], base / "one", "bytes", shard_bytes=10**6)
    build(folders["two"], base / "two", "bytes", shard_bytes=900)
    build(folders["one"], base / "bpe", 300)
    build(folders["one"], base / "best-fit", "bytes", packing="best-fit", shard_bytes=10**6)
    return {path.name: str(path) for path in base.iterdir()}


# Fingerprints


def test_fingerprint_counts_what_is_there():
    prints = split_of(TEXTS).fingerprint
    size = sum(len(text.encode()) for text in TEXTS)
    assert prints["documents"] == 3
    assert prints["bytes"] == size
    assert prints["tokens"] == size + 3  # each byte, and EOS
    assert all(isinstance(value, int | str) for value in prints.values())  # kept as JSON


@pytest.mark.parametrize(
    "changed",
    [
        ("first texT", *TEXTS[1:]),
        ("first text ", *TEXTS[1:]),
        TEXTS[::-1],
        TEXTS[:2],
        ("first", " text", *TEXTS[1:]),
        ("first textsecond, é\U0001f600", "third"),
        ("first textsecond, ", "é\U0001f600", "third"),
        (*TEXTS, ""),
    ],
    ids=["letter", "space", "order", "fewer", "cut", "joined", "moved", "empty"],
)
def test_fingerprint_changes_with_the_text(changed):
    assert split_of(changed).fingerprint["sha256"] != split_of(TEXTS).fingerprint["sha256"]


def test_fingerprint_is_of_the_text_alone():
    """Not of file names, rows or Python's hashes: a resume on another machine compares it."""
    documents = [Document(f"other/{text}", to_bytes(text)) for text in TEXTS]
    data = DataConfig(sequence_length=5, packing="best-fit")
    other = make_split("another name", documents, ByteTokenizer(), data)
    assert other.fingerprint == split_of(TEXTS).fingerprint
    assert other.fingerprint["sha256"].startswith("aaaf25d1c99f1d2c")


def test_fingerprint_sees_bytes_that_are_no_utf8():
    def sha256(raw):
        return split_of([to_str(raw)]).fingerprint["sha256"]

    assert len({sha256(b"\xff"), sha256(b"\xfe"), sha256(b"?")}) == 3


def test_prepared_fingerprint_changes_with_the_text_alone(folders, prepared, tmp_path):
    """As many documents, bytes and tokens, but another text: a resume must not go on with it."""
    changed = tmp_path / "changed.jsonl"
    documents = [path.read_text() for path in folders["one"].iterdir()]

    def learned(text):
        return not is_heldout(text.encode(), FRACTION)

    at = next(i for i, t in enumerate(documents) if learned(t) and learned(t[::-1]))
    assert documents[at] != documents[at][::-1]
    documents[at] = documents[at][::-1]
    changed.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    new = build(changed, tmp_path / "out", "bytes", shard_bytes=10**6).fingerprints()
    old = open_prepared(prepared["one"]).fingerprints()
    assert new["heldout"] == old["heldout"]
    assert new["train"]["sha256"] != old["train"]["sha256"]
    assert {k: v for k, v in new["train"].items() if k != "sha256"} == {
        k: v for k, v in old["train"].items() if k != "sha256"
    }


# In memory


def test_dataset_scores_every_byte_of_its_side(folders):
    dataset = build_dataset(config_of(folders["one"]))
    (train,) = dataset.train
    sides = {False: [], True: []}
    for path in folders["one"].iterdir():
        sides[is_heldout(path.read_bytes(), FRACTION)].append(path.read_text())
    for split, side in ((train, sides[False]), (dataset.heldout, sides[True])):
        found = dataset.tokenizer.decode(scored(split))  # EOS gives nothing
        assert len(found.encode()) == split.fingerprint["bytes"]
        assert split.fingerprint["documents"] == len(side)
        assert all(text in found for text in side)
        assert split.fingerprint["tokens"] == len(scored(split))
    assert dataset.weights == [1.0]


def test_tokenizer_is_trained_on_the_training_side_alone(folders, tmp_path):
    """Held-out text must not shape the symbols that it is scored with."""
    settings_ = {"tokenizer": {"name": "bpe", "vocab_size": 300}}
    documents = [path.read_text() for path in folders["one"].iterdir()]
    strange = [f"{i} zqxj zqxj zqxj" for i in range(400)]
    held = [text for text in strange if is_heldout(text.encode(), FRACTION)]
    learned = [text for text in strange if not is_heldout(text.encode(), FRACTION)]
    made = {}
    for name, more in (("plain", []), ("held", held), ("learned", learned)):
        (tmp_path / name).mkdir()
        for number, text in enumerate(documents + more):
            (tmp_path / name / f"{number}.txt").write_text(text)
        made[name] = build_dataset(config_of(tmp_path / name, **settings_))
    assert made["held"].heldout.fingerprint["documents"] > 50
    assert made["held"].train[0].fingerprint == made["plain"].train[0].fingerprint
    assert fingerprint(made["held"].tokenizer) == fingerprint(made["plain"].tokenizer)
    assert fingerprint(made["learned"].tokenizer) != fingerprint(made["plain"].tokenizer)


def test_given_tokenizer_is_used(folders, prepared):
    """A resume brings the checkpoint's tokenizer."""
    given_ = ByteTokenizer()
    bpe = {"name": "bpe", "vocab_size": 300}
    assert build_dataset(config_of(folders["one"], bpe), given_).tokenizer is given_
    assert build_dataset(config_of(prepared["one"]), given_).tokenizer is given_


def test_single_document_cannot_be_split(tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("the only document\n")
    for fraction in (0.001, 0.999):  # neither side may be empty
        message = refused(build_dataset, config_of(path, heldout_fraction=fraction))
        assert "one.txt" in message and "heldout_fraction" in message


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_corpus_without_text(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    assert "a.txt" in refused(build_dataset, config_of(tmp_path / "a.txt"))
    assert "a.txt" in refused(load_split, str(tmp_path / "a.txt"), ByteTokenizer(), DataConfig())


def test_corpus_too_large_for_memory_is_to_be_prepared(folders, monkeypatch):
    size = sum(path.stat().st_size for path in folders["one"].iterdir())
    monkeypatch.setattr(dataset_module, "_LARGEST_IN_MEMORY", size)
    build_dataset(config_of(folders["one"]))
    monkeypatch.setattr(dataset_module, "_LARGEST_IN_MEMORY", size - 1)
    for call in (
        lambda: build_dataset(config_of(folders["one"])),
        lambda: load_split(str(folders["one"]), ByteTokenizer(), DataConfig()),
        lambda: build_dataset(config_of(mixture={str(folders["one"]): 1.0, "synthetic": 1.0})),
    ):
        message = refused(call)
        assert f"python -m dlms_jax.prepare dataset {folders['one']} --out" in message


def test_synthetic_corpus_knows_the_best(tmp_path):
    """The true -log p of these very documents, in bits per byte: no model can do better."""
    config = config_of("synthetic", synthetic_documents=40, seed=3)
    dataset = build_dataset(config)
    language = SyntheticLanguage(3)
    documents = [d.text for d in language.documents(40) if is_heldout(d.text, FRACTION)]
    nats = -sum(language.log_probs(text).sum() for text in documents)
    size = sum(map(len, documents))
    best = dataset.heldout.fingerprint["best_bits_per_byte"]
    assert best == pytest.approx(nats / np.log(2) / size, rel=1e-9)
    assert 0 < best < 8
    everything = load_split("synthetic", dataset.tokenizer, config.data)
    assert everything.fingerprint["documents"] == 40
    assert everything.fingerprint["best_bits_per_byte"] == pytest.approx(best, rel=0.2)
    other = build_dataset(config_of("synthetic", synthetic_documents=40, seed=4))
    assert other.heldout.fingerprint["best_bits_per_byte"] != best


# Prepared


@pytest.mark.parametrize("packing", ["concat", "best-fit"])
def test_prepared_rows_are_those_in_memory(folders, prepared, packing):
    name = "one" if packing == "concat" else "best-fit"
    on_disk = build_dataset(config_of(prepared[name], packing=packing))
    in_memory = build_dataset(config_of(folders["one"], packing=packing))
    assert fingerprint(on_disk.tokenizer) == fingerprint(in_memory.tokenizer)
    pairs = [(on_disk.train[0], in_memory.train[0]), (on_disk.heldout, in_memory.heldout)]
    for left, right in pairs:
        assert left.rows.number == right.rows.number
        assert_same(all_rows(left), all_rows(right))
        for key in ("documents", "bytes", "tokens"):
            assert left.fingerprint[key] == right.fingerprint[key]


def test_prepared_tokens_are_those_in_memory_for_any_buckets(folders, prepared):
    """In the same order; a bucket starts a row, so rows may differ."""
    on_disk, in_memory = (
        build_dataset(config_of(c)) for c in (prepared["two"], folders["two"])
    )  # fmt: skip
    assert len(open_prepared(prepared["two"]).card["buckets"]) > 3
    np.testing.assert_array_equal(scored(on_disk.train[0]), scored(in_memory.train[0]))
    np.testing.assert_array_equal(scored(on_disk.heldout), scored(in_memory.heldout))


def test_held_out_part_is_loaded_alone(folders, prepared):
    dataset = open_prepared(prepared["one"])
    split = load_split(prepared["one"], ByteTokenizer(), DataConfig())
    assert_same(all_rows(split), dataset.rows("heldout").take(slice(None)))
    assert split.fingerprint == dataset.fingerprints()["heldout"]
    everything = load_split(str(folders["one"]), ByteTokenizer(), DataConfig(sequence_length=32))
    assert everything.fingerprint["documents"] == 60
    message = refused(load_split, prepared["bpe"], ByteTokenizer(), DataConfig())
    assert prepared["bpe"] in message and "tokenizer" in message


def test_unfinished_dataset_is_not_taken_for_a_folder_of_text(folders, tmp_path):
    (tmp_path / "out" / ".building").mkdir(parents=True)
    (tmp_path / "out" / "a.txt").write_text("text")
    for call in (
        lambda: build_dataset(config_of(tmp_path / "out")),
        lambda: load_split(str(tmp_path / "out"), ByteTokenizer(), DataConfig()),
    ):
        assert "not a finished dataset" in refused(call)


@pytest.mark.parametrize(
    ("key", "other", "made"),
    [
        ("sequence_length", 64, 32),
        ("packing", "best-fit", "concat"),
        ("seed", 7, 0),
        ("heldout_fraction", 0.1, FRACTION),
    ],
)
def test_other_settings_than_those_of_the_preparation(prepared, key, other, made):
    message = refused(build_dataset, config_of(prepared["one"], **{key: other}))
    assert prepared["one"] in message
    assert f"--config.data.{key}={made}" in message and str(other) in message
    assert build_dataset(config_of(prepared["one"], **{key: made}))


@pytest.mark.parametrize(
    ("name", "tokenizer", "fix"),
    [
        ("bpe", {"name": "bytes"}, "--config.tokenizer.name=bpe"),
        ("bpe", {"name": "sentencepiece"}, "--config.tokenizer.name=bpe"),
        ("bpe", {"name": "bpe", "vocab_size": 301}, "--config.tokenizer.vocab_size=300"),
        ("one", {"name": "bpe", "vocab_size": 300}, "--config.tokenizer.name=bytes"),
    ],
)
def test_other_tokenizer_than_that_of_the_preparation(prepared, name, tokenizer, fix):
    message = refused(build_dataset, config_of(prepared[name], tokenizer))
    assert prepared[name] in message and fix in message


def test_tokenizer_of_a_file_must_be_that_of_the_preparation(folders, prepared, tmp_path):
    tokenizer = open_prepared(prepared["bpe"]).tokenizer
    (tmp_path / "mine.json").write_text(tokenizer.to_dict()["tokenizer_json"])
    other = build(folders["two"], tmp_path / "two", 300).tokenizer
    (tmp_path / "other.json").write_text(other.to_dict()["tokenizer_json"])
    mine = build(folders["one"], tmp_path / "mine", str(tmp_path / "mine.json")).folder
    config = config_of(mine, {"name": "hf", "path": str(tmp_path / "mine.json")})
    assert fingerprint(build_dataset(config).tokenizer) == fingerprint(
        open_prepared(mine).tokenizer
    )
    config = config_of(mine, {"name": "hf", "path": str(tmp_path / "other.json")})
    assert str(mine) in refused(build_dataset, config)
    message = refused(build_dataset, config_of(mine, {"name": "bpe"}), other)  # a checkpoint's
    assert str(mine) in message and "tokenizer" in message


def test_special_tokens_that_the_preparation_lacks(prepared):
    """A setting that is accepted and ignored would be found when it is too late."""
    tokenizer = {"name": "bytes", "special_tokens": ("<|user|>",)}
    assert prepared["one"] in refused(build_dataset, config_of(prepared["one"], tokenizer))


# Mixtures


def test_mixture_shares_the_prepared_tokenizer(folders, prepared):
    """Whichever comes first; and each corpus is what it is alone."""
    bpe = {"name": "bpe", "vocab_size": 300}
    one, two = prepared["bpe"], str(folders["two"])
    for mixture in ({one: 3.0, two: 1.0}, {two: 1.0, one: 3.0}):
        dataset = build_dataset(config_of(tokenizer=bpe, mixture=mixture))
        assert fingerprint(dataset.tokenizer) == fingerprint(open_prepared(one).tokenizer)
        assert dataset.weights == list(mixture.values())
        by_name = dict(zip(mixture, dataset.train, strict=True))
        assert_same(all_rows(by_name[one]), open_prepared(one).rows("train").take(slice(None)))
        alone = build_dataset(config_of(two, bpe), dataset.tokenizer)
        assert_same(all_rows(by_name[two]), all_rows(alone.train[0]))
        assert [one in split.name for split in dataset.train] == [name == one for name in mixture]
        learned = [t for t in map(pathlib.Path.read_bytes, folders["two"].iterdir())
                   if not is_heldout(t, FRACTION)]  # fmt: skip
        learned.sort(key=lambda text: order_key(text, 0))
        assert dataset.tokenizer.decode_bytes(scored(by_name[two])) == b"".join(learned)


def test_mixture_trains_its_tokenizer_on_all_training_parts(folders):
    bpe = {"name": "bpe", "vocab_size": 320}
    both, one, two = (
        build_dataset(config_of(tokenizer=bpe, mixture=mixture)).tokenizer
        for mixture in (
            {str(folders["one"]): 1.0, str(folders["two"]): 1.0},
            {str(folders["one"]): 1.0},
            {str(folders["two"]): 1.0},
        )
    )
    assert len({fingerprint(tokenizer) for tokenizer in (both, one, two)}) == 3


def test_mixtures_held_out_part_is_all_of_them(prepared, folders):
    mixture = {prepared["one"]: 3.0, str(folders["two"]): 1.0}
    dataset = build_dataset(config_of(mixture=mixture))
    parts = [build_dataset(config_of(corpus)).heldout for corpus in mixture]
    heldout = dataset.heldout
    assert heldout.rows.number == sum(part.rows.number for part in parts)
    for key in ("documents", "bytes", "tokens"):
        assert heldout.fingerprint[key] == sum(part.fingerprint[key] for part in parts)
    rows = all_rows(heldout).tokens_RxL.tolist()
    expected = [row for part in parts for row in all_rows(part).tokens_RxL.tolist()]
    assert sorted(rows) == sorted(expected)
    first = [tuple(row) for row in all_rows(parts[0]).tokens_RxL.tolist()]
    shares = np.cumsum([tuple(row) in first for row in rows])
    until = min(parts[0].rows.number * 4 // 3, parts[1].rows.number * 4)
    for n in range(4, until):  # every beginning holds about their weights
        assert abs(shares[n - 1] - 0.75 * n) <= 1.5


def test_mixture_with_two_prepared_tokenizers_is_refused(prepared):
    message = refused(
        build_dataset, config_of(mixture={prepared["one"]: 1.0, prepared["bpe"]: 1.0})
    )
    assert prepared["bpe"] in message and "tokenizer" in message


def test_mixture_of_what_is_not_there(prepared):
    assert "nowhere" in refused(
        build_dataset, config_of(mixture={prepared["one"]: 1.0, "nowhere": 1.0})
    )


# max_unique_tokens


@pytest.fixture(scope="module")
def in_order(folders, prepared) -> dict[str, tuple[str, np.ndarray]]:
    """A corpus in memory, one bucket, several buckets: all training tokens in their order."""
    corpora = {"memory": str(folders["one"]), "one": prepared["one"], "two": prepared["two"]}
    return {
        name: (corpus, scored(build_dataset(config_of(corpus)).train[0]))
        for name, corpus in corpora.items()
    }


@settings(deadline=None, max_examples=40)
@given(where=st.sampled_from(["memory", "one", "two"]), data=st.data())
def test_max_unique_tokens_is_exact_and_nested(in_order, where, data):
    """Exactly the first N: so each subset is the beginning of every larger one."""
    corpus, tokens = in_order[where]
    number = data.draw(st.sampled_from([1, 2, 31, 32, len(tokens) - 1, len(tokens)])
                       | st.integers(1, len(tokens)))  # fmt: skip
    dataset = build_dataset(config_of(corpus, max_unique_tokens=number))
    (train,) = dataset.train
    np.testing.assert_array_equal(scored(train), tokens[:number])
    rows = all_rows(train)
    assert rows.loss_mask_RxL.any(axis=1).all()  # no row that teaches nothing
    assert (rows.tokens_RxL[rows.segments_RxL == 0] == dataset.tokenizer.pad_id).all()
    assert rows.number == train.rows.number
    whole = build_dataset(config_of(corpus))
    assert_same(all_rows(dataset.heldout), all_rows(whole.heldout))
    last = rows.number - 1
    assert_same(rows.take(slice(0, last)), whole.train[0].rows.take(slice(0, last)))


@pytest.mark.parametrize("where", ["memory", "one", "two"])
def test_max_unique_tokens_beyond_the_corpus(in_order, where):
    corpus, tokens = in_order[where]
    message = refused(build_dataset, config_of(corpus, max_unique_tokens=len(tokens) + 1))
    assert corpus in message and f"max_unique_tokens={len(tokens) + 1}" in message
    assert f"{len(tokens)} tokens" in message


def test_max_unique_tokens_is_of_each_corpus_of_a_mixture(in_order):
    mixture = {in_order[where][0]: 1.0 for where in ("memory", "two")}
    dataset = build_dataset(config_of(mixture=mixture, max_unique_tokens=100))
    for split, where in zip(dataset.train, ("memory", "two"), strict=True):
        np.testing.assert_array_equal(scored(split), in_order[where][1][:100])


@pytest.mark.parametrize("where", ["memory", "best-fit"])
def test_max_unique_tokens_needs_document_order(folders, prepared, where):
    """Best-fit mixes the order. Neither a recipe nor a dataclass gets past that."""
    corpus = str(folders["one"]) if where == "memory" else prepared["best-fit"]
    message = refused(config_of, corpus, packing="best-fit", max_unique_tokens=100)
    assert "max_unique_tokens" in message and "concat" in message
    config = config_of(corpus, packing="best-fit")
    data = dataclasses.replace(config.data, max_unique_tokens=100)
    message = refused(lambda: build_dataset(dataclasses.replace(config, data=data)))
    assert "max_unique_tokens" in message and "concat" in message


def test_a_run_resumes_with_another_path_of_the_same_text(folders, tmp_path, monkeypatch):
    """Its fingerprint is compared, not the path, which differs after a change of folder."""
    monkeypatch.chdir(folders["one"].parent)
    configs = [config_of(corpus) for corpus in ("one", "./one", folders["one"])]
    monkeypatch.chdir(folders["one"])
    configs.append(config_of("../one"))
    for config in configs[1:]:
        check_same_run(config, {"config": configs[0].to_dict()}, tmp_path)
    message = refused(build_dataset, configs[0])
    assert "'one' in " in message and str(folders["one"]) in message
    prints = [build_dataset(config).train[0].fingerprint for config in configs[2:]]
    assert prints[0] == prints[1]
