"""JSON Feed 1.0 and 1.1 (jsonfeed.org), by the fields of the specification."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import DataError
from agent.live.news.feed_parser import MAX_SUMMARY, MAX_TITLE, FeedDocument, parse_feed
from agent.live.news.parser_pool import ParserPool

NOON = 1_790_424_000_000  # 2026-09-26T12:00:00Z
VERSION = "https://jsonfeed.org/version/1.1"


def feed(*items: Any, version: Any = VERSION, title: Any = "The Wire") -> bytes:
    return json.dumps({"version": version, "title": title, "items": items}).encode()


ITEM = {
    "id": "1",
    "url": "https://news.test/1",
    "title": "Bitcoin <b>up</b>",
    "content_html": "<p>By S&amp;P</p>",
    "date_published": "2026-09-26T14:00:00+02:00",
    "date_modified": "2026-09-26T15:00:00+02:00",
    "authors": [{"name": "A. Writer"}],
}


@pytest.mark.parametrize("version", [VERSION, "https://jsonfeed.org/version/1"])
@pytest.mark.parametrize(
    "content_type", ["application/feed+json", "application/json; charset=utf-8", "text/html", ""]
)
def test_an_item_becomes_an_entry(version: str, content_type: str) -> None:
    document = parse_feed(feed(ITEM, version=version), content_type=content_type)
    (entry,) = document.entries
    assert (document.title, document.empty, document.cut_off) == ("The Wire", 0, False)
    assert entry[1:7] == (
        "Bitcoin up",
        "By S&P",
        "https://news.test/1",
        "2026-09-26T14:00:00+02:00",
        NOON,
        "",
    )


@pytest.mark.parametrize(
    ("changed", "field", "value"),
    [
        ({"summary": "Short"}, "summary", "Short"),
        ({"content_text": "Plain", "content_html": "<p>Rich</p>"}, "summary", "Plain"),
        ({"title": ""}, "title", "By S&P"),
        ({"url": ""}, "url", ""),
        ({"url": "", "external_url": "https://other.test/2"}, "url", "https://other.test/2"),
        ({"url": "javascript:alert(1)"}, "url", ""),
        ({"date_published": ""}, "published", NOON + 3_600_000),
        ({"date_published": "2026-09-26T14:00:00"}, "published", NOON + 3_600_000),
        ({"date_published": 7, "date_modified": None}, "published", None),
        ({"title": "lone \ud800 half"}, "title", "lone half"),
    ],
)
def test_fields_follow_the_specification(changed: dict[str, Any], field: str, value: object) -> None:
    (entry,) = parse_feed(feed(ITEM | changed)).entries
    assert getattr(entry, field) == value


def test_ids_are_texts_or_numbers_and_distinguish_items() -> None:
    keys = [
        entry.key
        for entry in parse_feed(
            feed({"id": "1", "title": "A"}, {"id": 1, "title": "A"}, {"id": 2, "title": "A"})
        ).entries
    ]
    assert keys[0] == keys[1] != keys[2]


def test_items_without_text_are_counted_and_texts_are_truncated() -> None:
    document = parse_feed(
        feed({"id": "1"}, 7, {"id": "2", "title": "x" * 10_000, "content_text": "y" * 10_000})
    )
    assert document.empty == 1
    (entry,) = document.entries
    assert (len(entry.title), len(entry.summary)) == (MAX_TITLE, MAX_SUMMARY)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{}", "nor JSON Feed"),
        (b'{"version": "https://jsonfeed.org/version/1.1"}', "nor JSON Feed"),
        (b'{"version": 1, "items": []}', "nor JSON Feed"),
        (feed(ITEM)[:-10], "valid JSON"),
        (b'{"a":' * 1_000_000, "valid JSON"),
        (b'{"version": ' + b"9" * 100_000 + b"}", "valid JSON"),
        (b"{\xff}", "valid JSON"),
        (feed(*[0] * 100_001), "more than 100000 elements"),
    ],
)
def test_invalid_documents_are_refused(body: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        parse_feed(body)


def test_a_byte_order_mark_is_skipped() -> None:
    assert len(parse_feed(b"\xef\xbb\xbf \n" + feed(ITEM)).entries) == 1


async def test_a_json_feed_is_parsed_by_a_worker_process() -> None:
    async with ParserPool(600_000, 256_000_000) as pool:
        assert await pool.parse(feed(ITEM)) == parse_feed(feed(ITEM))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*ITEM, "x"]), inner, max_size=5)
    ),
    max_leaves=9,
)


@given(
    st.lists(st.dictionaries(st.sampled_from([*ITEM, "summary", "external_url"]), VALUES), max_size=4), VALUES
)
def test_any_values_are_parsed_or_refused(items: list[dict[str, Any]], title: Any) -> None:
    with suppress(DataError):
        assert isinstance(parse_feed(feed(*items, title=title)), FeedDocument)
