"""Mends the references of an XML document before it is parsed: bare ampersands, and character references that name no character.

Either of them ends a strict parser. feedparser's other one takes the word after a bare ampersand for an entity, and fails at
surrogates and at numbers beyond Unicode, so that one bad reference would cost all entries.
"""

from __future__ import annotations

import html
import re
from typing import Final

_REFERENCE: Final = rb"#[0-9]+;|#[xX][0-9a-fA-F]+;|[A-Za-z_:\x80-\xff][\w.:\x80-\xff-]*;"
_PLACES: Final = re.compile(
    rb"<!\[CDATA\[.*?(?:\]\]>|\Z)|<!--.*?(?:-->|\Z)|<\?.*?(?:\?>|\Z)"  # no references in these
    rb"|(?P<pair>&#(?:[0-9]+|[xX][0-9a-fA-F]+);(?:&#(?:[0-9]+|[xX][0-9a-fA-F]+);)*)"
    rb"|(?P<bare>&(?!" + _REFERENCE + rb"))",
    re.DOTALL,
)
_NUMBERS: Final = re.compile(r"&#(?:[0-9]+|[xX][0-9a-fA-F]+);(?:&#(?:[0-9]+|[xX][0-9a-fA-F]+);)*")
_LONGEST: Final = 8  # digits of a number that can be a character, without leading zeros
_WHITE: Final = frozenset((0x9, 0xA, 0xD))


def mend(document: bytes) -> bytes:
    """Mend a document in UTF-8, in one pass; CDATA sections, comments and processing instructions stay as they are."""
    return _PLACES.sub(_mended, document) if b"&" in document else document


def mend_text(text: str) -> str:
    """Mend the character references of a text, such as HTML that was escaped or in a CDATA section."""
    return _NUMBERS.sub(lambda found: _characters(found[0]), text) if "&#" in text else text


def _mended(found: re.Match[bytes]) -> bytes:
    if found["bare"] is not None:
        return b"&amp;"
    if found["pair"] is not None:
        return _characters(found["pair"].decode("ascii")).encode("ascii")
    return found[0]


def _characters(references: str) -> str:
    """Character references in a row: those that name a character, surrogate pairs joined, as browsers read them."""
    mended: list[str] = []
    high = 0
    for reference in references[2:-1].split(";&#"):
        number = _number(reference)
        if high and 0xDC00 <= number <= 0xDFFF:
            mended.append(f"&#{0x10000 + ((high - 0xD800) << 10) + number - 0xDC00};")
            high = 0
            continue
        high = number if 0xD800 <= number <= 0xDBFF else 0
        if 0x80 <= number <= 0x9F:  # meant in windows-1252
            number = ord(html.unescape(f"&#{number};"))
        if _is_character(number):
            mended.append(f"&#{number};")
    return "".join(mended)


def _number(reference: str) -> int:
    base = 16 if reference[0] in "xX" else 10
    digits = reference.lstrip("xX").lstrip("0") or "0"
    return int(digits, base) if len(digits) <= _LONGEST else -1


def _is_character(number: int) -> bool:
    """Whether XML has it."""
    return number in _WHITE or 0x20 <= number <= 0x7E or 0xA0 <= number <= 0xD7FF or 0xE000 <= number <= 0xFFFD or (
        0x10000 <= number <= 0x10FFFF
    )  # fmt: skip
