"""Repair faults by which one entry breaks a whole feed: bare ampersands, invalid character references,
invalid UTF-8.

A strict parser stops at the first two. feedparser's loose parser reads the name after a bare ampersand as an
entity, and fails on surrogates and on numbers beyond Unicode. A single invalid byte makes feedparser read the
whole document in another encoding.
"""

from __future__ import annotations

import html
import re
from typing import Final

_REFERENCE: Final = rb"#[0-9]+;|#[xX][0-9a-fA-F]+;|[A-Za-z_:\x80-\xff][\w.:\x80-\xff-]*;"
_PLACES: Final = re.compile(
    rb"<!\[CDATA\[.*?(?:\]\]>|\Z)|<!--.*?(?:-->|\Z)|<\?.*?(?:\?>|\Z)"  # contain no references
    rb"|(?P<pair>&#(?:[0-9]+|[xX][0-9a-fA-F]+);(?:&#(?:[0-9]+|[xX][0-9a-fA-F]+);)*)"
    rb"|(?P<bare>(?:&(?!" + _REFERENCE + rb"))+)",
    re.DOTALL,
)
_NUMBERS: Final = re.compile(r"&#(?:[0-9]+|[xX][0-9a-fA-F]+);(?:&#(?:[0-9]+|[xX][0-9a-fA-F]+);)*")
_BOM: Final = b"\xef\xbb\xbf"
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff", b"\x00", b"<\x00")
_UTF8: Final = frozenset(("", "utf-8", "utf8"))
_DECLARED: Final = re.compile(rb"""\s*<\?xml[^>]*?encoding=["']([^"'>]{0,40})["']""")
_SURROGATES: Final = re.compile(rb"(?:\xed[\xa0-\xbf][\x80-\xbf])+")
_MAX_DIGITS: Final = 8  # of a number that can be a character, without leading zeros
_CHARACTERS: Final = ((0x20, 0x7E), (0xA0, 0xD7FF), (0xE000, 0xFFFD), (0x10000, 0x10FFFF))
_WHITE: Final = frozenset((0x9, 0xA, 0xD))


def repair_references(document: bytes) -> bytes:
    """Repair a UTF-8 document in one pass, except in CDATA sections, comments and processing instructions."""
    return _PLACES.sub(_repaired, document) if b"&" in document else document


def repair_encoding(document: bytes, charset: str) -> bytes:
    """Replace the invalid bytes of a document that is mostly UTF-8, and join surrogate pairs.

    `charset` is that of the HTTP header, or empty. Documents in another encoding, declared or not, are
    returned unchanged.
    """
    declared = _DECLARED.match(document.removeprefix(_BOM))
    if (
        declared
        and declared[1].lower().startswith((b"utf-16", b"utf-32", b"ucs-2"))
        and not document.startswith(_UTF16)
    ):
        # A two-byte encoding declared in single bytes contradicts itself; .NET writes such documents
        document = document.replace(declared[0], declared[0].replace(declared[1], b"utf-8", 1), 1)
        declared = _DECLARED.match(document.removeprefix(_BOM))
    names = {charset.lower(), declared[1].decode("latin-1").lower() if declared else ""}
    if not names <= _UTF8 or document.startswith(_UTF16):
        return document
    try:
        document.decode()
    except UnicodeDecodeError:
        repaired = _SURROGATES.sub(_joined, document).decode(errors="replace")
        bad = repaired.count("\ufffd")
        good = len(repaired) - len(repaired.encode("ascii", "ignore")) - bad
        return repaired.encode() if good > bad else document
    return document


def _joined(found: re.Match[bytes]) -> bytes:
    """Decode surrogates that were encoded one by one (CESU-8)."""
    units = found[0].decode("utf-8", "surrogatepass").encode("utf-16-le", "surrogatepass")
    return units.decode("utf-16-le", "ignore").encode()


def repair_text(text: str) -> str:
    """Repair the character references of a text that was escaped or in a CDATA section."""
    return _NUMBERS.sub(lambda found: _characters(found[0]), text) if "&#" in text else text


def _repaired(found: re.Match[bytes]) -> bytes:
    if found["bare"] is not None:
        return b"&amp;" * len(found["bare"])
    if found["pair"] is not None:
        return _characters(found["pair"].decode("ascii")).encode("ascii")
    return found[0]


def _characters(references: str) -> str:
    """Return the valid ones of consecutive references, with surrogate pairs joined, as browsers read them."""
    repaired: list[str] = []
    high = 0
    for reference in references[2:-1].split(";&#"):
        number = _number(reference)
        if high and 0xDC00 <= number <= 0xDFFF:
            repaired.append(f"&#{0x10000 + ((high - 0xD800) << 10) + number - 0xDC00};")
            high = 0
            continue
        high = number if 0xD800 <= number <= 0xDBFF else 0
        if 0x80 <= number <= 0x9F:  # windows-1252
            number = ord(html.unescape(f"&#{number};"))
        if _is_character(number):
            repaired.append(f"&#{number};")
    return "".join(repaired)


def _number(reference: str) -> int:
    base = 16 if reference[0] in "xX" else 10
    digits = reference.lstrip("xX").lstrip("0") or "0"
    return int(digits, base) if len(digits) <= _MAX_DIGITS else -1


def _is_character(number: int) -> bool:
    """Return whether XML allows the character."""
    return number in _WHITE or any(first <= number <= last for first, last in _CHARACTERS)
