"""From a folder of pages to passages short enough to be quoted. Reads Markdown, plain text and HTML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

from pointsman.router.errors import ConfigurationError

__all__ = ["LONGEST_PASSAGE", "SEPARATOR", "Passage", "read_passages"]

LONGEST_PASSAGE = 1_000
"""Characters; a section of a well-kept handbook fits, and three of them are still a readable answer."""

SEPARATOR = " › "
"""Between the headings of a title."""

_LONGEST_HEADING = 200
_SUFFIXES = (".md", ".txt", ".html")
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_HEADING = re.compile(r"(#{1,6})\s(.*)")
_CLOSING_HASHES = re.compile(r"\s#+\s*\Z")
_FENCE = re.compile(r"\s*(```|~~~)")
_PIECE = re.compile(r"[^\n.!?;。！？；]*(?:[.!?;]+(?:\s|\Z)|[.!?;]+|[\n。！？；]+|\Z)")
_HTML_BREAK = re.compile(
    "address|article|aside|blockquote|dd|div|dl|dt|footer|header|main|nav|ol|p|pre|section|table|title|ul|h[1-6]"
)
_HTML_LINES = frozenset({"br", "li", "tr"})
_HTML_DROPPED = frozenset({"script", "style", "template", "noscript"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A piece of a page, as it is shown."""

    text: str
    title: str
    """The page's title and the headings above the text, outermost first, joined by `SEPARATOR`."""
    source: str
    """The page's path relative to the folder, with forward slashes."""
    score: float = 0.0
    """How well it fits the question it was found for; higher is better, comparable within one search only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """A heading of level 1 to 6, or a paragraph (level 0)."""

    level: int
    text: str


def read_passages(folder: Path) -> list[Passage]:
    """Return the passages of every `*.md`, `*.txt` and `*.html` below `folder`, in the order of their paths.

    Hidden files and folders are passed over.

    Raises:
        ConfigurationError: the folder is missing, holds no text, or a file can't be read as UTF-8.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"the knowledge base must be a folder, found none at {str(folder)!r}; check the path")
    passages: list[Passage] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.suffix.lower() in _SUFFIXES and not any(part.startswith(".") for part in name.parts) and path.is_file():
            passages += _with_opening(list(_cut(_blocks(path), stem=path.stem, source=name.as_posix())))
    if not passages:
        kinds = ", ".join(f"*{suffix}" for suffix in _SUFFIXES)
        raise ConfigurationError(f"expected text in {kinds} files below {str(folder)!r}, found none; add pages to it")
    return passages


def _blocks(path: Path) -> list[_Block]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"expected UTF-8 in {str(path)!r}, found byte 0x{error.object[error.start]:02x} at offset {error.start}; "
            "save the file as UTF-8"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"cannot read {str(path)!r} ({error.strerror}); check its permissions") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    match path.suffix.lower():
        case ".html":
            reader = _HtmlReader()
            reader.feed(text)
            reader.close()
            return reader.blocks
        case ".md":
            return list(_markdown(_FRONT_MATTER.sub("", text, count=1)))
        case _:
            return [_Block(level=0, text=paragraph) for paragraph in re.split(r"\n\s*\n", text)]


def _markdown(text: str) -> Iterator[_Block]:
    lines: list[str] = []
    fenced = False
    for line in [*text.split("\n"), ""]:
        if _FENCE.match(line):
            fenced = not fenced
        heading = None if fenced else _HEADING.match(line)
        if heading or not (line.strip() or fenced):
            yield _Block(level=0, text="\n".join(lines))
            lines = []
        if heading:
            yield _Block(level=len(heading[1]), text=_CLOSING_HASHES.sub("", heading[2]))
        elif line.strip() or fenced:
            lines.append(line)
    yield _Block(level=0, text="\n".join(lines))  # what follows a fence that nobody closed


class _HtmlReader(HTMLParser):
    """Collects the visible text of a page as blocks."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[_Block] = []
        self._texts: list[str] = []
        self._dropped = 0
        self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._dropped += tag in _HTML_DROPPED
        if _HTML_BREAK.fullmatch(tag):
            self._flush(0)
        elif tag in _HTML_LINES:
            self._texts.append("\n- " if tag == "li" else "\n")
        elif tag in {"td", "th"}:
            self._texts.append(" ")
        self._preformatted += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        self._dropped = max(self._dropped - (tag in _HTML_DROPPED), 0)
        if _HTML_BREAK.fullmatch(tag):
            self._flush(1 if tag == "title" else int(tag[1]) if tag[1:].isdigit() else 0)
        self._preformatted = max(self._preformatted - (tag == "pre"), 0)

    def handle_data(self, data: str) -> None:
        if not self._dropped:
            self._texts.append(data if self._preformatted else re.sub(r"\s+", " ", data))

    def close(self) -> None:
        super().close()
        self._flush(0)

    def _flush(self, level: int) -> None:
        text = "".join(self._texts)
        if not self._preformatted:
            text = "\n".join(line.strip() for line in text.split("\n"))
        self.blocks.append(_Block(level=level, text=text))
        self._texts = []


def _cut(blocks: list[_Block], *, stem: str, source: str) -> Iterator[Passage]:
    headings: list[_Block] = [] if any(block.level == 1 for block in blocks) else [_Block(level=1, text=stem)]
    texts: list[str] = []

    def passage() -> Iterator[Passage]:
        if text := "\n\n".join(texts):
            yield Passage(text=text, title=SEPARATOR.join(above.text for above in headings) or stem, source=source)
        texts.clear()

    for block in blocks:
        if block.level:
            yield from passage()
            heading = _Block(level=block.level, text=" ".join(block.text.split())[:_LONGEST_HEADING])
            headings = [
                *(above for above in headings if above.level < block.level),
                *([heading] if heading.text else []),
            ]
        else:
            for piece in _pieces(block.text.strip()):
                if sum(len(text) + 2 for text in texts) + len(piece) > LONGEST_PASSAGE:
                    yield from passage()
                texts.append(piece)
    yield from passage()


def _with_opening(passages: list[Passage]) -> list[Passage]:
    """Join what stands above a page's first section to that section: alone, it is seldom an answer."""
    if len(passages) < 2:  # noqa: PLR2004 -- nothing to join
        return passages
    opening, first, *others = passages
    page, separator, section = first.title.partition(SEPARATOR)
    text = f"{opening.text}\n\n**{section}**\n\n{first.text}"
    if page != opening.title or not separator or len(text) > LONGEST_PASSAGE:
        return passages
    return [replace(opening, text=text), *others]


def _pieces(text: str) -> Iterator[str]:
    """Cut a paragraph at lines and sentences into pieces of at most `LONGEST_PASSAGE` characters."""
    piece = ""
    for part in _PIECE.findall(text) if len(text) > LONGEST_PASSAGE else [text]:
        rest = part
        if len(piece) + len(rest) > LONGEST_PASSAGE and piece:
            yield piece.strip()
            piece = ""
        while len(rest) > LONGEST_PASSAGE:
            yield rest[:LONGEST_PASSAGE]
            rest = rest[LONGEST_PASSAGE:]
        piece += rest
    if piece.strip():
        yield piece.strip()
