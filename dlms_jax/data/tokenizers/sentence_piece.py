"""Sentencepiece with byte fallback: trained here, or read from a .model."""

import base64
from collections.abc import Iterable, Iterator, Mapping
import io
import re

from dlms_jax.data.tokenizers.special import OURS, all_special, choose_roles
from dlms_jax.data.tokenizers.tokenizer import Tokenizer, replace_invalid
from dlms_jax.data.tokenizers.tokenizer_json import SPACE
from dlms_jax.errors import UserError, optional_import

# A .model is a protocol buffer, and bytes appended to one are merged into it. These set, in field 3
# (normalizer_spec), add_dummy_prefix (3) and remove_extra_whitespaces (4) to false. So no space is
# added before a text, and none is dropped.
_KEEP_SPACES = bytes([3 << 3 | 2, 4, 3 << 3, 0, 4 << 3, 0])
# Fixed, because the trainer's sums of floats depend on the number of threads.
_THREADS = 16
_LINE = 1000  # characters, at most 4000 bytes: the trainer drops lines of more than 4192 bytes


class SentencePieceTokenizer(Tokenizer):
    """Unigram or BPE pieces; characters that the vocabulary lacks are encoded as bytes.

    No space is put before a text, whatever the .model says. U+2581 is encoded as bytes, since the
    piece of that name means a space. The special ids are the model's control pieces, then those
    that are added.
    """

    def __init__(
        self, model: bytes, roles: Mapping[str, str] = OURS, special_tokens: Iterable[str] = ()
    ):
        """Makes a tokenizer.

        Args:
          model: the bytes of a .model file with byte fallback, and without text normalisation.
          roles: the special token of each role.
          special_tokens: further special tokens.
        """
        if not model.endswith(_KEEP_SPACES):
            model += _KEEP_SPACES
        self._model, self._pieces = model, _processor(model)
        if _normalises(model):
            raise UserError(
                "the sentencepiece model normalises text, which loses some; use one trained with "
                "--normalization_rule_name=identity"
            )
        pieces = range(self._pieces.get_piece_size())
        special_ids = _control_ids(self._pieces)
        table = [self._bytes_of(i) for i in pieces]
        names = {self._pieces.id_to_piece(i) for i in pieces}
        for token in all_special(roles, tuple(special_tokens)):
            if token in special_ids:
                continue
            if token in names:
                raise UserError(
                    f"{token!r} stands for text in it, so it cannot be a special token; "
                    "name another"
                )
            special_ids[token] = len(table)
            table.append(b"")
        # Without a piece for the space, it would become the three bytes of U+2581.
        apart = SPACE if SPACE in names else SPACE + " "
        super().__init__(table, special_ids, roles, apart)

    @classmethod
    def load(
        cls, model: bytes, named: Mapping[str, str], special_tokens: Iterable[str] = ()
    ) -> "SentencePieceTokenizer":
        """Returns the tokenizer of a .model.

        Args:
          model: the bytes of the file.
          named: the special tokens of roles that the user names; the others are the model's control
            pieces (see `choose_roles`).
          special_tokens: further special tokens.
        """
        pieces = _processor(model)
        control = _control_ids(pieces)
        stated = {"pad": pieces.pad_id(), "bos": pieces.bos_id(), "eos": pieces.eos_id()}
        own = {role: pieces.id_to_piece(i) for role, i in stated.items() if i >= 0}
        roles = choose_roles(named, own | {"mask": "<mask>"}, usable=lambda t: t in control)
        return cls(model, roles, special_tokens)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        algorithm: str = "unigram",
        roles: Mapping[str, str] = OURS,
        special_tokens: Iterable[str] = (),
    ) -> "SentencePieceTokenizer":
        """Returns a tokenizer with `vocab_size` tokens, including the special ones.

        Args:
          texts: the training texts, which are held in memory.
          vocab_size: the number of tokens.
          algorithm: "unigram" (Kudo, arXiv 1804.10959) or "bpe".
          roles: the special token of each role.
          special_tokens: further special tokens.

        Raises:
          UserError: there is no text, or the trainer refuses the vocabulary size.
        """
        sentencepiece = optional_import("sentencepiece", "data")
        special = all_special(roles, tuple(special_tokens))
        lines = [line for text in texts for line in _lines(text)]
        if not lines:
            raise UserError("there is no text to train sentencepiece on; give some text")
        written = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=written,
                model_type=algorithm,
                vocab_size=max(vocab_size - len(special), 1),
                byte_fallback=True,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                num_threads=_THREADS,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise UserError(_training_error(str(error), vocab_size, len(special))) from None
        return cls(written.getvalue(), roles, special)

    def file(self) -> bytes:
        """Returns the contents of a .model, which lacks further special tokens."""
        return self._model

    def to_dict(self):
        return {
            "name": "sentencepiece",
            "roles": self.roles,
            "special_tokens": list(self.special_ids),
            "model": base64.b64encode(self._model).decode(),
        }

    @classmethod
    def from_dict(cls, saved):
        return cls(base64.b64decode(saved["model"]), saved["roles"], saved["special_tokens"])

    def _encode_plain(self, texts):
        return self._pieces.encode_as_numpy(texts)

    def _bytes_of(self, i: int) -> bytes:
        piece = self._pieces.id_to_piece(i)
        if self._pieces.is_control(i) or self._pieces.is_unknown(i):
            return b""
        if self._pieces.is_byte(i):  # "<0x41>"
            return bytes([int(piece[3:5], 16)])
        return piece.replace(SPACE, " ").encode()


