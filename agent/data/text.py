"""Cleaning of untrusted text, for headlines and for terminals, and the identity of a headline."""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata
from typing import Final
from urllib.parse import urlsplit

MAX_TITLE: Final = 1_000  # characters
MAX_SUMMARY: Final = 10_000
MAX_URL: Final = 2_000

# "BTC < 50k > 40k" isn't markup. An unclosed comment hides the rest, as in a browser, without backtracking.
_MARKUP = re.compile(r"<!--.*?(?:-->|\Z)|</?[A-Za-z][^<>]*>", re.DOTALL)
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069"
    "\ud800-\udfff\ufeff]"
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
    """Return the text on one line, at most `limit` characters, without markup; "" for None.

    Entities are decoded, control characters and bidirectional overrides removed.
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
    """Return a key that ignores case, spacing, semicolons, quote and dash forms, and a final `.` or `!`."""
    text = unicodedata.normalize("NFKC", title).casefold().translate(_PLAIN_MARKS)
    return _SPACE.sub(" ", text).strip(" .!") or title


def one_line(text: str, limit: int) -> str:
    """Return the text on one line without control characters, cut to `limit` with an ellipsis.

    Markup is kept as text, so the result must be escaped where markup is interpreted.
    """
    line = _SPACE.sub(" ", _INVISIBLE.sub("", text[: 4 * limit])).strip()
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def web_url(url: str) -> str:
    """Return `url` if it is an http or https URL, else an empty string: `javascript:` URLs are unsafe."""
    try:
        parts = urlsplit(url)
    except ValueError:  # a malformed IPv6 host
        return ""
    return url if parts.scheme in ("http", "https") and parts.hostname and len(url) <= MAX_URL else ""


def printable(text: str) -> str:
    """Replace all characters that could control a terminal or reorder a line by U+FFFD.

    These are control characters (C0, C1, escape), line separators, bidirectional overrides, lone surrogates
    and invisible characters. Line feeds and tabs are kept. Use it for untrusted text in a terminal or a log.
    """
    return _UNPRINTABLE.sub("\ufffd", text)


def escape_unprintable(json: str) -> str:
    r"""Escape the same characters in a JSON document as \uXXXX, which keeps its meaning."""
    return _UNPRINTABLE.sub(_json_escape, json)


def _json_escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def storable(text: str) -> str:
    """Replace NUL and lone surrogates, which databases refuse, by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")


def news_id(url: str, publisher: str, title: str, ts: int) -> str:
    """Hash a headline's URL, else publisher, title and time (UTC ms), to 32 hexadecimal digits."""
    identity = url or "\x1f".join((publisher, title, str(ts)))
    return hashlib.blake2b(identity.encode(errors="replace"), digest_size=16).hexdigest()
