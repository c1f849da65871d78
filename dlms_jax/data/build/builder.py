"""DatasetBuilder: raw text -> a prepared dataset, resumable, in bounded memory.

Use:

    from dlms_jax.data import DatasetBuilder

    DatasetBuilder(out="data/mine").build_from_raw("my_texts/", vocab=4096, seq_len=256)

There are two passes (passes.py). The first reads the files and scatters documents by hash over
buckets. The second takes one bucket at a time, sorts it, drops exact duplicates, tokenizes, packs
and writes its shards. A build that was killed continues where it stopped (resume.py), and ends with
the same bytes. dataset.json comes last.
"""

from collections.abc import Iterable
import dataclasses
import json
import pathlib
import re
import shutil
from typing import Any

from rich.console import Console

from dlms_jax.config import SETTINGS, TokenizerConfig
from dlms_jax.data import tokenizers
from dlms_jax.data.build.passes import (
    Job,
    gather_bucket,
    is_anything_scattered,
    scatter_unit,
    training_sample,
    units_of,
)
from dlms_jax.data.build.resume import begin, digest, remove_dataset, repaired_card
from dlms_jax.data.checks import check_disk, check_fields, check_memory, check_row
from dlms_jax.data.corpora import tfds
from dlms_jax.data.corpora.document import to_str
from dlms_jax.data.corpora.manifest import licences_of
from dlms_jax.data.corpora.options import DEFAULTS, ReadOptions
from dlms_jax.data.corpora.pieces import with_pieces
from dlms_jax.data.corpora.source import SYNTHETIC, find_sources
from dlms_jax.data.packing import Method
from dlms_jax.data.store.card import (
    SPLITS,
    VOCABULARY,
    ShardPlan,
    describe,
    why_unusable,
    write_dataset,
)
from dlms_jax.data.store.prepared import BUILDING, Prepared, is_prepared, open_prepared
from dlms_jax.data.tokenizers import Tokenizer, check_tokenizer_config, make_tokenizer
from dlms_jax.data.worker_pool import run_in_workers
from dlms_jax.errors import UserError
from dlms_jax.files import write_json

_UNUSUAL = {"replaced": "not UTF-8", "skipped": "null, or not UTF-8"}  # texts that are counted
Vocab = Tokenizer | TokenizerConfig | int | str