def _processor(model: bytes):
    sentencepiece = optional_import("sentencepiece", "data")
    try:
        pieces = sentencepiece.SentencePieceProcessor()
        pieces.LoadFromSerializedProto(model)
    except RuntimeError as error:
        line = " ".join(str(error).split())
        raise UserError(f"this is not a .model that sentencepiece reads: {line}") from None
    return pieces


def _control_ids(pieces) -> dict[str, int]:
    """Returns the ids, by name, of the pieces that no text gives, such as <unk>."""
    every = range(pieces.get_piece_size())
    return {pieces.id_to_piece(i): i for i in every if pieces.is_control(i) or pieces.is_unknown(i)}


def _lines(text: str) -> Iterator[str]:
    """Yields a text in lines, with their ends, of at most the length that the trainer takes."""
    for line in replace_invalid(text).splitlines(keepends=True):
        for start in range(0, len(line), _LINE):
            yield line[start : start + _LINE]


def _training_error(message: str, vocab_size: int, special: int) -> str:
    """Returns sentencepiece's message with what the user can do."""
    if most := re.search(r"too high \(\d+\).*<= (\d+)", message):
        return (
            f"config.tokenizer.vocab_size={vocab_size} is too large for this text; use "
            f"{int(most[1]) + special} or less, or more text"
        )
    if least := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return (
            f"config.tokenizer.vocab_size={vocab_size} is too small for sentencepiece with byte "
            f"fallback on this text; use {int(least[1]) + special} or more"
        )
    return f"sentencepiece cannot be trained on this text: {' '.join(message.split())}"


def _normalises(model: bytes) -> bool:
    """Returns whether a .model replaces characters: whether field 2 of field 3 is not empty."""
    return any(
        charsmap
        for number, spec in protobuf_fields(model)
        if number == 3
        for inner, charsmap in protobuf_fields(spec)
        if inner == 2
    )


def protobuf_fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the numbers and bytes of a protocol buffer's length-delimited fields.

    sentencepiece has no method that returns its normalisation, and its generated protobuf module
    needs another version of protobuf than Apache Beam.
    """
    at = 0

    def varint() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = message[at]
            value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
            if byte < 0x80:
                return value

    while at < len(message):
        tag = varint()
        kind = tag & 7
        if kind == 0:
            varint()
        elif kind == 2:
            size = varint()
            yield tag >> 3, message[at : at + size]
            at += size
        else:  # fixed 64 or 32 bits
            at += 8 if kind == 1 else 4
