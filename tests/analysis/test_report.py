"""The report of a recorded run: its content, its escaping of untrusted text, and missing data."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from agent.analysis.report import formats
from agent.analysis.report.candles import BarColumns, candles_of
from agent.analysis.report.html import SHOWN_TRADES, render, write_report
from agent.analysis.report.report_data import ReportData
from agent.analysis.report.report_loader import load_report_data
from agent.analysis.report.trade_list import list_trades
from agent.analysis.trade_groups import analyse_trades
from agent.core.errors import DataError, TapewireError, UsageError
from agent.core.events import HOUR_MS, MINUTE_MS
from tests.analysis.stored import HOSTILE, START, record_run
from tests.analysis.unpacking import read_candles, read_points
from tests.support.command_line import run_command


class Page(HTMLParser):
    """The elements, scripts and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.data: dict[str, Any] = {}  # by id of its element, without "-data"
        self.text = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")
            self._island = (dict(attrs).get("id") or "").removesuffix("-data")

    def handle_endtag(self, tag: str) -> None:
        if tag == "script" and self._island:
            self.data[self._island] = json.loads(self.scripts.pop())
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data


@pytest.fixture
def data(tmp_path: Path) -> ReportData:
    return load_report_data(record_run(tmp_path), "latest")


def test_a_recorded_run_is_loaded_completely(data: ReportData) -> None:
    (trade,) = data.trades
    assert (trade.entry_ts, trade.exit_ts) == (START + 10 * HOUR_MS, START + 20 * HOUR_MS)
    assert float(trade.pnl) == 10 - 2 - 0.25
    assert data.metrics.final_equity == 10_000 + 7.75
    assert data.equity.values[-1] == 10_000 + 7.75
    assert (data.equity.ts[0], data.equity.ts[-1]) == (START, START + 48 * HOUR_MS)
    assert [headline.title for headline in data.headlines["o10"]] == [HOSTILE]
    assert data.headlines.get("o20", []) == []  # its event brought no signal
    # The window of the run, not of the file
    assert data.prices["ETHUSDT"].values == [101.0 + hour for hour in range(48)]
    assert data.benchmark.values[-1] == pytest.approx(10_000 * 148 / 101)
    assert data.notes == []


def test_the_metrics_of_an_unfinished_run_are_computed_from_its_samples(
    tmp_path: Path, data: ReportData
) -> None:
    (tmp_path / "other").mkdir()
    unfinished = load_report_data(record_run(tmp_path / "other", finish=False), "run-1")
    assert unfinished.metrics == data.metrics
    assert "The run is interrupted" in unfinished.notes[0]


@pytest.mark.parametrize(
    ("harm", "note"),
    [
        (Path.unlink, "is missing"),
        (lambda path: path.write_text(path.read_text() + "\n"), "has changed since the run"),
    ],
)
def test_without_the_original_kline_file_only_its_chart_is_missing(
    tmp_path: Path, harm: Any, note: str
) -> None:
    database = record_run(tmp_path)
    harm(tmp_path / "ETHUSDT-1h.csv")
    data = load_report_data(database)
    assert list(data.prices) == ["BTCUSDT"]
    assert note in data.notes[0]
    assert note in Page(render(data)).text


def test_a_run_without_equity_or_an_unknown_run_is_a_clear_error(tmp_path: Path) -> None:
    database = record_run(tmp_path, hours=0, finish=False)
    with pytest.raises(DataError, match="has recorded no equity yet"):
        load_report_data(database)
    with pytest.raises(UsageError, match="no run 'nope'"):
        load_report_data(database, "nope")


def test_untrusted_text_never_becomes_markup(data: ReportData) -> None:
    html = render(data)
    page = Page(html)
    assert HOSTILE in page.text  # as text, unchanged
    assert "<b>Wire</b>" in page.text
    assert "why <i>not</i>" in page.text
    assert not [tag for tag, _ in page.elements if tag in ("img", "i") and "style" not in _]
    assert "<" not in re.findall(r'type="application/json"[^>]*>(.*?)</script>', html, re.S)[0]
    assert HOSTILE in page.data["trades"]["texts"]  # which the page shows as text


