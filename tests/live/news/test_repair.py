"""Repair of bare ampersands and invalid character references; other entries and text stay unchanged."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.live.news.feed_parser import parse_feed
from agent.live.news.repair import repair_references, repair_text

# 0x1F680 = 0x10000 + (0xD83D - 0xD800) * 0x400 + (0xDE80 - 0xDC00); 55357 and 56960 in decimal
ROCKET = "\U0001f680"


def feed(title: str, *, encoding: str = "utf-8", doctype: str = "") -> bytes:
    text = (
        f"<?xml version='1.0' encoding='{encoding}'?>{doctype}<rss version='2.0'><channel>"
        f"<item><title>{title}</title><guid>1</guid></item>"
        "<item><title>Ether falls</title><guid>2</guid></item></channel></rss>"
    )
    return text.encode(encoding)


def titles(body: bytes) -> list[str]:
    return [entry.title for entry in parse_feed(body).entries]


TITLES = [
    # bare ampersands are kept literally
    ("S&P 500 & AT&T fall", "S&P 500 & AT&T fall"),
    ("R&D at P&G", "R&D at P&G"),
    ("Q&A: Fed", "Q&A: Fed"),
    ("&", "&"),
    ("profits &; losses &#; &#x; &#xg;", "profits &; losses &#; &#x; &#xg;"),
    # valid references
    ("S&amp;P", "S&P"),
    ("caf&eacute; &lt;50k &#8217;&#x2019;", "caf\u00e9 <50k \u2019\u2019"),
    ("AT&T caf&eacute; &amp; S&amp;P", "AT&T caf\u00e9 & S&P"),
    ("<![CDATA[S&P &amp; AT&T &eacute;]]>", "S&P & AT&T \u00e9"),
    ("<![CDATA[A]]> & <![CDATA[B&C]]>", "A & B&C"),
    ("A <!-- B & C --> D & E", "A D & E"),
    # references to invalid characters
    ("Bitcoin &#55357;&#56960; up", f"Bitcoin {ROCKET} up"),
    ("Bitcoin &#xD83D;&#xDE80; up", f"Bitcoin {ROCKET} up"),
    ("Bitcoin &#55357;&#xde80;&#55357;&#56960; up", f"Bitcoin {ROCKET}{ROCKET} up"),
    ("Bitcoin &#128640; up", f"Bitcoin {ROCKET} up"),
    ("Bitcoin &#xD800; up", "Bitcoin up"),
    ("Bitcoin &#56960;&#55357; up", "Bitcoin up"),
    ("Bitcoin &#55357; &#56960; up", "Bitcoin up"),
    ("Bitcoin &#x110000; up", "Bitcoin up"),
    ("Bitcoin &#xFFFFFFFF; up", "Bitcoin up"),
    (f"Bitcoin &#{'9' * 5_000}; up", "Bitcoin up"),
    ("Bitcoin &#0;&#8;&#xFFFE; up", "Bitcoin up"),
    ("Bitcoin&#146;s rise", "Bitcoin\u2019s rise"),  # of windows-1252
    ("<![CDATA[Bitcoin &#55357;&#56960;&#xD800; up]]>", f"Bitcoin {ROCKET} up"),
    ("Bitcoin &amp;#55357;&amp;#56960; up", f"Bitcoin {ROCKET} up"),
]


@pytest.mark.parametrize(("written", "read"), TITLES)
def test_titles_are_repaired(written: str, read: str) -> None:
    assert titles(feed(written)) == [read, "Ether falls"]


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-16", "Caf\u00e9"),
        ("utf-16-le", "Caf\u00e9"),
        ("utf-32", "Caf\u00e9"),
        ("iso-8859-1", "Caf\u00e9"),
        ("windows-1252", "Caf\u00e9"),
        ("cp037", "Caf\u00e9"),
        ("koi8-r", "\u0411\u0430\u043d\u043a"),
        ("shift_jis", "\u65e5\u672c"),
        ("iso-2022-jp", "\u65e5\u672c\u306e\u7d4c\u6e08"),
        ("gb18030", "\u4e2d\u56fd"),
        ("big5", "\u4e2d\u570b"),
        ("euc-kr", "\ud55c\uad6d"),
    ],
)
def test_documents_in_every_encoding_are_repaired(encoding: str, name: str) -> None:
    assert titles(feed(f"{name} S&P & R&D &#xD800;", encoding=encoding)) == [
        f"{name} S&P & R&D",
        "Ether falls",
    ]


@pytest.mark.parametrize(
    "declaration",
    ["<?xml version='1.0' encoding='UTF-8'?>", "<?xml version='1.0'?>", "", "\ufeff<?xml version='1.0'?>"],
)
@pytest.mark.parametrize(
    "content_type", ["", "application/rss+xml", "text/xml", "application/xml; charset=UTF-8"]
)
@pytest.mark.parametrize(
    ("byte", "read"),
    [
        (b"\xff", "Coin \ufffd up"),
        (b"\xe2\x80", "Coin \ufffd up"),
        # 0xD83D and 0xDE80, each encoded as a character
        (b"\xed\xa0\xbd\xed\xba\x80", f"Coin {ROCKET} up"),
        (b"\xed\xa0\xbd", "Coin up"),
    ],
)
def test_an_invalid_utf8_byte_changes_no_other_entry(
    declaration: str, content_type: str, byte: bytes, read: str
) -> None:
    body = declaration.encode() + (
        b"<rss version='2.0'><channel><item><title>Coin " + byte + b" up</title></item><item><title>"
        b"Caf\xc3\xa9 \xe2\x80\x94 d\xe2\x80\x99or</title></item></channel></rss>"
    )
    assert [entry.title for entry in parse_feed(body, content_type=content_type).entries] == [
        read,
        "Caf\u00e9 \u2014 d\u2019or",
    ]


@pytest.mark.parametrize("declared", ["utf-16", "UTF-16LE"])
def test_a_utf16_declaration_in_a_single_byte_document_is_ignored(declared: str) -> None:
    """.NET declares UTF-16 if it writes a string to a UTF-8 stream."""
    body = (
        f'<?xml version="1.0" encoding="{declared}"?>'
        '<rss version="2.0"><channel><item><title>Caf\u00e9</title></item></channel></rss>'
    )
    assert titles(body.encode()) == ["Caf\u00e9"]


@pytest.mark.parametrize("declared", ["utf-8", "iso-8859-1", "windows-1252"])
def test_a_document_in_another_encoding_is_read_by_its_bytes(declared: str) -> None:
    body = (
        f"<?xml version='1.0' encoding='{declared}'?>"
        "<rss version='2.0'><channel><item><title>Caf\u00e9 d\u00e9j\u00e0 vu</title>"
    )
    assert titles((body + "</item></channel></rss>").encode("windows-1252")) == [
        "Caf\u00e9 d\u00e9j\u00e0 vu"
    ]


def test_entities_declared_in_the_document_are_kept() -> None:
    assert titles(feed("&x; & S&P", doctype="<!DOCTYPE r [<!ENTITY x 'Coin'>]>")) == [
        "Coin & S&P",
        "Ether falls",
    ]


def test_links_with_bare_ampersands_are_kept() -> None:
    body = (
        b"<rss version='2.0'><channel><item><title>A</title>"
        b"<link>https://news.test/?a=1&b=2&amp;c=3</link></item></channel></rss>"
    )
    assert parse_feed(body).entries[0].url == "https://news.test/?a=1&b=2&c=3"


@pytest.mark.parametrize(
    "piece", [b"&", b"&a", b"&#", b"&#1;", b"&#55357;", b"<![CDATA[", b"<!--", b"<?", b"a"]
)
def test_a_repair_takes_linear_time(piece: bytes) -> None:
    """Quadratic time would take hours here."""
    document = b"&" + piece * (1_000_000 // len(piece))
    assert repair_references(document).startswith(b"&") or piece == b"&#1;"


@given(st.text(alphabet=st.sampled_from("a&#x;89D5 <>![]CDATA-?"), max_size=60))
def test_repairs_are_idempotent(text: str) -> None:
    once = repair_references(text.encode())
    assert repair_references(once) == once
    assert repair_text(repair_text(text)) == repair_text(text)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.sampled_from(
            [
                "&",
                "&amp;",
                "&#55357;",
                "&#56960;",
                "&#xD800;",
                "&#x110000;",
                "&#0;",
                "S&P",
                " ",
                "x",
                "&eacute;",
                "&#8217;",
            ]
        )
    )
)
def test_the_content_of_a_title_changes_no_other_entry(pieces: list[str]) -> None:
    entries = parse_feed(feed("x" + "".join(pieces))).entries
    plain = parse_feed(feed("x")).entries
    assert len(entries) == 2
    assert entries[1] == plain[1]
    assert entries[0].key == plain[0].key
