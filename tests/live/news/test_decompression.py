"""Compressed documents are recognised by header or content, decompressed completely and limited in size."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import DataError
from agent.live.news.decompression import decompress

FEED = b"<rss>" + b"".join(b"<item>%d</item>" % number for number in range(1_000)) + b"</rss>"
LIMIT = len(FEED)
HALVES = gzip.compress(FEED[:777]) + gzip.compress(FEED[777:])


@pytest.mark.parametrize(
    "name",
    [
        "none",
        "",
        "identity",
        "utf-8",
        "UTF-8",
        "aws-chunked",
        "binary",
        "8bit",
        "iso-8859-1",
        "null",
        "none, identity",
    ],
)
def test_names_without_compression_are_ignored(name: str) -> None:
    assert decompress(FEED, name, LIMIT) == FEED
    assert decompress(gzip.compress(FEED), name, LIMIT) == FEED, "recognised by its first bytes"


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (gzip.compress(FEED), "gzip, identity"),
        (gzip.compress(FEED), "aws-chunked,GZIP"),
        (gzip.compress(FEED), "x-gzip"),
        (gzip.compress(FEED), "deflate"),
        (zlib.compress(FEED), "deflate"),
        (gzip.compress(gzip.compress(FEED)), "gzip, gzip"),
        (gzip.compress(gzip.compress(FEED)), "gzip"),
        (gzip.compress(zlib.compress(FEED)), "deflate, gzip"),
        (HALVES, "gzip"),
        (HALVES, ""),
        (gzip.compress(FEED) + gzip.compress(b""), "gzip"),
        (HALVES + bytes(10_000), "gzip"),
        (gzip.compress(FEED[:777]) + bytes(9_000) + gzip.compress(FEED[777:]), "gzip"),
        (gzip.compress(FEED) + b"what follows", "gzip"),
    ],
)
def test_compressed_documents_are_decompressed_completely(body: bytes, name: str) -> None:
    assert decompress(body, name, LIMIT) == FEED


@pytest.mark.parametrize(
    ("body", "name", "reason"),
    [
        (FEED, "br", "compressed as 'br'"),
        (FEED, "gzip, zstd", "compressed as 'zstd'"),
        (b"\x8b\x0f\x80", "unheard-of", "compressed as 'unheard-of'"),
        (gzip.compress(FEED)[:-9], "", "cut off"),
        (HALVES[:-9], "gzip", "cut off"),
        (HALVES[:-9] + b"\xff" * 9, "gzip", "damaged"),
        (FEED, "gzip", "damaged"),
        (b"\xff" * 9, "deflate", "damaged"),
        (FEED + b" ", "gzip, gzip, gzip", "compressed 3 times"),
        (gzip.compress(FEED + b" "), "gzip", f"larger than {LIMIT} bytes"),
        (HALVES + gzip.compress(b" "), "gzip", f"larger than {LIMIT} bytes"),
        (gzip.compress(gzip.compress(b" " * 50_000_000)), "gzip", f"larger than {LIMIT} bytes"),
        (gzip.compress(b"") * 90_000, "gzip", "more than 1000 pieces"),
    ],
)
def test_invalid_documents_are_refused(body: bytes, name: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        decompress(body, name, LIMIT)


@given(st.lists(st.binary(max_size=9_000), min_size=1, max_size=5))
def test_gzip_members_of_any_size_are_concatenated(parts: list[bytes]) -> None:
    whole = b"<" + b"".join(parts)
    packed = gzip.compress(b"<") + b"".join(gzip.compress(part, 1) for part in parts)
    assert decompress(packed, "gzip", len(whole)) == whole
