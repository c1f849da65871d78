"""DatasetBuilder: raw text -> a prepared dataset, resumable, in bounded memory.

Use:

    from dlms_jax.data import DatasetBuilder

    DatasetBuilder(out="data/mine").build_from_raw("my_texts/", vocab=4096, seq_len=256)

Two passes. The first reads the files and scatters documents by hash over buckets; the second takes
a bucket at a time, sorts it, drops exact duplicates, tokenizes, packs and writes its shards. Each
piece of work is kept when it is whole, so a build that was killed goes on where it was, and ends
with the same bytes. dataset.json comes last.
"""

from collections.abc import Iterable
import dataclasses
import hashlib
import json
import pathlib
import shutil
from typing import Any, get_args

from rich.console import Console

from dlms_jax.config import TokenizerConfig
from dlms_jax.data import tokenizers
from dlms_jax.data.build.bucket import SPLITS, Layout
from dlms_jax.data.build.stages import (
    Job,
    bucket_file,
    gather_bucket,
    scatter_unit,
    shards_are_whole,
    training_sample,
)
from dlms_jax.data.build.work import run
from dlms_jax.data.corpora.files import ReadOptions
from dlms_jax.data.corpora.source import Source, find_sources
from dlms_jax.data.packing import Method
from dlms_jax.data.store.prepared import (
    BUILDING,
    CARD,
    VOCABULARY,
    Prepared,
    describe,
    open_prepared,
    why_useless,
    write_dataset,
)
from dlms_jax.data.tokenizers import Tokenizer, make_tokenizer
from dlms_jax.errors import UserError
from dlms_jax.files import write_json

_UNIT = 32 << 20  # bytes of text that are scattered in one go, at least; there are 256 at most

Vocab = Tokenizer | TokenizerConfig | int | str


