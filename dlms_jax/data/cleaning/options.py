"""What cleaning does to a corpus. By default it only drops exact duplicates."""

import dataclasses
from typing import Literal, get_args

from dlms_jax.data.checks import check_fields
from dlms_jax.errors import UserError

Normalize = Literal["none", "NFC", "NFKC"]
Quality = Literal["c4", "gopher", "gopher-repetition", "fineweb"]


@dataclasses.dataclass(frozen=True)
class CleaningOptions:
    """Which stages run, and their thresholds. Raises UserError for impossible values.

    Attributes:
      normalize: the Unicode normal form of every text.
      min_characters, max_characters: how long a text may be, in code points; 0: no limit.
      languages: ISO 639-1 codes of the languages that are kept; (): all. A text has the language
        that py3langid finds most probable, if its probability is at least min_language_probability.
      quality: the public rule sets that a text must pass (quality.py), in any order.
      near_duplicates: two texts are near duplicates if their sets of `shingle` words in a row have
        this Jaccard similarity, as num_perm MinHashes estimate it; 0: near duplicates stay.
      decontaminate: files of evaluation texts. A document that shares `ngram` words in a row with
        one of them is dropped.
    """

    normalize: Normalize = "none"
    min_characters: int = 0
    max_characters: int = 0
    languages: tuple[str, ...] = ()
    min_language_probability: float = 0.0
    quality: tuple[Quality, ...] = ()
    near_duplicates: float = 0.0
    num_perm: int = 128
    shingle: int = 5
    decontaminate: tuple[str, ...] = ()
    ngram: int = 13

    @property
    def reads_characters(self) -> bool:
        """Returns whether a stage that looks at one document reads its characters."""
        length = self.min_characters or self.max_characters
        return bool(self.normalize != "none" or length or self.languages or self.quality)

    def __post_init__(self):
        check_fields(self, {})
        if self.normalize not in get_args(Normalize):
            raise UserError(
                f"cleaning.normalize is {self.normalize!r}; it can be "
                f"{', '.join(get_args(Normalize))}"
            )
        for name in ("languages", "quality", "decontaminate"):
            if isinstance(getattr(self, name), str):
                raise UserError(f"cleaning.{name} is a str; write ({getattr(self, name)!r},)")
        for name in ("min_characters", "max_characters"):
            if getattr(self, name) < 0:
                raise UserError(f"cleaning.{name} is {getattr(self, name)}; 0 means no limit")
        if 0 < self.max_characters < self.min_characters:
            raise UserError(
                f"cleaning.max_characters is {self.max_characters}, less than min_characters, "
                f"{self.min_characters}: no text is left"
            )
        for name in ("min_language_probability", "near_duplicates"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"cleaning.{name} is {getattr(self, name)}; it must be in [0, 1]")
        if self.min_language_probability and not self.languages:
            raise UserError(
                "cleaning.min_language_probability needs cleaning.languages: name those to keep"
            )
        unknown = [rules for rules in self.quality if rules not in get_args(Quality)]
        if unknown:
            raise UserError(
                f"cleaning.quality names {unknown[0]!r}; the rule sets are "
                f"{', '.join(get_args(Quality))}"
            )
        for name, least in (("num_perm", 2), ("shingle", 1), ("ngram", 1)):
            if getattr(self, name) < least:
                raise UserError(
                    f"cleaning.{name} is {getattr(self, name)}; it must be at least {least}"
                )
