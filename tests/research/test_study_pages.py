"""Pages of research: the same figures as --json, one file that loads nothing, texts that stay texts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from agent.analysis.report import formats
from agent.core.events import DAY_MS
from agent.research.check_summary import render_check, summarise
from agent.research.parameter_charts import Tried, parameter_charts
from agent.research.startup import StartupCheck, StartupTrial
from agent.research.study_comparison import find_study
from agent.research.study_page import render_tuning, render_walk_forward
from agent.research.tuning_results import find_result
from tests.analysis.stored import HOSTILE
from tests.analysis.test_report_browser import INK, TOO_WIDE
from tests.analysis.unpacking import read_points
from tests.cli.conftest import Outcome
from tests.research.market_files import START, write_klines
from tests.support.browser import chromium

Tapewire = Callable[..., Outcome]
SMA = ("--strategy", "sma_cross")
RANGES = ("--range", "fast=3:9:3", "--range", "slow=12:36:12")


class Page(HTMLParser):
    """Tables as rows of texts, SVG titles, and the data of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.tables: list[list[list[str]]] = []
        self.titles: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(self.html)
        found = re.search(r'id="figures-data">(.*?)</script>', self.html)
        self.figures: dict[str, Any] = json.loads(found[1]) if found else {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        assert not {"src", "srcset", "action", "onerror"} & named.keys()
        assert tag not in ("link", "iframe", "base", "form", "object", "img")
        self._inside = tag
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "title":
            self.titles.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("td", "th"):
            self.tables[-1][-1][-1] += data
        elif self._inside == "title":
            self.titles[-1] += data
        if self._inside not in ("script", "style"):
            self.text += data

    def table(self, first: str) -> list[dict[str, str]]:
        """Return the rows of the table whose first heading is `first`."""
        head, *rows = next(table for table in self.tables if table[0][0] == first)
        return [dict(zip(head, row, strict=True)) for row in rows]


@pytest.fixture
def klines(tmp_path: Path) -> Path:
    return write_klines(tmp_path / "BTCUSDT-1h.csv", days=60)


@pytest.mark.slow
def test_the_page_of_a_walk_forward_has_the_figures_of_its_json(tapewire: Tapewire, klines: Path) -> None:
    done = tapewire(
        "walkforward",
        "--json",
        "--klines",
        klines,
        *SMA,
        *RANGES,
        "--fit",
        "refit",
        "--train",
        "15d",
        "--test",
        "15d",
        "-j",
        1,
        "--placebo",
        0,
        "--report",
        "pages/wf.html",
    )
    assert done.code == 0, done.err
    result = json.loads(done.out)
    page = Page(Path("pages/wf.html"))
    assert result["verdict"]["headline"] in page.text
    folds = page.table("Fold")
    assert len(folds) == len(result["folds"]) >= 2
    for shown, fold in zip(folds, result["folds"], strict=True):
        assert shown["Run"] == fold["run"]
        assert shown["Return"] == formats.percent(fold["total_return"], 2, signed=True)
        assert shown["Judged from (UTC)"] == formats.date(fold["test"][0])
        params = fold["overrides"]["strategy"]["params"]
        assert shown["Fitted"] == ", ".join(f"{name} = {value}" for name, value in params.items())
    worth = 1.0
    for value in result["returns"]:
        worth *= 1 + value
    returns, falls = (pane["lines"][0]["points"] for pane in page.figures["equity"]["panes"])
    days, grown = read_points(returns)
    first = result["days"][0] - DAY_MS
    assert days == [day // 1_000 for day in (first, *result["days"])]
    assert grown[0] == 0
    assert grown[-1] == pytest.approx(worth - 1, abs=1e-5)
    drawdown = result["evidence"]["max_drawdown"]
    assert drawdown < 0
    assert min(read_points(falls)[1]) == pytest.approx(drawdown, abs=1e-6), "also of a loss on the first day"
    assert {row["Parameter"] for row in page.table("Parameter")} == {"fast", "slow"}
    assert {"Return of each fold", "fast by fold"} <= set(page.titles)

    refused = tapewire("report", result["id"], "--stories")
    assert "is a study, whose page takes no --stories" in refused.err
    again = tapewire("report", result["id"], "--json", "-o", "again.html")
    assert json.loads(again.out)["verdict"] == result["verdict"]
    assert Path("again.html").read_text() == page.html


@pytest.mark.slow
def test_the_page_of_a_search_lists_all_trials(tapewire: Tapewire, klines: Path) -> None:
    done = tapewire(
        "tune",
        "--json",
        "--klines",
        klines,
        *SMA,
        "--range",
        "fast=3:20",
        "--range",
        "slow=12:48",
        "--holdout",
        "15d",
        "--trials",
        6,
        "--placebo",
        0,
        "--no-prune",
        "--report",
        "tune.html",
    )
    assert done.code == 0, done.err
    result = json.loads(done.out)
    page = Page(Path("tune.html"))
    trials = page.table("fast")
    assert len(trials) == len(result["tried"]) == 6
    complete = [one for one in result["tried"] if one["state"] == "complete"]
    assert max(one["sharpe"] for one in complete) == pytest.approx(result["value"])
    assert trials[0]["Sharpe ratio in sample"] == formats.number(result["value"])
    assert {row["Parameter"]: row["Value"] for row in page.table("Parameter")} == {
        name: str(value) for name, value in result["params"].items()
    }
    assert "Sharpe ratio in sample by fast and slow" in page.titles
    assert result["held_out"]["verdict"]["headline"] in page.text
    assert tapewire("report", result["study"][:12], "-o", "again.html").code == 0
    assert Path("again.html").read_text() == page.html


def test_the_page_of_a_sweep_maps_its_variants(tapewire: Tapewire, klines: Path) -> None:
    done = tapewire("sweep", "--json", "--klines", klines, *SMA, *RANGES, "--report", "sweep.html")
    assert done.code == 0, done.err
    results = json.loads(done.out)
    page = Page(Path("sweep.html"))
    rows = {(row["fast"], row["slow"]): row for row in page.table("fast")}
    assert len(rows) == len(results) == 9
    for one in results:
        row = rows[str(one["params"]["fast"]), str(one["params"]["slow"])]
        shown = formats.percent(one["metrics"]["performance"]["total_return"], signed=True)
        assert row["Total return"] == shown
        assert f"fast {one['params']['fast']}, slow {one['params']['slow']}: {shown}" in page.titles
        assert row["Round trips"] == f"{one['trades']:,}"
    assert "The best of many is mostly luck" in page.text


QUITTER = """
from agent.core.strategy import Strategy, StrategyParams


class QuitterParams(StrategyParams):
    last: int = 0


class Quitter(Strategy[QuitterParams]):
    def __init__(self, params=None):
        super().__init__(params)
        self.bars = 0

    def on_kline(self, kline, market):
        self.bars += 1
        if self.bars == self.params.last:
            raise ValueError("no more")
        self.target(kline.symbol, weight=1.0)
"""


def test_a_variant_that_ended_early_is_never_the_best_of_a_sweep(tapewire: Tapewire, tmp_path: Path) -> None:
    falling = write_klines(tmp_path / "BTCUSDT-1h.csv", days=20, drift=-0.002, volatility=0.0005)
    Path("quitter.py").write_text(QUITTER)
    options = ("--klines", falling, "--strategy", "quitter.py", "--range", "last=30:1030:1000")
    done = tapewire("sweep", "--json", *options, "--report", "sweep.html")
    assert done.code == 0, done.err
    early, whole = json.loads(done.out)
    assert "no more" in early["error"]
    assert early["final_equity"] > whole["final_equity"], "it stopped before the losses"
    page = Page(Path("sweep.html"))
    gain = formats.percent(whole["metrics"]["performance"]["total_return"], signed=True)
    assert f"The best of 1 variants: {gain}; none made a profit." in page.text
    assert "Its parameters: last 1030." in page.text
    assert "1 of 2 variants ended early; the first: " in page.text
    worth = whole["study"]["deflated_sharpe"]
    assert f"Its deflated Sharpe ratio: {worth:.1%} probability" in page.text
    assert {row["last"]: row["State"] for row in page.table("last")} == {"30": "failed", "1030": "complete"}


def test_bins_of_a_parameter_have_different_labels() -> None:
    for low, step in ((1_000, 1.0), (0.5, 1e-5), (50_000, 1_250)):
        tried = [Tried({"length": low + step * at, "width": at % 2}, float(at)) for at in range(40)]
        chart = parameter_charts(tried, "Return", str)[0]
        rows = set(re.findall(r"<title>length (\S+), width", chart))
        assert len(rows) == 8


@pytest.mark.slow
def test_the_page_of_a_check_has_its_findings_and_verdict(tapewire: Tapewire, klines: Path) -> None:
    args = ("--klines", klines, *SMA, "-j", 1, "--report", "check.html")
    done = tapewire("check", "lookahead", "--cuts", 2, *args)
    page = Page(Path("check.html"))
    told = [line[2:] for line in done.out.splitlines() if line[:2] in ("✓ ", "✗ ", "– ")]
    assert len(told) == 3
    assert all(line in page.text for line in told)
    assert done.out.strip().splitlines()[-2:][0] in page.text
    costly = tapewire("check", "costs", *args, "--fees", 1, "--fees", 50, "--slippage", 1, "--latency", "0s")
    assert costly.code == 1, "a failed check has a page, too"
    page = Page(Path("check.html"))
    rows = page.table("latency")
    assert [row["fees"] for row in rows] == ["× 1", "× 50"]
    assert all(row["× 1"] in costly.out for row in rows)


@pytest.mark.slow
def test_untrusted_text_never_becomes_markup_in_pages_of_research(
    tapewire: Tapewire, klines: Path, tmp_path: Path
) -> None:
    search = ("--range", "fast=3:9", "--holdout", "15d", "--trials", 3, "--placebo", 0, "--study", "mine")
    assert tapewire("tune", "--klines", klines, *SMA, *search).code == 0
    tuned = find_result("mine")
    assert tuned is not None
    study = find_study(tuned.held_out.id)
    fold = study.folds[0]
    hostile = structs.replace(
        study,
        strategy=HOSTILE,
        symbols=(HOSTILE,),
        folds=[structs.replace(fold, overrides={"strategy": {"params": {HOSTILE: HOSTILE}}}), fold],
    )
    trial = structs.replace(tuned.tried[0], params={HOSTILE: HOSTILE})
    trials = [structs.replace(one, params={HOSTILE: number}) for number, one in enumerate(tuned.tried)]
    startup = StartupCheck(False, HOSTILE, START, START, [StartupTrial({HOSTILE: 1}, 0, 1, at=START)] * 2)
    pages = {
        "walk-forward": render_walk_forward(hostile),
        "search": render_tuning(structs.replace(tuned, held_out=hostile, tried=[trial, *trials])),
        "check": render_check(startup),
    }
    for name, html in pages.items():
        path = tmp_path / f"{name}.html"
        path.write_text(html)
        assert HOSTILE in Page(path).text, name
        assert html.count("<script>alert") == 0


def test_a_test_that_was_not_made_is_no_finding() -> None:
    trials = [StartupTrial({"1m": 1}, 0, 1), StartupTrial({"1m": 9}, 0, 1)]
    summary = summarise(StartupCheck(True, "mine", START, START, trials))
    assert [finding.fine for finding in summary.findings] == [True, None]


@pytest.mark.slow
@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
def test_a_page_of_research_draws_sorts_and_fits(tapewire: Tapewire, klines: Path, phone: bool) -> None:
    done = tapewire(
        "walkforward",
        "--klines",
        klines,
        *SMA,
        *RANGES,
        "--fit",
        "refit",
        "--train",
        "15d",
        "--test",
        "15d",
        "-j",
        1,
        "--placebo",
        0,
        "--report",
        "wf.html",
    )
    assert done.code == 0, done.err
    with chromium(390 if phone else 1280, 844, phone=phone) as browser:
        browser.open(Path("wf.html"))
        assert browser.console_messages() == []
        requests = [url for url in browser.requests() if not url.startswith(("data:", "blob:"))]
        assert requests == [Path("wf.html").resolve().as_uri()]
        assert browser.run(TOO_WIDE) == []
        assert dict(browser.run(INK))["equity"] > 300
        order = browser.run("""
            const table = document.querySelector('table.sortable');
            const head = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent === 'Return');
            table.tHead.rows[0].cells[head].querySelector('button').click();
            return [...table.tBodies[0].rows].map(row => Number(row.cells[head].dataset.value))
        """)
        assert order == sorted(order, reverse=True)
        assert len(order) > 1
