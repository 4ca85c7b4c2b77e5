"""Measure the report's page of a recorded run, and print one line of JSON.

    python -m bench.report [RUN] [--store URL] [--former FILE]

`bytes` is the size of the page, `render_ms` the time to make it from loaded data, and `paint_ms` and
`drawn_ms` the times from the start of loading in headless Chromium to the first paint and until all charts
are drawn, as medians. `--former` is a page of the same run by an earlier version, to compare with:
`ratio_bytes` and `ratio_drawn` are this page's figures over that page's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from agent.analysis.report.html import render
from agent.analysis.report.report_loader import load_report_data
from agent.store.database import open_database
from tests.support.browser import chromium

TIMES = """
    await new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve)));
    const now = performance.now();
    const paint = performance.getEntriesByType('paint').find(one => one.name === 'first-contentful-paint');
    return [paint ? paint.startTime : now, now]
"""


def load_times(page: Path, rounds: int) -> dict[str, float]:
    """Return the size (bytes) and the median times (ms) of loading a page."""
    times = []
    with chromium(1280, 900) as browser:
        for _ in range(rounds):
            browser.open(page)
            times.append(browser.run(TIMES))
    paint, drawn = (round(statistics.median(column)) for column in zip(*times, strict=True))
    return {"bytes": page.stat().st_size, "paint_ms": paint, "drawn_ms": drawn}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", nargs="?", default="latest")
    parser.add_argument("--store", default="sqlite:///var/tapewire.db")
    parser.add_argument("--former", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with closing(open_database(options.store, create=False)) as database:
        data = load_report_data(database, options.run)
    began = time.perf_counter()
    html = render(data)
    found: dict[str, Any] = {"run": data.run.id, "round_trips": len(data.trades)}
    found["render_ms"] = round((time.perf_counter() - began) * 1_000)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        page.write_text(html, encoding="utf-8")
        found |= load_times(page, options.rounds)
    if options.former is not None:
        former = load_times(options.former, options.rounds)
        found["former"] = former
        for name, key in (("ratio_bytes", "bytes"), ("ratio_drawn", "drawn_ms")):
            found[name] = round(found[key] / former[key], 3)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