@dataclasses.dataclass(frozen=True)
class DatasetBuilder:
    """How a dataset is built. Raises UserError for impossible values.

    Attributes:
      out: the folder to write; None: prepared/NAME-LENGTH.
      packing: how documents are laid out in rows (packing.py).
      heldout_fraction: the share of documents that is held out.
      seed: the seed of the order of documents.
      read: how files are read.
      shard_bytes: bytes of text in a bucket; a worker holds about six times as much.
      sample_bytes: bytes of training text on which a tokenizer is trained.
      synthetic_documents: the size of the corpus "synthetic".
      tfds_directory: where TensorFlow Datasets are prepared; "": ~/tensorflow_datasets.
      workers: the number of processes; the dataset does not depend on it.
      overwrite: whether another dataset in `out` is replaced.
      console: where progress is shown.
    """

    out: str | pathlib.Path | None = None
    packing: Method = "concat"
    heldout_fraction: float = 0.05
    seed: int = 0
    read: ReadOptions = DEFAULTS
    shard_bytes: int = 64 << 20
    sample_bytes: int = 100 << 20
    synthetic_documents: int = 20_000
    tfds_directory: str = ""
    workers: int = 1
    overwrite: bool = False
    console: Console = dataclasses.field(default_factory=lambda: Console(soft_wrap=True))

    def __post_init__(self):
        names = ("packing", "heldout_fraction", "seed", "synthetic_documents", "tfds_directory")
        least = {"shard_bytes": 1, "sample_bytes": 1, "workers": 1}
        check_fields(self, {name: f"data.{name}" for name in names}, least)
        if not isinstance(self.read, ReadOptions):
            raise UserError(f"read={self.read!r} should be ReadOptions(...)")
        if not isinstance(self.out, str | pathlib.Path | None):
            raise UserError(f"out={self.out!r} should be the path of a folder")

    def build_from_raw(
        self, path: str | pathlib.Path | Iterable[str | pathlib.Path], vocab: Vocab, seq_len: int
    ) -> Prepared:
        """Returns the prepared dataset of raw text: built, continued, or found complete.

        Args:
          path: a file, a folder, a glob, a list of these, a named corpus, or "tfds:DATASET/SPLIT".
          vocab: a tokenizer; the settings of one; "bytes"; the path of one; or a vocabulary size
            (trains byte-level BPE).
          seq_len: tokens in a row, including BOS and EOS.

        Raises:
          UserError: the input cannot be used, or the folder holds another dataset.
        """
        seq_len = SETTINGS["data.sequence_length"].check(seq_len, "seq_len")
        check_row(seq_len)
        vocab = _tokenizer_or_settings(vocab)
        if not isinstance(path, str | pathlib.Path):
            if not isinstance(path, Iterable):
                raise UserError(f"path={path!r} is not a path, a corpus, or a list of paths")
            path = list(path)
        sources = find_sources(path, self.seed, self.synthetic_documents, self.tfds_directory)
        folder = pathlib.Path(self.out) if self.out else _default_folder(path, seq_len)
        read = with_pieces(self.read, sources, self.heldout_fraction)
        arguments = self._arguments(path, vocab, seq_len, read)
        size = sum(source.size for source in sources)
        buckets = max(1, -(-size // self.shard_bytes))
        plan = ShardPlan(buckets, seq_len, self.packing, self.heldout_fraction, self.seed)
        self._estimate(folder, path, vocab, size)
        job = Job(folder, folder / BUILDING, plan, read, units_of(sources))
        try:
            if begin(job, arguments, sources, self.overwrite, self._say):
                return open_prepared(folder, check_contents=False)  # `begin` has checked them
            counts = self._scatter(job, size, arguments)
            tokenizer = self._tokenizer(job, vocab)
            self._gather(job, tokenizer, counts, arguments, digest(sources, times=False))
        except OSError as error:
            raise UserError(
                f"{error.filename or folder}: {error.strerror or error}; fix that and run the same "
                "command again: it continues where it stopped"
            ) from None
        shutil.rmtree(job.building)
        dataset = open_prepared(folder, check_contents=False)  # they were written just now
        self._report(dataset)
        return dataset

    def _estimate(self, folder, path, vocab, size):
        """Refuses what needs more memory or disk than there is."""
        if path == SYNTHETIC and not is_prepared(str(folder)):
            documents = f"the corpus synthetic of {self.synthetic_documents} documents"
            check_disk(size, folder, documents)  # a copy of it, before the shards
        shard = 6 * min(self.shard_bytes, size)
        check_memory(shard, f"a worker with a shard of shard_bytes={self.shard_bytes}")
        if isinstance(vocab, TokenizerConfig):
            sample = min(self.sample_bytes, size)
            check_memory(sample, f"a sample of sample_bytes={self.sample_bytes}")

    def _arguments(self, path, vocab, seq_len, read) -> dict[str, Any]:
        paths = [str(p) for p in ([path] if isinstance(path, str | pathlib.Path) else path)]
        licences = licences_of(paths)
        given = vocab if isinstance(vocab, TokenizerConfig) else tokenizers.fingerprint(vocab)
        return {
            "path": paths,
            "tokenizer": dataclasses.asdict(given) if vocab is given else given,
            "sequence_length": seq_len,
            "packing": self.packing,
            "heldout_fraction": self.heldout_fraction,
            "seed": self.seed,
            "read": dataclasses.asdict(read),
            "shard_bytes": self.shard_bytes,
            "sample_bytes": self.sample_bytes,
        } | ({"licences": licences} if licences else {})

    def _scatter(self, job, size, arguments) -> dict[str, int]:
        """Runs the first pass; returns what was counted."""
        calls = [(job, unit) for unit in range(len(job.units))]
        try:
            counts = list(self._run(scatter_unit, calls, "reading", size or None))
        except UserError:
            if not is_anything_scattered(job.building):  # nothing worth keeping
                remove_dataset(job.folder)
            raise
        names = ("documents", "bytes", *_UNUSUAL)
        total = {name: sum(c.get(name, 0) for c in counts) for name in names}
        if not total["documents"]:
            remove_dataset(job.folder)
            raise UserError(f"{' '.join(arguments['path'])} holds no text")
        self._say(
            f"read {total['documents']} documents, {total['bytes']} bytes"
            + "".join(f", {total[k]} {k} ({why})" for k, why in _UNUSUAL.items() if total[k])
        )
        return total

    def _tokenizer(self, job, vocab) -> Tokenizer:
        if isinstance(vocab, Tokenizer):
            return vocab
        saved = job.building / VOCABULARY
        if saved.is_file():
            return tokenizers.from_dict(json.loads(saved.read_text(encoding="utf-8")))
        if vocab.name != "bytes" and not vocab.path:
            self._say(f"training a {vocab.name} tokenizer of {vocab.vocab_size} tokens ...")
        tokenizer = make_tokenizer(vocab, map(to_str, training_sample(job, self.sample_bytes)))
        write_json(saved, tokenizer.to_dict())
        return tokenizer

    def _gather(self, job, tokenizer, counts, arguments, sources):
        """Runs the second pass, and writes dataset.json."""
        calls = [(job, tokenizer, bucket) for bucket in range(job.plan.buckets)]
        described = list(self._run(gather_bucket, calls, "packing", counts["bytes"]))
        described.sort(key=lambda bucket: bucket["train"]["shard"]["file"])
        card = describe(described, job.plan, tokenizer, counts, arguments)
        card["sources"] = sources
        was = repaired_card(job)
        if was and any(was[key] != card[key] for key in ("tokenizer", "buckets", "splits")):
            raise UserError(
                f"{job.folder} cannot be repaired, because its input has changed; use another "
                "--out, or --overwrite"
            )
        if why := why_unusable(card):
            remove_dataset(job.folder)
            raise UserError(f"{' '.join(arguments['path'])} {why}")
        write_dataset(job.folder, tokenizer, card)

    def _run(self, function, calls, title, total):
        return run_in_workers(function, calls, self.workers, self.console, title, total)

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


def _tokenizer_or_settings(vocab: Vocab) -> Tokenizer | TokenizerConfig:
    """Returns a tokenizer, or the settings of one that must be trained on the corpus."""
    if isinstance(vocab, bool) or not isinstance(vocab, Vocab):
        raise UserError(
            f"vocab={vocab!r} is not a tokenizer, its settings or path, or a vocabulary size"
        )
    if isinstance(vocab, int):
        vocab = TokenizerConfig("bpe", SETTINGS["tokenizer.vocab_size"].check(vocab, "vocab"))
    if isinstance(vocab, TokenizerConfig):
        check_tokenizer_config(vocab)
    if isinstance(vocab, TokenizerConfig) and vocab.name == "bpe" and not vocab.path:
        make_tokenizer(vocab, ())  # a vocabulary that is too small is refused before reading
    if vocab == "bytes":
        return TokenizerConfig()
    if isinstance(vocab, str):
        by_name = TokenizerConfig("sentencepiece" if vocab.endswith(".model") else "hf", path=vocab)
        return make_tokenizer(by_name, ())
    if isinstance(vocab, TokenizerConfig) and (vocab.path or vocab.name in ("bytes", "hf")):
        return make_tokenizer(vocab, ())
    return vocab


def _default_folder(path, seq_len) -> pathlib.Path:
    if not isinstance(path, str | pathlib.Path):
        raise UserError("a list of paths gives the dataset no name: choose a folder (out, --out)")
    if str(path).startswith(tfds.PREFIX):
        name = "-".join(re.findall(r"[\w.-]+", str(path).removeprefix(tfds.PREFIX)))
    else:
        name = pathlib.Path(path).resolve().stem
    return pathlib.Path("prepared") / f"{name}-{seq_len}"
