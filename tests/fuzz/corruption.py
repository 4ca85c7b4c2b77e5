"""Corrupts a valid document by a list of `Corruption`s, on which the result depends only.

So hypothesis can shrink the list. JSON is corrupted in its structure (fields dropped, replaced, nested,
duplicated), other text by tokens, and everything by bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

MAX_BYTES: Final = 400_000
"""Maximum size of a corrupted document."""

_DEPTH: Final = 20_000  # exceeds the limit of any recursive reader
_JSON_VALUES: Final = (
    b"null",
    b"true",
    b"false",
    b"0",
    b"-1",
    b"1e999",
    b"-1e999",
    b"1e-999",
    b"NaN",
    b"Infinity",
    b"9223372036854775808",
    b"-9223372036854775809",
    b"18446744073709551616",
    b"9" * 5_000,
    b"0.1",
    b'""',
    b'"0"',
    b'"-1"',
    b'"1e999999999"',
    b'"-1e-999999999"',
    b'"NaN"',
    b'"sNaN"',
    b'"Infinity"',
    b'"' + b"9" * 5_000 + b'"',
    '"\N{ARABIC-INDIC DIGIT FIVE}"'.encode(),
    '"\N{SUPERSCRIPT TWO}"'.encode(),
    b'"\\u0000"',
    b'"\\ud800"',
    b'"\xff"',
    b'"' + b"x" * 10_000 + b'"',
    b"[]",
    b"{}",
    b"[null]",
    b"[[]]",
    b'[""]',
    b"[0]",
    b'{"":0}',
    b"[" * _DEPTH + b"]" * _DEPTH,
    b'{"a":' * _DEPTH + b"0" + b"}" * _DEPTH,
    b"[" * _DEPTH,
    b"[" * 900 + b"]" * 900,
)
_TOKENS: Final = (
    b"",
    b"0",
    b"-1",
    b"1e999",
    b"nan",
    b"inf",
    b"-inf",
    b"9" * 30,
    b"9" * 5_000,
    b"1970-01-01",
    b"9999-12-31T23:59:59Z",
    b"0001-01-01",
    b"2024-02-30T00:00:00Z",
    b"2024-03-31T02:30:00",
    b"\xff\xfe",
    b"\x00",
    b"\xef\xbb\xbf",
    b'"',
    b"'",
    b"\\",
    b",",
    b",,,,",
    b"\n",
    b"\r",
    b"\r\n",
    b"[",
    b"]",
    b"{",
    b"}",
    b"<",
    b">",
    b"&",
    b"&#0;",
    b"&#xd800;",
    b"&lol;",
    b"<![CDATA[",
    b"<!--",
    b"\xc3",
    "\N{RIGHT-TO-LEFT OVERRIDE}".encode(),
    b"[" * _DEPTH,
    b"{a=" * _DEPTH,
    b"<a>" * _DEPTH,
    b"a." * _DEPTH + b"a=1\n",
    b"x" * 10_000,
    b"true",
    b"1_000",
    b"0x7fffffffffffffffff",
    b"\xe2\x80\xa8",
)
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
_TOKEN: Final = re.compile(rb'[^\s,;:=<>"\[\]{}&/]+|[\s,;:=<>"\[\]{}&/]')


class Corruption(NamedTuple):
    """One change: its kind, its position as a fraction of the document's parts, and the index of the value
    to insert.
    """

    kind: int
    position: float
    value: int


Corruptor = Callable[[bytes, Corruption], bytes]


def corrupt(document: bytes, corruptions: Sequence[Corruption], corruptors: Sequence[Corruptor]) -> bytes:
    """Apply all corruptions. The kind of a corruption selects the corruptor."""
    for corruption in corruptions:
        document = corruptors[corruption.kind % len(corruptors)](
            document, corruption._replace(kind=corruption.kind // len(corruptors))
        )[:MAX_BYTES]
    return document


def corrupt_json(document: bytes, corruption: Corruption) -> bytes:
    """Drop, replace, wrap, duplicate or rename one node of the tree, or convert it to or from text."""
    try:
        tree = msgspec.json.decode(document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return corrupt_bytes(document, corruption)  # no longer JSON
    nodes = list(_nodes(tree))
    parent, key = nodes[int(corruption.position * len(nodes))]
    value = msgspec.Raw(_JSON_VALUES[corruption.value % len(_JSON_VALUES)])
    if parent is None:
        return bytes(value)
    old = parent[key]
    match corruption.kind % 7:
        case 0:
            del parent[key]
        case 1:
            parent[key] = [old, value]
        case 2:
            parent[key] = {"a": old, "list": [old]}
        case 3 if isinstance(parent, dict):
            parent[f"{key}{corruption.value}"] = parent.pop(key)
        case 3:
            parent[key:key] = [old] * (1 + corruption.value)
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


def corrupt_lines(document: bytes, corruption: Corruption) -> bytes:
    """Corrupt one line as JSON, duplicate it, drop it, or move it to the end."""
    lines = document.splitlines(keepends=True) or [b""]
    at = int(corruption.position * len(lines))
    match corruption.kind % 8:
        case 0:
            lines[at:at] = [lines[at]] * (1 + corruption.value)
        case 1:
            del lines[at]
        case 2:
            lines.append(lines.pop(at))
        case _:
            # The rest of the position selects the node within the line
            inner = corruption._replace(
                position=corruption.position * len(lines) % 1, kind=corruption.kind // 8
            )
            lines[at] = corrupt_json(lines[at].strip(), inner) + b"\n"
    return b"".join(lines)


def corrupt_tokens(document: bytes, corruption: Corruption) -> bytes:
    """Replace, drop, duplicate or precede one token or separator, or truncate the document there."""
    tokens = _TOKEN.findall(document) or [b""]
    at, value = int(corruption.position * len(tokens)), _TOKENS[corruption.value % len(_TOKENS)]
    match corruption.kind % 7:
        case 0:
            del tokens[at]
        case 1:
            tokens[at:at] = [tokens[at]] * (1 + corruption.value)
        case 2:
            tokens.insert(at, value)
        case 3:
            del tokens[at:]
        case 4:
            tokens[at] = tokens[corruption.value % len(tokens)]
        case _:
            tokens[at] = value
    return b"".join(tokens)


def corrupt_bytes(document: bytes, corruption: Corruption) -> bytes:
    """Replace, insert or flip one byte, truncate the document, or repeat a part."""
    at, value = int(corruption.position * len(document)), _BYTES[corruption.value % len(_BYTES)]
    match corruption.kind % 5:
        case 0:
            return document[:at] + value + document[at + len(value) :]
        case 1:
            return document[:at] + value + document[at:]
        case 2:
            return (
                document[:at]
                + bytes(byte ^ (1 << corruption.value % 8) for byte in document[at : at + 1])
                + document[at + 1 :]
            )
        case 3:
            return document[:at]
        case _:
            return document[:at] + document[at // 2 :]
