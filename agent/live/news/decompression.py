"""Decompression of feed documents, by Content-Encoding and by their first bytes, with bounded output."""

from __future__ import annotations

import zlib
from typing import Final

from agent.core.errors import DataError

_GZIP: Final = ("gzip", "x-gzip")
_UNSUPPORTED: Final = frozenset(
    [
        "br",
        "zstd",
        "compress",
        "x-compress",
        "dcb",
        "dcz",
        "sdch",
        "exi",
        "xz",
        "lzma",
        "bzip2",
        "x-bzip2",
        "pack200-gzip",
    ]
)
_GZIP_MAGIC: Final = b"\x1f\x8b\x08"
# The last one is EBCDIC
_TEXT_STARTS: Final = (b"<", b"{", b"\xef\xbb\xbf", b"\xfe\xff", b"\xff\xfe", b"\x00", b"\x4c\x6f\xa7\x94")
_GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS
_RAW_DEFLATE: Final = -zlib.MAX_WBITS
# Bytes decompressed at a time: zlib copies the rest after each member, so small steps keep many small members
# cheap
_STEP: Final = 4_096
_MAX_MEMBERS: Final = 1_000
_MAX_LAYERS: Final = 2


def decompress(body: bytes, content_encoding: str, limit: int) -> bytes:
    """Decompress a document of at most `limit` bytes.

    Names that aren't compressions (`none`, `utf-8`, `aws-chunked` …) are ignored; gzip is recognised even
    without a header. Raises DataError if the document is damaged, cut off, too large, or uses an unsupported
    compression.
    """
    names = [name.strip() for name in content_encoding.lower().split(",")]
    unsupported = next((name for name in names if name in _UNSUPPORTED), None)
    if unsupported is not None:
        raise DataError(f"compressed as {unsupported!r}, which is not supported")
    layers = [name for name in names if name in _GZIP or name == "deflate"]
    if len(layers) > _MAX_LAYERS:
        raise DataError(f"compressed {len(layers)} times")
    for name in reversed(layers):
        body = _inflate(body, limit, deflate=name == "deflate")
    if body.startswith(_GZIP_MAGIC) and len(layers) < _MAX_LAYERS:
        body = _inflate(body, limit)
    unknown = next((name for name in names if name not in ("", "identity") and name not in layers), None)
    if unknown is not None and body and not body.lstrip(b" \t\r\n").startswith(_TEXT_STARTS):
        raise DataError(f"compressed as {unknown[:50]!r}, which is not supported")
    return body


def _inflate(packed: bytes, limit: int, *, deflate: bool = False) -> bytes:
    """Decompress all members of a gzip file, or a zlib or raw deflate stream; trailing data is ignored."""
    unpacker = zlib.decompressobj(_GZIP_OR_ZLIB)
    body = bytearray()
    members, at = 1, 0
    rest = b""
    while rest or at < len(packed):
        piece = rest or packed[at : at + _STEP]
        at += 0 if rest else _STEP
        rest = b""
        if unpacker.eof:
            following = (piece + packed[at : at + len(_GZIP_MAGIC)]).lstrip(b"\0")
            if not following:
                continue
            if deflate or not following.startswith(_GZIP_MAGIC):
                break
            members += 1
            if members > _MAX_MEMBERS:
                raise DataError(f"compressed in more than {_MAX_MEMBERS} pieces")
            piece = piece.lstrip(b"\0")
            unpacker = zlib.decompressobj(_GZIP_OR_ZLIB)
        try:
            body += unpacker.decompress(piece, limit + 1 - len(body))
        except zlib.error:
            if not deflate or body or at > _STEP:
                raise DataError("the compressed document is damaged") from None
            unpacker = zlib.decompressobj(_RAW_DEFLATE)  # some servers omit zlib's header
            try:
                body += unpacker.decompress(piece, limit + 1)
            except zlib.error:
                raise DataError("the compressed document is damaged") from None
        if len(body) > limit:
            raise DataError(f"larger than {limit} bytes")
        rest = unpacker.unused_data
    if not unpacker.eof:
        raise DataError("the compressed document is cut off")
    return bytes(body)