def test_the_page_loads_nothing_and_runs_only_its_own_scripts(data: ReportData) -> None:
    html = render(data)
    page = Page(html)
    for tag, attributes in page.elements:
        assert not {"src", "srcset", "action"} & attributes.keys()
        assert tag not in ("link", "iframe", "base", "form", "object")
    policy = next(
        a["content"] or "" for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    allowed = {f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in page.scripts}
    assert set(policy.split("script-src ")[1].split()) == allowed
    assert "TradingView Lightweight Charts™" in page.scripts[0], "the notice of its licence"
    assert len(html.encode()) < 450_000


def test_the_page_describes_the_run(data: ReportData) -> None:
    text = " ".join(Page(render(data)).text.split())
    for words in (
        "Made 0.1 % after costs; buy-and-hold made 46.5 %.",
        "1 round trip is too few to tell skill from luck.",
        "A window of 2 d is too short to judge",
        "sentiment: weight = 0.1",
        data.run.chain_head,
        data.run.inputs[0].sha256,
        "Orders reach the exchange 250ms after the decision",
        "cagr (the window is shorter than 30 days, so it is not annualised)",
    ):
        assert words in text
    assert "LEAKED" not in text
    assert "optimistic" not in text


def test_a_halt_is_in_the_verdict_the_chart_and_the_risk_table(data: ReportData) -> None:
    page = Page(render(data))
    assert data.refusals == {"state HALTED": 18}
    assert "Risk halted trading on 2024-01-02 06:00 UTC, and it was not resumed: a <u>fall</u>." in page.text
    assert "Orders refused: 18 by state HALTED." in page.text
    assert page.data["figures"]["equity"]["marks"] == [{"ts": START + 30 * HOUR_MS, "text": "halted"}]


def test_stamps_and_optimistic_fills_are_prominent(tmp_path: Path) -> None:
    page = Page(render(load_report_data(record_run(tmp_path, stamps=("LEAKED",), paper={"fill": "close"}))))
    assert "stamp leaked" in [attributes.get("class") for _, attributes in page.elements]
    assert page.text.index("LEAKED") < page.text.index("Tapewire backtest")
    assert "Orders fill at the close of the signal bar. This is optimistic" in page.text


def test_costs_lead_from_the_gross_to_the_net_result(data: ReportData) -> None:
    text = Page(render(data)).text.replace("\u00a0", " ")
    for amount in ("+11.00 USDT", "−0.01 USDT", "−0.99 USDT", "−2.00 USDT", "−0.25 USDT", "+7.75 USDT"):
        assert amount in text


def test_drawdown_is_drawn_below_equity_on_the_same_axis(data: ReportData) -> None:
    above, below = Page(render(data)).data["figures"]["equity"]["panes"]
    assert {line["name"] for line in above["lines"]} == {"Strategy", "Buy and hold"}
    drawn = {line["name"]: read_points(line["points"])[1] for line in below["lines"]}
    assert drawn.keys() == {"Strategy: drawdown", "Buy and hold: drawdown"}
    assert min(drawn["Strategy: drawdown"]) == pytest.approx(data.metrics.performance.max_drawdown, rel=1e-5)


def test_candles_are_the_bars_of_the_run(data: ReportData) -> None:
    packed = Page(render(data)).data["candles"]["ETHUSDT"]
    assert (packed["count"], packed["interval"]) == (48, HOUR_MS)
    candles = read_candles(packed)
    assert candles[0] == [START / 1_000, 101, 101, 101, 101, 1]
    assert [candle[4] for candle in candles] == data.prices["ETHUSDT"].values


def with_many_trades(data: ReportData, count: int) -> ReportData:
    many = [
        msgspec.structs.replace(
            data.trades[0], entry_ts=START + n, pnl=data.trades[0].pnl * n, reason=f"trade {n}."
        )
        for n in range(count)
    ]
    return msgspec.structs.replace(data, trades=many, analysis=analyse_trades(many))


def test_all_round_trips_are_in_the_page_and_the_first_ones_without_scripts(data: ReportData) -> None:
    data = with_many_trades(data, 1_000)
    page = Page(render(data))
    text = " ".join(page.text.split())
    assert "1,000 round trips, in order of exit" in text
    assert (f"trade {SHOWN_TRADES - 1}." in text, f"trade {SHOWN_TRADES}." in text) == (True, False)
    listed = page.data["trades"]
    rows = [dict(zip(listed["columns"], row, strict=True)) for row in listed["rows"]]
    assert [listed["texts"][row["reason"]] for row in rows] == [trade.reason for trade in data.trades]
    assert [row["pnl"] for row in rows] == [float(trade.pnl) for trade in data.trades]
    assert sum(row["fees"] for row in rows) == float(sum(trade.fees for trade in data.trades))


def test_more_round_trips_than_fit_are_those_that_moved_most(data: ReportData) -> None:
    data = with_many_trades(data, 3_000)
    found = list_trades(data.trades, {}, budget=50_000)
    assert len(msgspec.json.encode(found)) <= 50_000
    assert found.count == 3_000
    pnl = found.columns.index("pnl")
    assert [row[pnl] for row in found.rows] == [float(t.pnl) for t in data.trades[-len(found.rows) :]]
    html = render(msgspec.structs.replace(data, trades=data.trades * 7))
    assert "round trips with the largest profit or loss, of 21,000" in html
    assert len(html.encode()) <= 1_500_000


@pytest.mark.slow
def test_a_year_of_minutes_of_two_symbols_fits_and_says_what_detail_it_has(data: ReportData) -> None:
    dice = np.random.default_rng(7)
    bars = {}
    for symbol, price in (("BTCUSDT", 60_000.0), ("ETHUSDT", 3_000.0)):
        close = np.round(price * np.exp(np.cumsum(dice.normal(0, 6e-4, 525_600))), 2)
        opened = np.concatenate(([price], close[:-1]))
        reach = np.round(close * np.abs(dice.normal(0, 4e-4, len(close))), 2)
        high, low = np.maximum(opened, close) + reach, np.minimum(opened, close) - reach
        start = START + np.arange(len(close)) * MINUTE_MS
        values = np.array([opened, high, low, close, dice.lognormal(3, 2, len(close))])
        bars[symbol] = BarColumns(start, start + MINUTE_MS, values)
    candles = {symbol: candles_of(own, MINUTE_MS, 40_000) for symbol, own in bars.items()}
    year = msgspec.structs.replace(with_many_trades(data, 2_000), candles=candles)
    html = render(year)
    assert len(html.encode()) <= 1_500_000
    page = Page(html)
    for symbol, own in bars.items():
        packed = page.data["candles"][symbol]
        length = packed["interval"]
        assert length <= 30 * MINUTE_MS
        candles_shown = read_candles(packed)
        per = length // MINUTE_MS
        assert len(candles_shown) == 525_600 // per
        assert f"Candles of {length // MINUTE_MS}m, the shortest that fit into this page" in page.text
        step = packed["step"]
        for at in (0, 500, len(candles_shown) - 1):
            part = own.values[:, at * per : (at + 1) * per]
            expected = [part[0, 0], part[1].max(), part[2].min(), part[3, -1]]
            assert candles_shown[at][0] == (START + at * length) / 1_000
            assert candles_shown[at][1:5] == pytest.approx(expected, abs=step / 2 + 1e-9)


def test_sections_without_data_are_left_out_with_the_reason(data: ReportData) -> None:
    bare = msgspec.structs.replace(
        data,
        marks={},
        model_drift=None,
        evidence=msgspec.structs.replace(
            data.evidence,
            outcomes=[],
            absent=data.evidence.absent | {"outcomes": "none", "event_study": "no headline", "decay": "none"},
        ),
    )
    text = Page(render(bare)).text
    headings = re.findall(r"<h2>(.*?)</h2>", render(bare))
    for title in ("Predictions and outcomes", "Price moves around headlines", "Rolling Sharpe ratio"):
        assert title not in headings
        assert f"{title} (" in text, "the end of the page says why"
    assert "Trade analysis" in headings


def test_trades_are_analysed_by_group_and_distribution(data: ReportData) -> None:
    page = Page(render(data))
    text = " ".join(page.text.split())
    assert "1 closed round trip, after fees" in text
    assert "entry reason why <i>not</i>" in text, "what all round trips share is one sentence"
    charts = [a for tag, a in page.elements if tag == "svg"]
    assert len(charts) == 3  # both distributions, and calibration
    assert all(attributes.get("role") == "img" for attributes in charts)
    assert "Round trips by return" in text
    assert data.analysis is not None
    assert sum(one.pnl for one in data.analysis.groups["symbol"]) == data.trades[0].pnl
    (fall,) = [one for one in data.drawdowns if one.depth == min(one.depth for one in data.drawdowns)]
    assert fall.depth == pytest.approx(data.metrics.performance.max_drawdown)


def test_a_run_without_trades_or_prices_has_a_page(tmp_path: Path) -> None:
    data = load_report_data(record_run(tmp_path, hours=5))
    bare = msgspec.structs.replace(
        data,
        prices={},
        candles={},
        benchmark=type(data.benchmark)(),
        metrics=msgspec.structs.replace(data.metrics, buy_and_hold=None, symbols={}, months={}),
    )
    assert "It never traded." in Page(render(bare)).text


def test_the_json_beside_the_page_decodes_to_the_same_data(data: ReportData, tmp_path: Path) -> None:
    page, twin = write_report(data, tmp_path / "deep" / "report.html")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert msgspec.json.decode(twin.read_bytes(), type=ReportData) == (
        msgspec.structs.replace(data, candles={})
    )


def test_a_page_that_cannot_be_written_is_a_clear_error(data: ReportData, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TapewireError, match="can't be written"):
        write_report(data, tmp_path / "file" / "report.html")


def test_the_command_writes_both_files_and_prints_one_object(tmp_path: Path) -> None:
    record_run(tmp_path).close()
    config = tmp_path / "config.toml"
    config.write_text(f'[store]\nurl = "sqlite:///{tmp_path / "store.db"}"\n')
    page = tmp_path / "out.html"
    result = run_command(["report", "run", "--config", str(config), "-o", str(page), "--json"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert (printed["run"], printed["html"]) == ("run-1", str(page))
    assert printed["metrics"]["trades"]["trades"] == 1
    shown = Page(page.read_text(encoding="utf-8"))
    assert printed["verdict"]["headline"] in shown.text
    performance, trades = printed["metrics"]["performance"], printed["metrics"]["trades"]
    for figure in (
        formats.percent(performance["total_return"], signed=True),
        formats.percent(performance["max_drawdown"]),
        formats.number(performance["sharpe"]),
        formats.percent(trades["win_rate"]),
        formats.money(printed["metrics"]["fees"]),
    ):
        assert figure in shown.text
    listed = [
        dict(zip(shown.data["trades"]["columns"], row, strict=True)) for row in shown.data["trades"]["rows"]
    ]
    assert [row["pnl"] for row in listed] == [trades["best"]]
    assert sum(row["fees"] for row in listed) == printed["metrics"]["fees"]
    assert sum(row["funding"] for row in listed) == printed["metrics"]["funding"]
    lines = shown.data["figures"]["equity"]["panes"][0]["lines"]
    equity = {line["name"]: read_points(line["points"])[1][-1] for line in lines}
    assert equity["Strategy"] == pytest.approx(printed["metrics"]["final_equity"], rel=1e-5)
    assert page.exists()
    assert Path(printed["data"]).exists()
    plain = run_command(["report", "--config", str(config), "-o", str(page)])
    assert plain.stdout.startswith("Made 0.1")


def test_the_command_rejects_other_file_types() -> None:
    result = run_command(["report", "-o", "report.pdf"])
    assert isinstance(result.exception, UsageError)
