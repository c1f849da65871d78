"""Miniature tokenizer files in the true formats of the families that people download.

Each function returns the library's own tokenizer, whose `save` writes the tokenizer.json, and what
the family's tokenizer_config.json says of roles.
"""

import json

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

TEXTS = [
    "It was the best of times, it was the worst of times, it was the age of wisdom. " * 3,
    "def f(x):\n        return x + 12345\n\n\n# café naïve Ångström 日本語 \U0001f600\n" * 3,
]
SPACE = "\u2581"
# As Qwen's and Llama 3's: contractions, words, digits, other signs, line ends, spaces.
CUT = (
    r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(special=(), cut=False, **model) -> tokenizers.Tokenizer:
    """Returns a byte-level BPE whose ids 0.. are `special`, as GPT-2's and its heirs' are made."""
    raw = tokenizers.Tokenizer(models.BPE(**model))
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not cut)]
    if cut:
        steps.insert(0, pre_tokenizers.Split(Regex(CUT), "isolated"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(steps) if cut else steps[0]
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(TEXTS, BpeTrainer(
        vocab_size=320, special_tokens=list(special), initial_alphabet=alphabet,
        show_progress=False))  # fmt: skip
    return raw


def gpt2():
    raw = byte_level()
    raw.add_special_tokens(["<|endoftext|>"])
    raw.post_processor = processors.ByteLevel(trim_offsets=False)
    same = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    return raw, same | {"add_prefix_space": False}


def neox():
    raw = byte_level(["<|endoftext|>", "<|padding|>"])
    raw.normalizer = normalizers.NFC()
    raw.add_tokens([AddedToken(" " * n, normalized=True) for n in range(8, 1, -1)])
    raw.post_processor = processors.ByteLevel()
    return raw, dict.fromkeys(("bos_token", "eos_token", "unk_token"), {
        "__type": "AddedToken", "content": "<|endoftext|>", "lstrip": False})  # fmt: skip


def qwen():
    raw = byte_level(cut=True)
    raw.normalizer = normalizers.NFC()
    raw.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    raw.add_tokens([AddedToken("<tool_call>", normalized=False)])
    roles = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return raw, roles


def llama3():
    raw = byte_level(cut=True, ignore_merges=True)
    raw.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
    raw.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[
            ("<|begin_of_text|>", raw.token_to_id("<|begin_of_text|>"))])  # fmt: skip
    return raw, {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}


def with_fallback(change=lambda described: None) -> tokenizers.Tokenizer:
    """Returns a BPE over characters with byte fallback, as Llama 2's .model was converted."""
    learned = tokenizers.Tokenizer(models.BPE())
    learned.normalizer = normalizers.Replace(" ", SPACE)
    learned.pre_tokenizer = pre_tokenizers.Split(Regex(SPACE), "merged_with_next")
    learned.train_from_iterator(TEXTS, BpeTrainer(vocab_size=150, show_progress=False))
    model = json.loads(learned.to_str())["model"]
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    # Conversions gave <s> merges, since its parts are pieces too.
    pieces = dict.fromkeys([*first, *model["vocab"], "<", "s>", ">", "/"])
    described = json.loads(tokenizers.Tokenizer(models.BPE(byte_fallback=True)).to_str())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    described |= {
        "added_tokens": [
            {"id": i, "content": token, **flags, "special": True}
            for i, token in enumerate(first[:3])
        ],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": SPACE},
            {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    }  # fmt: skip
    described["model"] |= {
        "vocab": {piece: i for i, piece in enumerate(pieces)},
        "merges": [*model["merges"], ["s", ">"], ["<", "s>"]],
        "unk_token": "<unk>",
        "fuse_unk": True,
    }
    change(described)
    return tokenizers.Tokenizer.from_str(json.dumps(described))


def llama2():
    return with_fallback(), {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def mistral():
    """As newer conversions write it: spaces by Metaspace."""

    def change(described):
        described["normalizer"] = None
        described["pre_tokenizer"] = {
            "type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False
        }  # fmt: skip

    return with_fallback(change), {"bos_token": "<s>", "eos_token": "</s>"}


def gemma():
    """No space is put before; what looks like a cut at spaces is none, since none are left."""

    def change(described):
        described["normalizer"] = described["normalizer"]["normalizers"][1]
        described["pre_tokenizer"] = {
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
            "invert": False,
        }  # fmt: skip

    return with_fallback(change), {"bos_token": "<s>", "eos_token": "</s>"}


FAMILIES = {f.__name__: f for f in (gpt2, neox, qwen, llama3, llama2, mistral, gemma)}
