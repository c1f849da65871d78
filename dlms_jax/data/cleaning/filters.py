"""The stages that look at one document at a time: normalize, length, language, quality."""

import functools
from typing import NamedTuple
import unicodedata

from dlms_jax.data.cleaning import quality
from dlms_jax.data.cleaning.options import CleaningOptions
from dlms_jax.data.cleaning.record import Record
from dlms_jax.data.cleaning.report import Count, Key
from dlms_jax.data.corpora.document import Document, to_bytes, to_str
from dlms_jax.errors import UserError, optional_import

_SAMPLE = 4096  # characters by which the language of a text is identified


class Drop(NamedTuple):
    """A document that is dropped, and why."""

    key: Key
    count: Count  # type: ignore[assignment]  # it hides tuple.count


def judge(document: Document, options: CleaningOptions) -> Record | Drop:
    """Returns the document after these stages, or why it is dropped."""
    name = document.name.encode("utf-8", "backslashreplace").decode()
    size = len(document.text)
    if not options.reads_characters:
        return Record.of(name, document.text, size)
    text = original = to_str(document.text)
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
    return Record.of(name, document.text if text == original else to_bytes(text), size)


def check_length(text: str, options: CleaningOptions) -> str:
    """Returns why a text's length is wrong; "" if it is right."""
    if len(text) < options.min_characters:
        return f"under {options.min_characters} characters"
    if 0 < options.max_characters < len(text):
        return f"over {options.max_characters} characters"
    return ""


def check_language(text: str, options: CleaningOptions) -> str:
    """Returns why a text's language is wrong; "" if it is right."""
    if not options.languages:
        return ""
    language, probability = _identifier().classify(text[:_SAMPLE])
    if language not in options.languages:
        return f"language {language}"
    if probability < options.min_language_probability:
        return "language uncertain"
    return ""


def check_languages(options: CleaningOptions) -> None:
    """Raises UserError for a language that the identifier does not know."""
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
