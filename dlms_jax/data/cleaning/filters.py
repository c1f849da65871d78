"""The stages that look at one document alone: normalize, length, language, quality."""

import functools
from typing import NamedTuple
import unicodedata

from dlms_jax.data.cleaning import quality
from dlms_jax.data.cleaning.options import CleaningOptions
from dlms_jax.data.cleaning.report import Count, Key
from dlms_jax.data.corpora.document import Document, to_bytes
from dlms_jax.errors import UserError, optional_import

_SAMPLE = 4096  # characters that a language is known by


class Record(NamedTuple):
    """A document on its way. text: its bytes, as they are now. size: how many it came with.

    Bytes, because a str with lone surrogates cannot be sent from one Beam worker to another.
    """

    name: str
    text: bytes
    size: int

    @property
    def characters(self) -> str:
        return self.text.decode("utf-8", "surrogateescape")

    @property
    def count(self) -> Count:
        return Count(1, self.size, self.name)


class Drop(NamedTuple):
    """A document that is left out, and why."""

    key: Key
    count: Count


def judge(document: Document, options: CleaningOptions) -> Record | Drop:
    """Returns the document as the stages leave it, or why it is dropped.

    In its name, what is no Unicode is written out.
    """
    name = document.name.encode("utf-8", "backslashreplace").decode()
    try:
        size = len(to_bytes(document.text))
    except UnicodeEncodeError:  # half a character, as JSON's \ud800 gives it
        size = len(document.text.encode("utf-8", "surrogatepass"))
        return Drop(("normalize", "a lone surrogate"), Count(1, size, name))
    text = document.text
    if options.normalize != "none":
        text = unicodedata.normalize(options.normalize, text)
    stage, reason = "length", check_length(text, options)
    if not reason:
        stage, reason = "language", check_language(text, options)
    if not reason:
        stage = "quality"
        text, reason = quality.apply(text, options.quality)
    if reason:
        return Drop((stage, reason), Count(1, size, name))
    return Record(name, to_bytes(text), size)


def check_length(text: str, options: CleaningOptions) -> str:
    """Returns why a text's length is wrong; "" where it is not."""
    if len(text) < options.min_characters:
        return f"under {options.min_characters} characters"
    if 0 < options.max_characters < len(text):
        return f"over {options.max_characters} characters"
    return ""


def check_language(text: str, options: CleaningOptions) -> str:
    """Returns why a text's language is wrong; "" where it is not."""
    if not options.languages:
        return ""
    language, probability = _identifier().classify(text[:_SAMPLE])
    if language not in options.languages:
        return f"language {language}"
    if probability < options.min_language_probability:
        return "language uncertain"
    return ""


def check_languages(options: CleaningOptions) -> None:
    """Raises UserError for a language that would never be found."""
    if options.languages:
        known = _identifier().labels
        unknown = [code for code in options.languages if code not in known]
        if unknown:
            raise UserError(
                f"cleaning.languages names {unknown[0]!r}; known are {', '.join(sorted(known))}"
            )


@functools.cache
def _identifier():
    langid = optional_import("py3langid.langid", "data")
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
