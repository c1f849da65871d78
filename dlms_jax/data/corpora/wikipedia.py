"""Wikipedia: a MediaWiki XML dump -> the plain text of its articles, a stream.

Only the prose of a page is kept. Templates, tables, references, formulas, files and categories are
dropped, because their source is markup and a model would learn it as text. Text that a template
prints, such as `{{convert|5|km}}`, is lost with it.
"""

from collections.abc import Iterator
import pathlib
import re
import xml.etree.ElementTree as xml

from dlms_jax.data.corpora.document import Document, to_bytes
from dlms_jax.data.corpora.streams import open_stream
from dlms_jax.errors import UserError, optional_import

ARTICLES, FILES, CATEGORIES = "0", "6", "14"  # numbers of namespaces, in every language
_UNREAD_TAGS = frozenset({
    "ce", "chem", "gallery", "graph", "hiero", "imagemap", "indicator", "inputbox", "mapframe",
    "math", "ref", "references", "score", "script", "section", "style", "table", "templatedata",
    "templatestyles", "timeline",
})  # fmt: skip
_HIDDEN = frozenset({"file", "image", "category"})  # known in every language, with the local names
_GONE = "\0"  # in place of a template; no XML text holds it
_EMPTY_BRACKETS = re.compile(r" ?\([\s,;]*\0[\s,;\0]*\)")
_EMPTY_FIRST = re.compile(r"\(\s*\0[\s,;\0]*")  # at the start of brackets
_EMPTY_LAST = re.compile(r"[\s,;]*\0[\s,;\0]*\)")
_OTHER_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z-]+)?")


def parse(path: pathlib.Path) -> Iterator[Document]:
    """Yields the articles of a dump (.xml, .xml.bz2, .gz, .zst), each below its title.

    Redirects, other namespaces and pages without prose are left out. Only one page is in memory at
    a time. If a page has several revisions, the last one in the file counts.

    Raises:
      UserError: the file is cut off, damaged, or not a MediaWiki export.
    """
    try:
        with open_stream(path) as stream:
            for title, wikitext, hidden in _articles(stream, path):
                text = plain_text(wikitext, hidden)
                if text:
                    yield Document(f"{path}#{title}", to_bytes(f"{title}\n\n{text}\n"))
    except xml.ParseError as error:
        raise UserError(f"{path} is cut off, damaged or not XML: {error}") from None
    except (EOFError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} is cut off, damaged or cannot be read: {reason}") from None


def _articles(stream, path) -> Iterator[tuple[str, str, frozenset[str]]]:
    """Yields (title, wikitext, names of the namespaces whose links are not shown)."""
    hidden = set(_HIDDEN)
    events = xml.iterparse(stream, events=("start", "end"))
    _, root = next(events)
    if _name(root) != "mediawiki":
        raise UserError(f"{path} is not a MediaWiki export: its root is <{_name(root)}>")
    for event, element in events:
        if event == "start":
            continue
        if _name(element) == "namespace" and element.get("key") in (FILES, CATEGORIES):
            hidden.add((element.text or "").lower())
        elif _name(element) == "page":
            parts = {_name(part): part for part in element.iter()}
            if not {"ns", "title", "text"} <= parts.keys():
                raise UserError(
                    f"{path} is not a dump of pages: one has no <ns>, <title> or <text>"
                )
            if parts["ns"].text == ARTICLES and "redirect" not in parts:
                yield parts["title"].text, parts["text"].text or "", frozenset(hidden)
            root.clear()  # or the whole dump stays in memory


def _name(element) -> str:
    """Returns a tag without its namespace, which is the version of the export format."""
    return element.tag.rpartition("}")[2]


def plain_text(wikitext: str, hidden: frozenset[str] = _HIDDEN) -> str:
    """Returns the prose of wikitext; headings without text below them are left out.

    Args:
      wikitext: the source of a page.
      hidden: the namespaces (lower case) whose links show no text, only a file or a category.
    """
    nodes = optional_import("mwparserfromhell", "data").nodes
    parse_wikitext = optional_import("mwparserfromhell", "data").parse
    sections: list[tuple[int, str, list[str]]] = [(0, "", [])]  # (level, heading, text)
    for node in parse_wikitext(wikitext, skip_style_tags=True).nodes:
        if isinstance(node, nodes.Heading):
            sections.append((node.level, _tidy(_text(node.title, nodes, hidden)), []))
        else:
            sections[-1][2].append(_node_text(node, nodes, hidden))
    parts: list[str] = []  # from the end
    below = 0  # the level of the last kept section
    for level, heading, texts in reversed(sections):
        text = _tidy("".join(texts))
        if text or below > level:
            parts += filter(None, (text, heading))
            below = level
    return "\n\n".join(reversed(parts))


def _text(wikicode, nodes, hidden) -> str:
    return "".join(_node_text(node, nodes, hidden) for node in wikicode.nodes)


def _node_text(node, nodes, hidden) -> str:
    """Returns what a reader sees of a node."""
    match node:
        case nodes.Text():
            return node.value
        case nodes.HTMLEntity():
            return node.normalize()
        case nodes.Heading():  # inside a tag; a heading of the page starts a section
            return f"\n\n{_text(node.title, nodes, hidden)}\n\n"
        case nodes.Wikilink():
            namespace, colon, _ = str(node.title).partition(":")
            namespace = namespace.strip()
            if colon and (namespace.lower() in hidden or _OTHER_LANGUAGE.fullmatch(namespace)):
                return ""
            if node.text is not None:
                return _text(node.text, nodes, hidden)
            return _text(node.title, nodes, hidden).removeprefix(":")
        case nodes.ExternalLink():
            if node.title is not None:
                return _text(node.title, nodes, hidden)
            return "" if node.brackets else str(node.url)
        case nodes.Tag():
            name = str(node.tag).strip().lower()
            if name == "br":
                return "\n"
            if name in _UNREAD_TAGS or node.contents is None:
                return ""
            return _text(node.contents, nodes, hidden)
        case nodes.Template() | nodes.Argument():
            return _GONE
    return ""  # a comment


def _tidy(text: str) -> str:
    """Returns a text without the marks that the parser leaves, and with single blank lines."""
    text = _EMPTY_LAST.sub(")", _EMPTY_FIRST.sub("(", _EMPTY_BRACKETS.sub("", text)))
    text = text.replace(_GONE, "")
    text = re.sub(r"'{2,}|__[A-Z]+__", "", text)  # bold, italic, __NOTOC__
    text = re.sub(r"[^\S\n]+", " ", text)
    text = re.sub(r" ?\n ?", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()
