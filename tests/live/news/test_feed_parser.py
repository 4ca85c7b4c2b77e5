"""Parsing feed documents into plain entries, also broken or hostile ones."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.errors import DataError
from agent.live.news.feed_parser import MAX_SUMMARY, MAX_TITLE, FeedDocument, parse_feed
from tests.support.feed_server import item, rss

NOON = 1_790_424_000_000  # 2026-09-26T12:00:00Z

ATOM = b"""<?xml version="1.0" encoding="utf-8"?>
<feed xmlns="http://www.w3.org/2005/Atom"><title>Atom Wire</title>
<entry><id>urn:1</id><title type="html">Rates &amp;lt;b&amp;gt;held&amp;lt;/b&amp;gt; again</title>\
<link href="/rates"/>
<updated>2026-09-26T14:00:00+02:00</updated><summary>They &lt;i&gt;did&lt;/i&gt; nothing.</summary>
<source><title>The Bank</title></source></entry>
<entry><id>urn:2</id><title>Both dates</title><published>2026-09-26T11:00:00Z</published>\
<updated>2026-09-26T12:00:00Z</updated></entry>
</feed>"""

RDF = b"""<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/"
 xmlns:dc="http://purl.org/dc/elements/1.1/">\
<channel rdf:about="https://news.test/"><title>RDF Wire</title></channel>
<item rdf:about="https://news.test/9"><title>Old format, new coin</title><link>https://news.test/9</link>
<dc:date>2026-09-26T12:00:00Z</dc:date></item></rdf:RDF>"""


def test_rss_is_parsed() -> None:
    document = parse_feed(rss(item(1, published=NOON, description="All <b>at once</b> now"), item(2)))
    first, second = document.entries
    assert document.title == "The Test Wire"
    assert first[1:7] == (
        "Miners sell 1 coins",
        "All at once now",
        "https://news.test/1",
        "Sat, 26 Sep 2026 12:00:00 GMT",
        NOON,
        "",
    )
    assert (second.published_raw, second.published) == ("", None)
    assert first.key != second.key


def test_atom_with_escapes_relative_links_and_sources_is_parsed() -> None:
    first, second = parse_feed(
        ATOM, url="https://atom.test/feeds/all", content_type="application/atom+xml"
    ).entries
    assert (first.title, first.summary) == ("Rates held again", "They did nothing.")
    assert first.url == "https://atom.test/rates"
    assert (first.published, first.publisher) == (NOON, "The Bank")
    assert second.published_raw == "2026-09-26T11:00:00Z", "published, not updated"


def test_rdf_is_parsed() -> None:
    document = parse_feed(RDF)
    assert [(entry.title, entry.published) for entry in document.entries] == [("Old format, new coin", NOON)]


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("<![CDATA[<b>Coin</b> &amp; gold]]>", "Coin & gold"),
        ("&lt;img src=x onerror=alert(1)&gt;Coin", "Coin"),
        ("Coin <script>steal()</script>falls", "Coin steal() falls"),
        ("Coin falls\u202e evil\u202c \u200bnow", "Coin falls evil now"),
        ("Coin\n\tfalls  now", "Coin falls now"),
        ("Coin &#x26;lt; 50k", "Coin < 50k"),
        ("Z\u00fcrich \u20bf \u65e5\u672c \U0001f680", "Z\u00fcrich \u20bf \u65e5\u672c \U0001f680"),
    ],
)
def test_titles_are_plain_text(raw: str, plain: str) -> None:
    document = parse_feed(
        f"<rss version='2.0'><channel><item><title>{raw}</title></item></channel></rss>".encode()
    )
    assert [entry.title for entry in document.entries] == [plain]


def test_texts_are_truncated() -> None:
    (entry,) = parse_feed(
        rss(item(1, title="x" * 100_000, description="y " * 100_000, pubDate="z" * 10_000))
    ).entries
    assert len(entry.title) == MAX_TITLE
    assert MAX_SUMMARY - 1 <= len(entry.summary) <= MAX_SUMMARY
    assert len(entry.published_raw) == 100


@pytest.mark.parametrize(
    "link",
    ["javascript:alert(1)", "file:///etc/passwd", "data:text/html,x", "http://[", "https://" + "x" * 3_000],
)
def test_links_other_than_http_are_dropped(link: str) -> None:
    assert [entry.url for entry in parse_feed(rss(item(1, link=link))).entries] == [""]


@pytest.mark.parametrize(
    ("date", "published"),
    [
        ("Sat, 26 Sep 2026 12:00:00 GMT", NOON),
        ("Sat, 26 Sep 2026 14:00:00 +0200", NOON),
        ("26 Sep 2026 08:00:00 EDT", NOON),
        ("2026-09-26T12:00:00Z", NOON),
        ("26/09/2026 12h", None),
        ("yesterday", None),
    ],
)
def test_dates_are_utc_or_unknown_and_the_original_is_kept(date: str, published: int | None) -> None:
    (entry,) = parse_feed(rss(item(1, pubDate=date))).entries
    assert (entry.published_raw, entry.published) == (date, published)


def keys(*items: str) -> list[str]:
    return [entry.key for entry in parse_feed(rss(*items)).entries]


def test_an_entry_is_identified_by_its_id_then_link_then_title() -> None:
    assert keys(item(1)) == keys(item(1, title="Corrected", link="https://news.test/new"))
    assert keys(item(1, guid="")) == keys(item(1, guid="", title="Corrected"))
    assert keys(item(1, guid="", link="")) != keys(item(1, guid="", link="", title="Corrected"))


def test_an_id_or_link_shared_by_all_entries_is_ignored() -> None:
    assert len(set(keys(*(item(n, guid="1") for n in range(3))))) == 3
    assert len(set(keys(*(item(n, guid="", link="https://news.test/") for n in range(3))))) == 3
    assert len(set(keys(item(1), item(1)))) == 1, "the same entry twice"


def test_an_entry_without_a_title_uses_its_summary_and_one_without_text_is_dropped() -> None:
    document = parse_feed(rss(item(1, title="", description="Only a note"), item(2, title="")))
    assert [entry.title for entry in document.entries] == ["Only a note"]
    assert document.empty == 1


@pytest.mark.parametrize(
    "whole", [rss(item(1, published=NOON), item(2), item(3)), ATOM, RDF], ids=["rss", "atom", "rdf"]
)
def test_a_truncated_document_has_a_prefix_of_the_entries(whole: bytes) -> None:
    entries = parse_feed(whole).entries
    for end in range(len(whole)):
        with suppress(DataError):
            document = parse_feed(whole[:end])
            assert document.cut_off
            assert [entry.key for entry in document.entries] == [
                entry.key for entry in entries[: len(document.entries)]
            ]


def test_a_document_with_control_bytes_is_refused() -> None:
    whole = rss(item(1), item(2))
    with pytest.raises(DataError, match="damaged"):
        parse_feed(whole.replace(b"id-1", b"id\0\1"))
    assert (
        len(parse_feed(whole.decode().replace("<?xml", "<?xml encoding='utf-16'").encode("utf-16")).entries)
        == 2
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"\0" * 100,
        b"/etc/passwd",
        b"http://news.test/feed",
        b"{}",
        b"not a feed",
        b"<!doctype html><html><body><p>Please log in</p></body></html>",
        b"<?xml version='1.0'?><a><b/></a>",
    ],
)
def test_documents_other_than_feeds_are_refused(body: bytes) -> None:
    with pytest.raises(DataError, match="neither RSS nor Atom"):
        parse_feed(body)


def test_a_document_that_names_a_file_does_not_open_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(rss(item(1, title="a secret")))
    with pytest.raises(DataError):
        parse_feed(str(secret).encode())


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
HOSTILE = {
    "external entity": (
        b'<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
        b'<rss version="2.0"><channel><item><title>a &x; b</title></item></channel></rss>'
    ),
    "entities of entities": (
        f'<!DOCTYPE r [<!ENTITY l0 "ha">{LAUGHS}]>'
        '<rss version="2.0"><channel><item><title>a &l9;</title></item></channel></rss>'
    ).encode(),
    "comments that never end": rss(*(item(n, description="<!--" * 2_000) for n in range(50))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_documents_do_no_harm(name: str) -> None:
    for entry in parse_feed(HOSTILE[name]).entries:
        assert "root:" not in entry.title
        assert len(entry.title) <= MAX_TITLE


BEGIN = b'<rss version="2.0"><channel><item><title>a</title>'
# makes feedparser use its tag-soup parser for the rest
BROKEN = BEGIN + b"&undefined;</b>"
ATTRIBUTES = " ".join(f'a{number}=""' for number in range(190_000)).encode()
TOO_MUCH = {
    "attributes": (BEGIN + b"<x " + ATTRIBUTES + b"/></item></channel></rss>", "more than 200 attributes"),
    "attributes in tag soup": (
        BROKEN + b"<x " + ATTRIBUTES + b"/></item></channel></rss>",
        "more than 200 attributes",
    ),
    "namespaces of one element": (
        BEGIN + b"<x " + b" ".join(b'xmlns:a%d="u%d"' % (n, n) for n in range(80_000)) + b"/>",
        "more than 200 attributes",
    ),
    "namespaces": (
        BEGIN + b"".join(b'<x xmlns:a%d="u%d"/>' % (n, n) for n in range(70_000)),
        "more than 200 namespaces",
    ),
    "nested elements": (BEGIN + b"<x>" * 620_000, "nested more than 200 deep"),
    "nested elements in tag soup": (BROKEN + b"<x>" * 620_000, "more than 100000 elements"),
    "elements": (BEGIN + b"<x/>" * 400_000, "more than 100000 elements"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_document_that_would_take_minutes_is_refused_in_advance(name: str) -> None:
    document, reason = TOO_MUCH[name]
    with pytest.raises(DataError, match=reason):
        parse_feed(document)


def test_tag_soup_with_many_unclosed_tags_is_parsed() -> None:
    soup = b"".join(b"<item><title>line<br>break %d</title></item>" % number for number in range(500))
    document = parse_feed(b'<rss version="2.0"><channel>&undefined;' + soup + b"</channel></rss>")
    assert len(document.entries) == 500


def test_the_error_contains_nothing_of_the_page() -> None:
    with pytest.raises(DataError) as refused:
        parse_feed(b"<html><body>admin password hunter2</body></html>")
    assert "admin" not in str(refused.value)
    assert "hunter2" not in str(refused.value)


def assert_harmless(document: FeedDocument) -> None:
    for entry in document.entries:
        assert 0 < len(entry.title) <= MAX_TITLE
        assert len(entry.summary) <= MAX_SUMMARY
        assert not any(character < " " for character in entry.title + entry.summary)
        assert entry.url == "" or entry.url.startswith(("http://", "https://"))
        assert len(entry.key) == 32
        (entry.title + entry.summary + entry.url + entry.published_raw + entry.publisher).encode()


@pytest.mark.slow
def test_every_collected_odd_feed_is_parsed_or_refused(shared_data: Path) -> None:
    files = [
        path for path in (shared_data / "data/rss").rglob("*") if path.suffix in (".xml", ".rss", ".atom")
    ]
    assert len(files) >= 50
    read = 0
    for path in files:
        try:
            document = parse_feed(path.read_bytes(), url="https://news.test/feed")
        except DataError:
            continue
        read += 1
        assert_harmless(document)
    assert read >= len(files) - 3


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([ATOM, RDF, rss(item(1, published=NOON, description="a <b>b</b> &amp; c"), item(2))]),
    st.randoms(),
)
def test_damaged_documents_are_parsed_or_refused(body: bytes, rng: random.Random) -> None:
    damaged = bytearray(body)
    for _ in range(rng.randint(1, 12)):
        place = rng.randrange(len(damaged))
        match rng.randint(0, 2):
            case 0:
                damaged[place] = rng.randrange(256)
            case 1:
                del damaged[place : place + rng.randint(1, 40)]
            case _:
                damaged[place:place] = rng.choice(
                    [b"<", b">", b"&", b"]]>", b"<!--", b"\0", b"<![CDATA[", b"\xff\xfe", b'"']
                )
        if not damaged:
            break
    with suppress(DataError):
        assert_harmless(parse_feed(bytes(damaged)))
