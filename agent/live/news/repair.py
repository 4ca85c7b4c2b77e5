"""Repairs what one entry can break for a whole feed: bare ampersands, references to no character, and bytes
that aren't UTF-8.

A strict parser stops at the first two. feedparser's other one takes the name after a bare ampersand for an
entity, and fails at surrogates and at numbers beyond Unicode. A single byte that isn't UTF-8 makes it read
the whole document in another encoding.
"""

from __future__ import annotations

import html
import re
from typing import Final

_REFERENCE: Final = rb"#[0-9]+;|#[xX][0-9a-fA-F]+;|[A-Za-z_:\x80-\xff][\w.:\x80-\xff-]*;"
_PLACES: Final = re.compile(
    rb"<!\[CDATA\[.*?(?:\]\]>|\Z)|<!--.*?(?:-->|\Z)|<\?.*?(?:\?>|\Z)"  # no references in these
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
_LONGEST: Final = 8  # digits of a number that can be a character, without leading zeros
_CHARACTERS: Final = ((0x20, 0x7E), (0xA0, 0xD7FF), (0xE000, 0xFFFD), (0x10000, 0x10FFFF))
_WHITE: Final = frozenset((0x9, 0xA, 0xD))


def mend(document: bytes) -> bytes:
    """Mend a document in UTF-8, in one pass; CDATA sections, comments and processing instructions stay as
    they are.
    """
    return _PLACES.sub(_mended, document) if b"&" in document else document


def mend_utf8(document: bytes, charset: str) -> bytes:
    """Replace the invalid bytes in a document that otherwise is UTF-8; surrogate pairs are joined.

    `charset` is the one of the HTTP header, if any. A document in another encoding, declared or not, stays as
    it is.
    """
    declared = _DECLARED.match(document.removeprefix(_BOM))
    if (
        declared
        and declared[1].lower().startswith((b"utf-16", b"utf-32", b"ucs-2"))
        and not document.startswith(_UTF16)
    ):
        # A declaration that can be read byte by byte contradicts itself; .NET writes it so
        document = document.replace(declared[0], declared[0].replace(declared[1], b"utf-8", 1), 1)
        declared = _DECLARED.match(document.removeprefix(_BOM))
    names = {charset.lower(), declared[1].decode("latin-1").lower() if declared else ""}
    if not names <= _UTF8 or document.startswith(_UTF16):
        return document
    try:
        document.decode()
    except UnicodeDecodeError:
        mended = _SURROGATES.sub(_joined, document).decode(errors="replace")
        bad = mended.count("\ufffd")
        good = len(mended) - len(mended.encode("ascii", "ignore")) - bad
        return mended.encode() if good > bad else document
    return document


def _joined(found: re.Match[bytes]) -> bytes:
    """Of surrogates that were encoded one by one, as CESU-8 has it."""
    units = found[0].decode("utf-8", "surrogatepass").encode("utf-16-le", "surrogatepass")
    return units.decode("utf-16-le", "ignore").encode()


def mend_text(text: str) -> str:
    """Mend the character references of a text, such as HTML that was escaped or in a CDATA section."""
    return _NUMBERS.sub(lambda found: _characters(found[0]), text) if "&#" in text else text


def _mended(found: re.Match[bytes]) -> bytes:
    if found["bare"] is not None:
        return b"&amp;" * len(found["bare"])
    if found["pair"] is not None:
        return _characters(found["pair"].decode("ascii")).encode("ascii")
    return found[0]


def _characters(references: str) -> str:
    """Character references in a row: those that name a character, surrogate pairs joined, as browsers
    read them.
    """
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
    return number in _WHITE or any(first <= number <= last for first, last in _CHARACTERS)
