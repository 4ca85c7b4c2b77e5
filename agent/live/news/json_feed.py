"""JSON Feed 1.0 and 1.1 (jsonfeed.org), read into the fields that feedparser has for RSS and Atom."""

from __future__ import annotations

import json
from typing import Any, Final

from agent.core.errors import DataError

MAX_ITEMS: Final = 100_000
_BOM: Final = b"\xef\xbb\xbf"
_VERSION: Final = "jsonfeed.org/version/"
_FIELDS: Final = {
    "id": "id",
    "title": "title",
    "link": "url",
    "published": "date_published",
    "updated": "date_modified",
}
_TEXTS: Final = ("summary", "content_text", "content_html")


def is_json(body: bytes) -> bool:
    """Return whether a document is a JSON object, by its first character; JSON feeds are UTF-8."""
    return body.removeprefix(_BOM).lstrip(b" \t\r\n").startswith(b"{")


def read_json_feed(body: bytes) -> tuple[str, list[dict[str, str]]]:
    """Return the title and the items, with feedparser's names of the fields.

    Raises DataError if the document isn't a JSON Feed or is cut off.
    """
    try:
        feed = json.loads(body.removeprefix(_BOM))
    except (RecursionError, ValueError):
        raise DataError("neither RSS nor Atom nor valid JSON", hint=f"{len(body)} bytes") from None
    version, items = feed.get("version"), feed.get("items")
    if not isinstance(version, str) or _VERSION not in version or not isinstance(items, list):
        raise DataError("neither RSS nor Atom nor JSON Feed", hint="a JSON Feed has version and items")
    if len(items) > MAX_ITEMS:
        raise DataError(f"the feed exceeds a limit: more than {MAX_ITEMS} elements")
    title = feed.get("title")
    return title if isinstance(title, str) else "", [_item(item) for item in items if isinstance(item, dict)]


def _item(item: dict[str, Any]) -> dict[str, str]:
    fields = {name: _text(item.get(key)) for name, key in _FIELDS.items()}
    fields["link"] = fields["link"] or _text(item.get("external_url"))
    fields["summary"] = next((text for name in _TEXTS if (text := _text(item.get(name)))), "")
    return {name: text for name, text in fields.items() if text}


def _text(value: object) -> str:
    """Return a string as it is, and an integer, which some feeds use as id, as text."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""
