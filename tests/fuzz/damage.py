"""Damage to a sound document, as a list of strokes: a pure function of them, so that hypothesis can find the fewest that matter.

JSON is damaged in its structure (a field dropped, replaced, nested, doubled), every other text word by word, and all of them byte by byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

LONGEST: Final = 400_000
"""Bytes of a damaged document."""

_DEEP: Final = 20_000  # beyond what any recursive reader stands
_JSON_VALUES: Final = (
    b"null", b"true", b"false", b"0", b"-1", b"1e999", b"-1e999", b"1e-999", b"NaN", b"Infinity", b"9223372036854775808",
    b"-9223372036854775809", b"18446744073709551616", b"9" * 5_000, b"0.1", b'""', b'"0"', b'"-1"', b'"1e999999999"', b'"-1e-999999999"',
    b'"NaN"', b'"sNaN"', b'"Infinity"', b'"' + b"9" * 5_000 + b'"', '"\N{ARABIC-INDIC DIGIT FIVE}"'.encode(), '"\N{SUPERSCRIPT TWO}"'.encode(),
    b'"\\u0000"', b'"\\ud800"', b'"\xff"', b'"' + b"x" * 10_000 + b'"', b"[]", b"{}", b"[null]", b"[[]]", b'[""]', b"[0]", b'{"":0}',
    b"[" * _DEEP + b"]" * _DEEP, b'{"a":' * _DEEP + b"0" + b"}" * _DEEP, b"[" * _DEEP, b"[" * 900 + b"]" * 900,
)  # fmt: skip
_WORDS: Final = (
    b"", b"0", b"-1", b"1e999", b"nan", b"inf", b"-inf", b"9" * 30, b"9" * 5_000, b"1970-01-01", b"9999-12-31T23:59:59Z", b"0001-01-01",
    b"2024-02-30T00:00:00Z", b"2024-03-31T02:30:00", b"\xff\xfe", b"\x00", b"\xef\xbb\xbf", b'"', b"'", b"\\", b",", b",,,,", b"\n", b"\r", b"\r\n",
    b"[", b"]", b"{", b"}", b"<", b">", b"&", b"&#0;", b"&#xd800;", b"&lol;", b"<![CDATA[", b"<!--", b"\xc3", "\N{RIGHT-TO-LEFT OVERRIDE}".encode(),
    b"[" * _DEEP, b"{a=" * _DEEP, b"<a>" * _DEEP, b"a." * _DEEP + b"a=1\n", b"x" * 10_000, b"true", b"1_000", b"0x7fffffffffffffffff", b"\xe2\x80\xa8",
)  # fmt: skip
_BYTES: Final = (
    b"",
    b"\x00",
    b"\xff",
    b"\x80",
    b"\x7f",
    b"\xff" * 8,
    b"\x00" * 8,
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"0",
    b'"',
    b"\n",
)
_WORD: Final = re.compile(rb'[^\s,;:=<>"\[\]{}&/]+|[\s,;:=<>"\[\]{}&/]')


class Stroke(NamedTuple):
    """One damage: what is done, where (a share of the document's parts), and with which of the values."""

    deed: int
    where: float
    value: int


Damage = Callable[[bytes, Stroke], bytes]


def damaged(document: bytes, strokes: Sequence[Stroke], ways: Sequence[Damage]) -> bytes:
    """The document after all the strokes; each picks its way by its deed."""
    for stroke in strokes:
        document = ways[stroke.deed % len(ways)](document, stroke._replace(deed=stroke.deed // len(ways)))[
            :LONGEST
        ]
    return document


def in_json(document: bytes, stroke: Stroke) -> bytes:
    """One node of the tree is dropped, replaced, wrapped, doubled, moved under another's name, or turned into text or out of it."""
    try:
        tree = msgspec.json.decode(document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return in_bytes(document, stroke)  # it is no JSON any more
    nodes = list(_nodes(tree))
    parent, key = nodes[int(stroke.where * len(nodes))]
    value = msgspec.Raw(_JSON_VALUES[stroke.value % len(_JSON_VALUES)])
    if parent is None:
        return bytes(value)
    old = parent[key]
    match stroke.deed % 7:
        case 0:
            del parent[key]
        case 1:
            parent[key] = [old, value]
        case 2:
            parent[key] = {"a": old, "list": [old]}
        case 3 if isinstance(parent, dict):
            parent[f"{key}{stroke.value}"] = parent.pop(key)
        case 3:
            parent[key:key] = [old] * (1 + stroke.value)
        case 4:
            parent[key] = msgspec.json.encode(old).decode() if not isinstance(old, str) else _number(old)
        case _:
            parent[key] = value
    try:
        return msgspec.json.encode(tree)
    except RecursionError:
        return document


def _number(text: str) -> Any:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else [text]


def _nodes(tree: Any) -> Any:
    waiting: list[tuple[Any, Any]] = [(None, None)]
    while waiting:
        parent, key = waiting.pop()
        yield parent, key
        node = tree if parent is None else parent[key]
        if isinstance(node, dict):
            waiting += [(node, name) for name in node]
        elif isinstance(node, list):
            waiting += [(node, index) for index in range(len(node))]


def in_lines(document: bytes, stroke: Stroke) -> bytes:
    """One line, of JSON, is damaged as JSON, doubled, dropped, or moved to the end."""
    lines = document.splitlines(keepends=True) or [b""]
    at = int(stroke.where * len(lines))
    match stroke.deed % 8:
        case 0:
            lines[at:at] = [lines[at]] * (1 + stroke.value)
        case 1:
            del lines[at]
        case 2:
            lines.append(lines.pop(at))
        case _:
            # Which node: whatever of the place the line leaves over
            inner = stroke._replace(where=stroke.where * len(lines) % 1, deed=stroke.deed // 8)
            lines[at] = in_json(lines[at].strip(), inner) + b"\n"
    return b"".join(lines)


def in_words(document: bytes, stroke: Stroke) -> bytes:
    """One word, or what stands between two, is replaced, dropped, doubled, preceded, or everything from it on is cut off."""
    words = _WORD.findall(document) or [b""]
    at, value = int(stroke.where * len(words)), _WORDS[stroke.value % len(_WORDS)]
    match stroke.deed % 7:
        case 0:
            del words[at]
        case 1:
            words[at:at] = [words[at]] * (1 + stroke.value)
        case 2:
            words.insert(at, value)
        case 3:
            del words[at:]
        case 4:
            words[at] = words[stroke.value % len(words)]
        case _:
            words[at] = value
    return b"".join(words)


def in_bytes(document: bytes, stroke: Stroke) -> bytes:
    """One byte is replaced, dropped, flipped, or everything from it on is cut off, or a part comes twice."""
    at, value = int(stroke.where * len(document)), _BYTES[stroke.value % len(_BYTES)]
    match stroke.deed % 5:
        case 0:
            return document[:at] + value + document[at + len(value) :]
        case 1:
            return document[:at] + value + document[at:]
        case 2:
            return (
                document[:at]
                + bytes(byte ^ (1 << stroke.value % 8) for byte in document[at : at + 1])
                + document[at + 1 :]
            )
        case 3:
            return document[:at]
        case _:
            return document[:at] + document[at // 2 :]
