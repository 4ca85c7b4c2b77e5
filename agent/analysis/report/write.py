"""The report on disk: the page, and the JSON beside it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from agent.analysis.report.data import ReportData
from agent.analysis.report.html import render
from agent.core.errors import StoreError, TapewireError
from agent.system.atomic import write_bytes


def write_report(data: ReportData, page: Path) -> tuple[Path, Path]:
    """Write `page` and its twin ending in .json; returns both. Raises TapewireError where they can't be written."""
    twin = page.with_suffix(".json")
    json = msgspec.json.format(msgspec.json.Encoder(decimal_format="number").encode(data), indent=1)
    for path, content in ((page, render(data).encode()), (twin, json)):
        try:
            write_bytes(path, content)
        except StoreError as error:
            raise TapewireError(error.message, hint="name another place with --output") from None
    return page, twin