@dataclasses.dataclass(frozen=True)
class DatasetBuilder:
    """How a dataset is built. workers does not change what comes out.

    out: the folder to write; None: prepared/NAME-LENGTH. shard_bytes: of text, in a bucket; a
    worker holds about six times as much. sample_bytes: of training text, to train a tokenizer on.
    """

    out: str | pathlib.Path | None = None
    packing: Method = "concat"
    heldout_fraction: float = 0.05
    seed: int = 0
    read: ReadOptions = ReadOptions()
    shard_bytes: int = 64 << 20
    sample_bytes: int = 100 << 20
    synthetic_documents: int = 20_000
    workers: int = 1
    overwrite: bool = False
    console: Console = dataclasses.field(default_factory=lambda: Console(soft_wrap=True))

    def build_from_raw(
        self, path: str | pathlib.Path | Iterable[str | pathlib.Path], vocab: Vocab, seq_len: int
    ) -> Prepared:
        """Returns the prepared dataset of raw text, built, gone on with, or found complete.

        path: a file, a folder, a glob, a list of these, or a named corpus. vocab: a tokenizer; the
        settings of one; "bytes"; the path of one; or a number of symbols, to train byte-level BPE.
        seq_len: places in a row, BOS and EOS among them.
        Raises UserError for input that cannot be used, and for a folder with another dataset.
        """
        if seq_len < 2:
            raise UserError(f"a sequence length of {seq_len} has no room for BOS and a token")
        self._check()
        vocab = _tokenizer_or_settings(vocab)
        if not isinstance(path, str | pathlib.Path):
            path = list(path)
        sources = find_sources(path, self.seed, self.synthetic_documents)
        folder = pathlib.Path(self.out) if self.out else _default_folder(path, seq_len)
        arguments = self._arguments(path, vocab, seq_len)
        size = sum(source.size for source in sources)
        buckets = max(1, -(-size // self.shard_bytes))
        layout = Layout(buckets, seq_len, self.packing, self.heldout_fraction, self.seed)
        job = Job(folder, folder / BUILDING, layout, self.read, _units(sources))
        try:
            if self._begin(job, arguments, sources):
                return open_prepared(folder, check_contents=False)  # _begin has
            counts = self._scatter(job, size, arguments)
            tokenizer = self._tokenizer(job, vocab)
            self._gather(job, tokenizer, counts, arguments, _digest(sources, times=False))
        except OSError as error:
            raise UserError(
                f"{error.filename or folder}: {error.strerror or error}; mend that and run the "
                "same command again: it goes on where it was"
            ) from None
        shutil.rmtree(job.building)
        dataset = open_prepared(folder, check_contents=False)  # they are of what was just written
        self._report(dataset)
        return dataset

    def _check(self):
        for name, low in (("shard_bytes", 1), ("sample_bytes", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise UserError(f"{name}={getattr(self, name)} should be at least {low}")
        if self.packing not in get_args(Method):
            raise UserError(f"packing={self.packing!r} is none of {', '.join(get_args(Method))}")

    def _arguments(self, path, vocab, seq_len) -> dict[str, Any]:
        given = vocab if isinstance(vocab, TokenizerConfig) else tokenizers.fingerprint(vocab)
        return {
            "path": [str(p) for p in ([path] if isinstance(path, str | pathlib.Path) else path)],
            "tokenizer": dataclasses.asdict(given) if vocab is given else given,
            "sequence_length": seq_len,
            "packing": self.packing,
            "heldout_fraction": self.heldout_fraction,
            "seed": self.seed,
            "read": dataclasses.asdict(self.read),
            "shard_bytes": self.shard_bytes,
            "sample_bytes": self.sample_bytes,
        }

    def _begin(self, job, arguments, sources) -> bool:
        """Returns whether the folder already has the dataset, whole; else makes ready to build."""
        plan = {"arguments": json.loads(json.dumps(arguments)), "sources": _digest(sources)}
        mended = job.building / CARD  # what a dataset was that is being mended
        if self.overwrite and (mended.is_file() or not _is_card(job.folder / CARD)):
            _remove_dataset(job.folder)
        finished, begun = _read(job.folder / CARD), _read(job.building / "plan.json")
        broken = []
        if finished:
            different = _different(finished, plan["arguments"], _digest(sources, times=False))
            if different and not self.overwrite:
                raise UserError(
                    f"{job.folder} holds another dataset (other {', '.join(different)}); use "
                    "another --out, or --overwrite"
                )
            if different:
                _remove_dataset(job.folder)
                finished = None
            elif not (broken := _broken_buckets(job.folder)) and _has_vocabulary(
                job.folder, finished
            ):
                shutil.rmtree(job.building, ignore_errors=True)
                self._say(f"{job.folder} is complete, and its checksums are right")
                return True
        elif begun and begun != plan:
            self._say(f"going on with {job.folder}, of which settings or files have changed")
            _forget_buckets(job)
        elif begun:
            self._say(f"going on with {job.folder}")
        elif not _is_free(job.folder):
            raise UserError(f"{job.folder} holds something else; use a new folder for --out")
        job.building.mkdir(parents=True, exist_ok=True)
        write_json(job.building / "plan.json", plan)
        if finished:
            self._say(f"{job.folder}: {len(broken)} of its shards are damaged, and made again")
            _take_apart(job, broken, _has_vocabulary(job.folder, finished))
        return False

    def _scatter(self, job, size, arguments) -> dict[str, int]:
        """Returns what was counted."""
        calls = [(job, unit) for unit in range(len(job.units))]
        try:
            counts = list(
                run(scatter_unit, calls, self._workers(), self.console, "reading", size or None)
            )
        except UserError:
            if not any(job.building.glob("unit-*/counts.json")):  # nothing that is worth keeping
                _remove_dataset(job.folder)
            raise
        total = {key: sum(c.get(key, 0) for c in counts) for key in _COUNTED}
        if not total["documents"]:
            _remove_dataset(job.folder)
            raise UserError(f"{' '.join(arguments['path'])} holds no text")
        self._say(
            f"read {total['documents']} documents, {total['bytes']} bytes"
            + "".join(f", {total[k]} {k} (no UTF-8)" for k in ("replaced", "skipped") if total[k])
        )
        return total

    def _tokenizer(self, job, vocab) -> Tokenizer:
        if isinstance(vocab, Tokenizer):
            return vocab
        saved = job.building / VOCABULARY
        if saved.is_file():
            return tokenizers.from_dict(json.loads(saved.read_text(encoding="utf-8")))
        if vocab.name != "bytes" and not vocab.path:
            self._say(f"training a {vocab.name} tokenizer of {vocab.vocab_size} symbols ...")
        tokenizer = make_tokenizer(vocab, training_sample(job, self.sample_bytes))
        write_json(saved, tokenizer.to_dict())
        return tokenizer

    def _gather(self, job, tokenizer, counts, arguments, sources):
        calls = [(job, tokenizer, bucket) for bucket in range(job.layout.buckets)]
        described = list(
            run(gather_bucket, calls, self._workers(), self.console, "packing", counts["bytes"])
        )
        described.sort(key=lambda bucket: bucket["train"]["shard"]["file"])
        card = describe(described, job.layout, tokenizer, counts, arguments)
        card["sources"] = sources
        was = _read(job.building / CARD)
        if was and any(was[key] != card[key] for key in ("tokenizer", "buckets", "splits")):
            raise UserError(
                f"{job.folder} cannot be mended: its input is not what it was; use another --out, "
                "or --overwrite"
            )
        if why := why_useless(card):
            _remove_dataset(job.folder)
            raise UserError(f"{' '.join(arguments['path'])} {why}")
        write_dataset(job.folder, tokenizer, card)

    def _workers(self) -> int:
        return max(self.workers, 1)

    def _say(self, text: str):
        self.console.print(text, markup=False, highlight=False)

    def _report(self, dataset: Prepared):
        card = dataset.card
        length = card["sequence_length"]
        for name in SPLITS:
            split = card["splits"][name]
            filled = split["tokens"] / max(split["rows"] * length, 1)
            self._say(
                f"{name}: {split['documents']} documents, {split['bytes']} bytes, "
                f"{split['tokens']} tokens in {split['rows']} rows of {length} ({filled:.1%} "
                f"scored), {len(card['buckets'])} shards"
            )
        if card["duplicates"]:
            self._say(f"{card['duplicates']} exact duplicates were dropped")
        if card["longest"] < length:
            self._say(
                f"note: no document is longer than {card['longest']} tokens, so no model learns "
                f"from further apart than that in rows of {length}"
            )
        self._say(f"wrote {dataset.folder}; train with --config.data.corpus={dataset.folder}")


_COUNTED = ("documents", "bytes", "replaced", "skipped")


def _tokenizer_or_settings(vocab: Vocab) -> Tokenizer | TokenizerConfig:
    if isinstance(vocab, bool) or not isinstance(vocab, Vocab):
        raise UserError(f"vocab={vocab!r} is no tokenizer, settings, path, or number of symbols")
    if isinstance(vocab, int):
        vocab = TokenizerConfig("bpe", vocab)
    if isinstance(vocab, TokenizerConfig) and vocab.name == "bpe" and not vocab.path:
        make_tokenizer(vocab, ())  # one that is too small is refused before anything is read
    if vocab == "bytes":
        return TokenizerConfig()
    if isinstance(vocab, str):
        name = "sentencepiece" if vocab.endswith(".model") else "hf"
        return make_tokenizer(TokenizerConfig(name, path=vocab), ())
    if isinstance(vocab, TokenizerConfig) and (vocab.path or vocab.name in ("bytes", "hf")):
        return make_tokenizer(vocab, ())
    return vocab


def _default_folder(path, seq_len) -> pathlib.Path:
    if not isinstance(path, str | pathlib.Path):
        raise UserError("of a list of paths no name can be made: say where to write (out, --out)")
    return pathlib.Path("prepared") / f"{pathlib.Path(path).resolve().stem}-{seq_len}"


def _units(sources: list[Source]) -> list[list[Source]]:
    """Returns sources in groups of which none is too little work, and there are not too many."""
    units, size = [[]], 0
    enough = max(_UNIT, sum(source.size for source in sources) // 256)
    for source in sources:
        if size >= enough:
            units.append([])
            size = 0
        units[-1].append(source)
        size += source.size
    return units


def _digest(sources: list[Source], times: bool = True) -> str:
    """Returns a sha256 that changes with the files' names and sizes, and their times."""
    described = [
        dataclasses.astuple(source if times else dataclasses.replace(source, modified=0))
        for source in sources
    ]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _read(file: pathlib.Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    if not _is_card(file):
        raise UserError(f"{file} is damaged; remove its folder, or use --overwrite")
    return json.loads(file.read_text(encoding="utf-8"))


def _is_card(file: pathlib.Path) -> bool:
    """Returns whether a file, if there is one, can be read."""
    try:
        return not file.is_file() or isinstance(
            json.loads(file.read_text(encoding="utf-8"))["arguments"], dict
        )
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError):
        return False


def _has_vocabulary(folder, card) -> bool:
    try:
        Prepared(folder, card)
    except UserError:
        return False
    return True


def _different(card, arguments, sources) -> list[str]:
    """Returns in what a finished dataset is not the one that is asked for."""
    different = [key for key in arguments if card["arguments"].get(key) != arguments[key]]
    return different or ([] if card["sources"] == sources else ["files"])


def _is_free(folder) -> bool:
    """Returns whether nothing but a build that has just begun is in a folder."""
    if not folder.is_dir():
        return not folder.exists()
    return all(path.name == BUILDING for path in folder.iterdir())


def _remove_dataset(folder):
    """Removes what a build writes, card first, and the folder where nothing else is in it."""
    (folder / CARD).unlink(missing_ok=True)
    shutil.rmtree(folder / BUILDING, ignore_errors=True)
    _remove_shards(folder)
    for file in folder.glob(f"{VOCABULARY}*"):
        file.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _remove_shards(folder):
    for file in folder.glob("*.array_record*"):
        file.unlink()


def _forget_buckets(job):
    """Removes what was made of all files together; what was read of each stays."""
    for pattern in ("bucket-*.json", VOCABULARY):
        for file in job.building.glob(pattern):
            file.unlink()
    _remove_shards(job.folder)


def _broken_buckets(folder) -> list[int]:
    buckets = _read(folder / CARD)["buckets"]
    return [i for i, bucket in enumerate(buckets) if not shards_are_whole(folder, bucket)]


def _take_apart(job, broken: list[int], vocabulary: bool):
    """Makes a finished dataset one that is being built, of which only `broken` is missing."""
    for number, described in enumerate(_read(job.folder / CARD)["buckets"]):
        if number not in broken:
            write_json(bucket_file(job.building, number), described)
    if vocabulary:
        shutil.copy(job.folder / VOCABULARY, job.building / VOCABULARY)
    (job.folder / CARD).replace(job.building / CARD)
