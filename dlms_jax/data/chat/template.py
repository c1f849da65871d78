"""Chat templates: loading, rendering, and hiding special tokens that messages spell.

They are Jinja, run as Hugging Face tokenizers run them, but the date is always the same.
"""

import datetime
import functools
import json
import pathlib
import re

from dlms_jax.errors import UserError, optional_import

_TODAY = datetime.datetime(2024, 7, 26)  # as in Llama's templates; see the package's docstring
_HAS_OWN_DATE = re.compile(r"strftime_now\s+is\s+(not\s+)?defined")


def load_template(path: str | pathlib.Path) -> str:
    """Returns the chat template of a .jinja file, a tokenizer_config.json, or the folder of one."""
    path = pathlib.Path(path)
    if path.is_dir():
        names = ("chat_template.jinja", "tokenizer_config.json")
        found = [path / name for name in names if (path / name).is_file()]
        if not found:
            raise UserError(f"the folder {path} has no {' and no '.join(names)}")
        path = found[0]
    try:
        template = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            template = json.loads(template)["chat_template"]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        template = ""
    if isinstance(template, list):  # several, by name
        named = [t for t in template if isinstance(t, dict) and t.get("name") == "default"]
        template = named[0].get("template") if named else ""
    if not isinstance(template, str) or not template.strip():
        raise UserError(f"{path} holds no chat template: give a .jinja file in UTF-8, or a folder")
    return template


def render_template(template, messages, **variables) -> str:
    """Returns the text of messages; without a template, their contents."""
    if not template:
        return "".join(message["content"] for message in messages)
    try:
        return compile_template(template).render(messages=messages, **variables)
    except Exception as error:  # a template can raise any error
        raise UserError(f"the chat template fails: {' '.join(str(error).split())}") from None


@functools.lru_cache(maxsize=8)
def compile_template(template: str):
    """Returns a template, compiled in the environment that Hugging Face tokenizers give it."""
    jinja2 = optional_import("jinja2", "data")
    loops = optional_import("jinja2.ext", "data").loopcontrols
    sandbox = optional_import("jinja2.sandbox", "data").ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):  # type: ignore[name-defined]  # imported above
        """{% generation %} marks answers for other programs; here it does nothing."""

        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    environment = sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loops, Generation])
    environment.globals["raise_exception"] = raise_exception
    if not _HAS_OWN_DATE.search(template):
        environment.globals["strftime_now"] = _TODAY.strftime
    environment.filters["tojson"] = tojson  # Jinja's own filter escapes for HTML
    try:
        return environment.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"the chat template, line {error.lineno}: {error.message}") from None


class Spellings:
    """The names of special tokens, and how messages are kept from spelling them."""

    def __init__(self, names: tuple[str, ...]):
        spelled = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
        self.any = re.compile(f"({spelled})")
        self._start = re.compile(f"(?={spelled})")  # also of those that overlap
        self._names = names
        self._longest = max(map(len, names))
        self._heads = {name[:i] for name in names for i in range(1, len(name))}
        self._tails = {name[i:] for name in names for i in range(1, len(name))}

    def stand_ins(self, used: str) -> dict[str, str]:
        """Returns a stand-in for each character of the special tokens; no stand-in is in `used`.

        They are unassigned characters of Unicode, which templates do not change.
        """
        taken = set(used)
        free = (chr(i) for i in range(0x40000, 0x110000) if chr(i) not in taken)
        return dict(zip(sorted(set("".join(self._names))), free, strict=False))

    def hide(self, value, stand_ins, content=False):
        """Returns JSON data in which no text spells a special token: its start has a stand-in.

        In a content (a value of "content"), a part of a special token at either end is hidden too,
        since another content or the template could complete it. In other texts it is not, because
        templates write '<|' + role + '|>'.
        """
        if isinstance(value, list):
            return [self.hide(item, stand_ins, content) for item in value]
        if isinstance(value, dict):
            return {
                self.hide(key, stand_ins): self.hide(item, stand_ins, key == "content")
                for key, item in value.items()
            }
        if not isinstance(value, str):
            return value
        chars = list(value)
        found = {match.start() for match in self._start.finditer(value)}
        for index in found | (self._at_edges(value) if content else set()):
            chars[index] = stand_ins[chars[index]]
        return "".join(chars)

    def _at_edges(self, text) -> set[int]:
        """Returns where parts of special tokens start or end the text, trimmed or not."""
        found = set()
        left, right = len(text) - len(text.lstrip()), len(text.rstrip())
        for start, end in ((0, len(text)), (left, right)):
            last = range(max(start, end - self._longest), end)
            found |= {i for i in last if text[i:end] in self._heads}
            first = range(start + 1, min(end, start + self._longest) + 1)
            inside = start < end and any(text[start:end] in name for name in self._names)
            if inside or any(text[start:i] in self._tails for i in first):
                found.add(start)
        return found


spellings_of = functools.lru_cache(maxsize=8)(Spellings)
