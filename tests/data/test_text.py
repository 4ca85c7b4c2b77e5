"""Cleaning of headlines and of terminal output."""

from __future__ import annotations

import unicodedata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.data.text import MAX_TITLE, escape_unprintable, news_id, plain, printable


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        ("<b>Bitcoin</b>&nbsp;rises<br/>again", "Bitcoin rises again"),
        ("S&amp;P 500 &#8211; flat", "S&P 500 – flat"),
        ("&lt;script&gt;alert(1)&lt;/script&gt; Ether falls", "alert(1) Ether falls"),
        ("BTC < 50k and ETH > 3k", "BTC < 50k and ETH > 3k"),
        ("two\n\tlines\u2028and  more", "two lines and more"),
        ("safe\u202egnp.exe\u2066 \x00\x07name\ufeff", "safegnp.exe name"),
        ("half a \ud83d pair", "half a pair"),
        ("👩\u200d💻 builds", "👩\u200d💻 builds"),
        (None, ""),
        ("x" * 5000, "x" * MAX_TITLE),
    ],
)
def test_a_headline_is_read_as_plain_text(raw: str | None, read: str) -> None:
    assert plain(raw) == read


@given(
    st.text(alphabet=st.characters(exclude_categories=[]), max_size=60) | st.text("<>&;ab/!-lt \u202e\ud800")
)
def test_any_text_becomes_one_line_that_utf8_can_hold(raw: str) -> None:
    read = plain(raw)
    assert len(read.splitlines()) <= 1
    assert not set(read) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\x00\x1b")
    read.encode()


def test_a_headlines_identity_is_its_address_or_publisher_title_and_time() -> None:
    assert news_id("http://a/1", "P", "T", 1) == news_id("http://a/1", "Q", "U", 2)
    assert len({news_id("", p, t, ts) for p in ("P", "Q") for t in ("T", "U") for ts in (1, 2)}) == 8


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=60))
def test_any_text_can_be_printed(raw: str) -> None:
    shown = printable(raw)
    assert len(shown) == len(raw)
    shown.encode()
    assert not [c for c in shown if unicodedata.category(c) == "Cc" and c not in "\n\t"]
    assert not set(shown) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029\u200b\ufeff")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
def test_escaped_json_keeps_its_meaning_and_is_safe_on_a_terminal(raw: str) -> None:
    written = escape_unprintable(msgspec.json.encode(raw).decode())
    assert msgspec.json.decode(written) == raw
    assert not [c for c in written if unicodedata.category(c) == "Cc"]
    assert not set(written) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")
