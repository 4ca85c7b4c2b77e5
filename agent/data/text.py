"""The words of a headline as plain text, and its identity: news is hostile input, and leaves here as nothing but text."""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata
from typing import Final

MAX_TITLE: Final = 1_000  # characters
MAX_SUMMARY: Final = 10_000

# "BTC < 50k > 40k" is no markup. A comment that isn't closed hides the rest, as in a browser, and costs one look, not many.
_MARKUP = re.compile(r"<!--.*?(?:-->|\Z)|</?[A-Za-z][^<>]*>", re.DOTALL)
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ud800-\udfff\ufeff]"
)
_SPACE = re.compile(r"\s+")
_PLAIN_MARKS: Final = str.maketrans(
    "\u2018\u2019\u201c\u201d\u2010\u2011\u2012\u2013\u2014", "''\"\"-----", ";"
)
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def plain(text: str | None, limit: int = MAX_TITLE) -> str:
    """The text on one line, without markup, entities, control characters and bidirectional overrides, cut to `limit`.

    Total, and of `None` makes "".
    """
    if not text:
        return ""
    text = text[: 4 * limit]
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        text = _MARKUP.sub(" ", text)
    return _SPACE.sub(" ", _INVISIBLE.sub("", text)).strip()[:limit].rstrip()


def title_key(title: str) -> str:
    """What two titles that differ by trifles alone share: case, spacing, semicolons, forms of quotes and dashes, full stops at the end."""
    text = unicodedata.normalize("NFKC", title).casefold().translate(_PLAIN_MARKS)
    return _SPACE.sub(" ", text).strip(" .!") or title


def one_line(text: str, limit: int) -> str:
    """The text on one line, without control characters and bidirectional overrides; cut off, it ends in an ellipsis.

    What looks like markup stays, as the text that it is: for showing what must be escaped, not for reading feeds.
    """
    line = _SPACE.sub(" ", _INVISIBLE.sub("", text[: 4 * limit])).strip()
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def printable(text: str) -> str:
    """The text with a replacement character for everything that could command a terminal or reorder a line.

    These are control characters (C0, C1, escape), line separators, bidirectional overrides, lone surrogates and invisible
    characters. Line feeds and tabs stay. For texts of any origin that go to a terminal or a log.
    """
    return _UNPRINTABLE.sub("\ufffd", text)


def escape_unprintable(json: str) -> str:
    r"""A JSON document in which the same characters are written as \uXXXX: it means the same, and is safe on a terminal."""
    return _UNPRINTABLE.sub(_json_escape, json)


def _json_escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def news_id(url: str, publisher: str, title: str, ts: int) -> str:
    """What makes a headline itself: its address, else publisher, title and publication (UTC ms). 32 hexadecimal digits."""
    identity = url or "\x1f".join((publisher, title, str(ts)))
    return hashlib.blake2b(identity.encode(errors="replace"), digest_size=16).hexdigest()
