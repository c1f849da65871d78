"""Settings of the corpus and the tokenizer."""

import dataclasses
from typing import Literal

from dlms_jax.config.setting import AT_LEAST_0, AT_LEAST_1, SEED, SHARE, Range, setting


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """The tokenizer. If data.corpus is a prepared dataset, these settings must agree with it."""

    name: Literal["bytes", "bpe", "sentencepiece", "hf"] = setting(
        "bytes",
        "The kind of tokenizer: bytes, byte-level BPE, SentencePiece, or one from a Hugging Face "
        "file.",
    )
    vocab_size: int = setting(
        8192,
        "Vocabulary size of a trained bpe or sentencepiece tokenizer, special tokens included.",
        Range(1, 1 << 24),  # the libraries allocate memory for it, and abort if there is too little
    )
    path: str = setting(
        "",
        "A tokenizer.json, a folder that holds one, or a SentencePiece .model. Empty: a bpe or "
        "sentencepiece tokenizer is trained on the text.",
    )
    algorithm: Literal["unigram", "bpe"] = setting(
        "unigram", "Algorithm that trains a sentencepiece tokenizer."
    )
    pad_token: str = setting(
        "", "The padding token. Empty: the one that the tokenizer's file names, else a new one."
    )
    bos_token: str = setting(
        "",
        "The token at the beginning of a document. Empty: the one that the tokenizer's file names, "
        "else a new one.",
    )
    eos_token: str = setting(
        "",
        "The token at the end of a document. Empty: the one that the tokenizer's file names, else "
        "a new one.",
    )
    mask_token: str = setting(
        "", "The mask token. Empty: the one that the tokenizer's file names, else a new one."
    )
    special_tokens: tuple[str, ...] = setting(
        (), "Further special tokens, for the turns of a chat or for tasks."
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The text and how rows are made of it. If data.corpus is a prepared dataset (a folder with
    dataset.json), sequence_length, packing, heldout_fraction and seed must agree with it."""

    corpus: str = setting(
        "python-prose",
        "The text: a named corpus, a file, a folder, a prepared dataset, a manifest of files, or "
        "tfds:DATASET/SPLIT. A run resumes with another path if the text has the same fingerprint.",
        changeable=True,
    )
    mixture: dict[str, float] = setting(
        {},
        "Corpora with their weights, instead of data.corpus. Rows are drawn in proportion to the "
        "weights.",
        Range(1e-100, 1e100),  # their sum and quotients must be finite
    )
    sequence_length: int = setting(
        512, "Tokens in a row, BOS included: the context length of the model.", Range(2)
    )
    packing: Literal["concat", "best-fit"] = setting(
        "concat",
        "How documents fill rows. concat: one after the other, cut at the end of a row. best-fit: "
        "whole, cut only if they are longer than a row.",
    )
    heldout_fraction: float = setting(
        0.05,
        "Share of the documents that are held out, chosen by a hash of their text.",
        Range(0, 1, low_open=True, high_open=True),
    )
    seed: int = setting(0, "Seed of the order of documents, and of the corpus `synthetic`.", SEED)
    max_unique_tokens: int = setting(
        0,
        "Number of tokens, from the start of a corpus, that training repeats. 0: all.",
        AT_LEAST_0,
    )
    max_epochs: int = setting(
        0,
        "Largest number of epochs over a corpus. A run whose steps need more is refused. "
        "0: no limit.",
        AT_LEAST_0,
        changeable=True,
    )
    random_length_probability: float = setting(
        0.0,
        "Probability that a row is cut to a random length, at least 2 tokens (LLaDA: 0.01).",
        SHARE,
    )
    synthetic_documents: int = setting(
        20_000, "Number of documents in the corpus `synthetic`.", Range(1, 10**12)
    )
    text_field: str = setting("text", "Field that holds the text, in JSON lines, CSV and Parquet.")
    tfds_directory: str = setting(
        "",
        "Folder where TensorFlow Datasets are prepared, for data.corpus=tfds:DATASET/SPLIT. Empty: "
        "~/tensorflow_datasets.",
        changeable=True,
    )
    invalid_utf8: Literal["strict", "replace", "skip", "keep"] = setting(
        "strict",
        "What to do with bytes that are not UTF-8: stop with an error, replace them by U+FFFD, "
        "skip the text, or keep them. skip also leaves out records whose text is null.",
    )
    prefetch: int = setting(
        8, "Batches that are prepared ahead of the train step.", AT_LEAST_1, changeable=True
    )
    workers: int = setting(
        0,
        "Processes that prepare batches. 0: a thread of the training process.",
        AT_LEAST_0,
        changeable=True,
    )
