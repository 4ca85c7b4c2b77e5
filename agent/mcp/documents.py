"""The pages of the documentation, searched and read by an assistant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec

from agent.core.errors import UsageError, did_you_mean
from agent.system.resources import resource

MAX_TEXT: Final = 60_000
"""Characters of a page or section that are returned at once."""

_EXCERPT: Final = 300  # characters
_HEADING: Final = re.compile(r"^#{1,4} +(.+?) *#*$")
_WORD: Final = re.compile(r"[\w.-]{2,}")


class DocPage(msgspec.Struct, frozen=True):
    """A page and its title."""

    page: str
    title: str
    characters: int


class DocHit(msgspec.Struct, frozen=True):
    """A section in which words of the query occur."""

    page: str
    section: str
    excerpt: str


class DocText(msgspec.Struct, frozen=True):
    """A page, or a section of it, in Markdown. `cut` is True if it is longer than is returned."""

    page: str
    section: str
    text: str
    cut: bool


class _Section(msgspec.Struct, frozen=True):
    title: str
    text: str


def list_pages() -> list[DocPage]:
    """Return the pages by name."""
    pages = [(name, _read(path)) for name, path in _pages().items()]
    return [DocPage(name, _sections(text)[0].title, len(text)) for name, text in pages]


def search(query: str, limit: int) -> list[DocHit]:
    """Return the sections with the most of the query's words, best first; a word in a title counts thrice."""
    words = {word.lower() for word in _WORD.findall(query)}
    if not words:
        raise UsageError("the query has no word", hint="name what you look for, such as: trailing stop")
    found = []
    for name, path in _pages().items():
        for section in _sections(_read(path)):
            title, text = section.title.lower(), section.text.lower()
            score = sum((3 if word in title else 0) + min(text.count(word), 3) for word in words)
            present = sum(word in title or word in text for word in words)
            if present:
                found.append((-present, -score, name, section))
    found.sort(key=lambda hit: hit[:3])
    return [DocHit(name, section.title, _excerpt(section, words)) for *_, name, section in found[:limit]]


def read(page: str, section: str = "") -> DocText:
    """Return a page, or a section of it by its title. Raises UsageError if it doesn't exist."""
    pages = _pages()
    name = page.removesuffix(".md")
    if name not in pages:
        raise UsageError(
            f"there is no page {page[:80]!r}",
            hint=did_you_mean(name[:80], pages, f"one of {', '.join(pages)}"),
        )
    text, shown = _read(pages[name]), ""
    if section:
        sections = _sections(text)
        chosen = next((one for one in sections if one.title.lower() == section.lower()), None)
        if chosen is None:
            titles = [one.title for one in sections]
            raise UsageError(
                f"page {name} has no section {section[:80]!r}",
                hint=did_you_mean(section[:80], titles, f"one of {'; '.join(titles)}"),
            )
        text, shown = chosen.text, chosen.title
    return DocText(name, shown, text[:MAX_TEXT], len(text) > MAX_TEXT)


def _pages() -> dict[str, Path]:
    folder = resource("docs")
    return {path.stem: path for path in sorted(folder.glob("*.md"))}


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _sections(text: str) -> list[_Section]:
    """Split a page at its headings, which are not lines of code; the first one is the page's title."""
    sections: list[_Section] = []
    title, lines, in_code = "", list[str](), False
    for line in text.splitlines():
        in_code ^= line.lstrip().startswith("```")
        heading = None if in_code else _HEADING.match(line)
        if heading is not None and (title or any(lines)):
            sections.append(_Section(title, "\n".join(lines).strip()))
            lines = []
        title = heading[1] if heading is not None else title
        lines.append(line)
    return [*sections, _Section(title, "\n".join(lines).strip())]


def _excerpt(section: _Section, words: set[str]) -> str:
    """Return the part of a section around the first of the words."""
    text = " ".join(section.text.split())
    places = [at for word in words if (at := text.lower().find(word)) >= 0]
    begin = max(min(places, default=0) - _EXCERPT // 3, 0)
    return (
        ("…" if begin else "")
        + text[begin : begin + _EXCERPT]
        + ("…" if len(text) > begin + _EXCERPT else "")
    )
