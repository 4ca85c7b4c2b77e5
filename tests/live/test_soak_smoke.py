"""A short run of the soak test (bench/soak.py), and tests of its audit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import asdict, replace

from agent.core.events import MINUTE_MS, Event, Gap, Kline, News, Sentiment
from bench.audit import audit_bars, audit_headlines
from tests.conftest import ROOT

SAMPLES = ROOT / "tests" / "sample_data"


@pytest.mark.slow
def test_under_faults_each_bar_and_headline_is_recorded_once_and_the_run_verifies(tmp_path: Path) -> None:
    arguments = ["--hours", "0.67", "--speed", "600", "--faults", "3", "--seed", "7", "--klines"]
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "bench/soak.py",
            *arguments,
            SAMPLES / "BTCUSDT-1m.csv",
            SAMPLES / "ETHUSDT-1m.csv",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    line = json.loads(done.stdout)
    assert line["passed"]
    assert line["verify"] == "identical"
    assert line["bars"]["expected"] >= 2 * (200 + 40)
    assert [line["bars"][flaw] for flaw in ("missing", "doubled", "wrong", "disordered")] == [0, 0, 0, 0]
    assert line["headlines"]["served"] >= 35
    assert sum(line["faults"].values()) >= 20
    assert line["failures"] == {"bybit": 0, "rss": 0, "sentiment": 0}


def bar(number: int, close: float = 2.0) -> Kline:
    start = number * MINUTE_MS
    return Kline("BTCUSDT", MINUTE_MS, start, start + MINUTE_MS, start + MINUTE_MS, 2.0, 3.0, 1.0, close, 5.0)


BARS = [bar(number) for number in range(6)]
WITHHELD = {"BTCUSDT": {2 * MINUTE_MS}}
GAP = Gap("BTCUSDT", MINUTE_MS, 2 * MINUTE_MS, 3 * MINUTE_MS, 0)
JOURNAL: list[Event] = [*BARS[:2], GAP, *BARS[3:]]


@pytest.mark.parametrize(
    ("journal", "flaws"),
    [
        (JOURNAL, {}),
        ([*JOURNAL, bar(7)], {}),  # after the end
        (JOURNAL[1:], {}),  # the journal begins later
        ([*BARS[:2], *BARS[3:]], {"missing": 1}),  # withheld, but the journal has no record of it
        ([*JOURNAL[:4], *JOURNAL[5:]], {"missing": 1}),
        ([*BARS[:2], replace(GAP, end=4 * MINUTE_MS), *BARS[4:]], {"missing": 1, "given_up": 1}),
        (JOURNAL[:-1], {"missing": 1}),
        ([*JOURNAL[:2], BARS[1], *JOURNAL[2:]], {"doubled": 1}),
        ([*JOURNAL[:-1], bar(5, close=2.5)], {"wrong": 1}),
        ([*JOURNAL[:3], BARS[4], BARS[3], BARS[5]], {"disordered": 1}),
    ],
)
def test_the_audit_of_bars_reports_each_flaw(journal: list[Event], flaws: dict[str, int]) -> None:
    audit = audit_bars(journal, {"BTCUSDT": BARS}, WITHHELD, 5 * MINUTE_MS)
    counted = asdict(audit)
    assert audit.flawless == (not flaws)
    assert {
        name: counted[name]
        for name in ("missing", "given_up", "doubled", "wrong", "disordered")
        if counted[name]
    } == flaws


TITLES = {"early": 5, "first": 10, "second": 20, "late": 90}
TOLD: list[Event] = [
    event
    for title in ("first", "second")
    for event in (News(title, 0, 0, title), Sentiment(title, 0, 0, 0, 1, 0))
]


@pytest.mark.parametrize(
    ("change", "reasons", "flaws"),
    [
        (lambda told: told, 0, {}),
        (lambda told: told[:-1], 1, {}),  # not scored, and the reason is known
        (lambda told: told[:-1], 0, {"unaccounted": 1}),
        (lambda told: told[:2], 0, {"missing": 1}),
        (
            lambda told: [*told, replace(told[0], id="again"), replace(told[1], news_id="again")],
            0,
            {"doubled": 1},
        ),
        (lambda told: [*told, News("x", 0, 0, "sec"), replace(told[1], news_id="x")], 0, {"never_served": 1}),
    ],
)
def test_the_audit_of_headlines_reports_each_flaw(
    change: Callable[[list[Event]], list[Event]], reasons: int, flaws: dict[str, int]
) -> None:
    audit = audit_headlines(change(TOLD), TITLES, 10, 50, reasons)
    counted = asdict(audit)
    assert audit.served == 2
    assert audit.flawless == (not flaws)
    assert {
        name: counted[name] for name in ("missing", "doubled", "never_served", "unaccounted") if counted[name]
    } == flaws
