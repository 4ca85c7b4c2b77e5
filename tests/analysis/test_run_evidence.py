"""The evidence of a report: each part on data with known results, and the reasons for missing parts."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.analysis.cost_breakdown import CostBreakdown
from agent.analysis.daily import Closes, daily_returns
from agent.analysis.event_study import headlines_of
from agent.analysis.outcomes import Forecasts
from agent.analysis.report.descriptions import descriptions_of
from agent.analysis.report.html import cost_waterfall, render
from agent.analysis.report.report_loader import horizon_of, load_report_data
from agent.analysis.report.run_evidence import RunRecord, evidence_of
from agent.analysis.report.scored_headlines import MARKED_HEADLINES
from agent.analysis.report.verdict import judge
from agent.analysis.significance import Difference, Interval, sharpe_interval
from agent.analysis.trades import TradeBook
from agent.config import Config
from agent.core.events import DAY_MS, HOUR_MS
from models.cards import Card, write_card
from tests.analysis.stored import START, record_run
from tests.analysis.test_report import Page
from tests.analysis.test_trades import fill
from tests.analysis.test_verdict import metrics_of

NOTHING = Forecasts(np.empty(0, np.int64), np.empty(0, np.str_), np.empty(0, np.int64), np.empty(0))


def run_record(days: int, *, past: int = 0, jump: float = 0.0, seed: int = 0) -> RunRecord:
    """Return a run of `days` that holds one symbol on hourly bars, with `past` days of closes before it.

    There is a headline at noon every day, bullish and bearish by turns; in the hour after it the price moves
    by `jump` in the predicted direction.
    """
    rng = np.random.default_rng(seed)
    hours = (past + days) * 24
    ts = START + (np.arange(hours) + 1 - past * 24) * HOUR_MS
    steps = rng.normal(0.0, 0.002, hours)
    noon = np.arange(12, hours, 24)
    sides = np.where(np.arange(len(noon)) % 2, -1, 1)
    steps[noon] += jump * sides
    closes = Closes(ts, 100 * np.exp(np.cumsum(steps)))
    seen = closes.since(START)
    headlines = [
        (int(ts[n - 1]), "BTCUSDT", 0.8 * side, 1 + side)
        for n, side in zip(noon.tolist(), sides.tolist(), strict=True)
        if ts[n - 1] > START
    ]
    equity = 10_000 * seen.price / seen.price[0]
    return RunRecord(
        config=Config.model_validate({"market": {"interval": "1h", "symbols": ["BTCUSDT"]}}),
        start=START,
        initial=10_000.0,
        net=float(equity[-1] - 10_000),
        ts=seen.ts,
        equity=equity,
        closes={"BTCUSDT": closes},
        moves={},
        trades=[],
        forecasts={"signals": NOTHING, "predictions": NOTHING},
        headlines=headlines_of(headlines),
    )


def test_missing_parts_have_a_reason() -> None:
    evidence = evidence_of(run_record(5)._replace(headlines=headlines_of([])))
    assert evidence.absent == {
        "significance": "the run has fewer than 20 days",
        "rolling": "the run has fewer than 45 days",
        "regimes": "the rule needs 31 days of closes before a period, and no period has them",
        "outcomes": "the run has no signal or prediction with a known outcome",
        "event_study": "the run scored no headline about its symbols",
        "decay": "the run scored no headline about its symbols",
    }
    assert "significance" not in descriptions_of(evidence)


def test_a_headline_at_the_end_is_left_out_of_the_event_study() -> None:
    given = run_record(60)
    last = headlines_of([(int(given.ts[-1]), "BTCUSDT", 0.8, 2)])
    evidence = evidence_of(given._replace(headlines=last))
    assert evidence.event_study is evidence.decay is None
    assert evidence.absent["event_study"] == "no headline has 6 bars before it and 24 after it"
    assert evidence.absent["decay"] == "fewer than 30 headlines on 10 days have 24 bars after them"


def test_closes_from_before_the_run_give_its_first_day_a_regime() -> None:
    without, with_past = (evidence_of(run_record(60, past=past)).regimes[""] for past in (0, 40))
    assert without["unknown"].periods == 31
    assert "unknown" not in with_past
    assert sum(group.periods for group in with_past.values()) == 60


def test_regimes_years_and_symbols_share_the_same_days() -> None:
    evidence = evidence_of(run_record(400, past=40))
    whole = 1.0
    for groups in (evidence.years, evidence.regimes[""]):
        assert sum(group.periods for group in groups.values()) == 400
        assert sum(group.share for group in groups.values()) == pytest.approx(1.0)
        whole = float(np.prod([1 + group.total_return for group in groups.values()]))
        assert whole == pytest.approx(1 + run_record(400, past=40).net / 10_000)
    assert list(evidence.years) == ["2024", "2025"]
    assert evidence.symbol_years["BTCUSDT"].keys() == evidence.years.keys()


def test_the_interval_is_computed_from_daily_returns() -> None:
    given = run_record(200)
    found = evidence_of(given).significance
    _, daily = daily_returns(given.ts, given.equity, given.initial)
    assert found.periods == 200
    assert found.sharpe == sharpe_interval(daily, 365.0)
    assert found.against_hold is not None
    assert found.against_hold.total_return.value == pytest.approx(0.0, abs=1e-9)  # the run is buy-and-hold


def test_the_event_study_tells_an_effect_from_noise() -> None:
    led, nothing = (evidence_of(run_record(120, jump=jump)) for jump in (0.02, 0.0))
    assert led.event_study is not None
    assert led.event_study.classes["bullish"].mean[-1] == pytest.approx(0.02, abs=0.002)
    assert led.event_study.classes["bearish"].mean[-1] == pytest.approx(-0.02, abs=0.002)
    effect, noise = (
        descriptions_of(evidence)["event_study"][0].rpartition("after, it moved")[2]
        for evidence in (led, nothing)
    )
    assert "not distinguishable from zero" not in effect
    assert "not distinguishable from zero" in noise


@pytest.mark.parametrize(("horizon", "bars"), [(6 * HOUR_MS, 6), (None, 1)])
def test_predictions_are_evaluated_over_their_own_horizon(horizon: int | None, bars: int) -> None:
    given = run_record(60)
    ts = given.ts[::5]
    forecasts = Forecasts(ts, np.full(len(ts), "BTCUSDT"), np.full(len(ts), 2), np.full(len(ts), 0.6))
    found = evidence_of(
        given._replace(forecasts={"signals": forecasts, "predictions": forecasts}, horizon=horizon)
    ).outcomes
    assert [(one.kind, one.horizon) for one in found] == [("signals", 1), ("predictions", bars)]


def test_few_days_have_no_interval() -> None:
    few = evidence_of(run_record(8, jump=0.02))
    assert few.event_study is not None
    assert all("too few days for an interval" in text for text in descriptions_of(few)["event_study"])


@pytest.mark.parametrize(
    ("sharpe", "lead", "warnings"),
    [
        (Interval(1.0, 0.2, 1.8), Interval(0.5, 0.1, 0.9), []),
        (
            Interval(1.0, -0.2, 1.8),
            Interval(0.5, 0.1, 0.9),
            ["The Sharpe ratio is not distinguishable from zero"],
        ),
        (
            Interval(-1.0, -1.8, -0.2),
            Interval(0.5, 0.1, 0.9),
            ["The Sharpe ratio is significantly below zero"],
        ),
        (
            Interval(1.0, 0.2, 1.8),
            Interval(0.5, -0.1, 0.9),
            ["The lead over buy-and-hold is not distinguishable from luck"],
        ),
    ],
)
def test_the_verdict_depends_on_the_intervals(sharpe: Interval, lead: Interval, warnings: list[str]) -> None:
    found = evidence_of(run_record(200)).significance
    found = msgspec.structs.replace(found, sharpe=sharpe, against_hold=Difference(sharpe, lead, 0.1))
    verdict = judge(metrics_of(final=200.0), significance=found)
    assert len(verdict.warnings) == len(warnings)
    assert all(text in " ".join(verdict.warnings) for text in warnings)
    assert (verdict.tone == "good") == (not warnings)


def test_each_bar_of_the_waterfall_begins_at_the_end_of_the_one_before() -> None:
    steps = cost_waterfall(
        CostBreakdown(gross=60.0, spread=-10.0, slippage=-20.0, fees=-50.0, funding=5.0, net=-15.0)
    ).steps
    # From −20 to 60 is 80 wide
    assert [(step.label, step.left, step.width) for step in steps] == [
        ("Before costs", 25.0, 75.0),
        ("Spread", 87.5, 12.5),
        ("Slippage", 62.5, 25.0),
        ("Fees", 0.0, 62.5),
        ("Funding", 0.0, 6.25),
        ("Net result", 6.25, 18.75),
    ]
    assert {step.width for step in cost_waterfall(CostBreakdown(0, 0, 0, 0, 0, 0)).steps} == {0.0}


def test_scored_headlines_are_marked_on_the_price_chart_once_per_story(tmp_path: Path) -> None:
    data = load_report_data(record_run(tmp_path, hours=24 * 60, headlines=800))
    (marks,) = data.marks.values()  # BTCUSDT alone
    assert len(marks) == MARKED_HEADLINES
    assert [mark.ts for mark in marks] == sorted(mark.ts for mark in marks)
    for mark in marks:
        assert mark.price == 100 + (mark.ts - START) // HOUR_MS  # the last close known then
    assert min(mark.confidence for mark in marks) == pytest.approx(0.66)
    study = data.evidence.event_study
    assert study is not None
    # Two headlines of each story, of which the first counts
    assert sum(path.events for path in study.classes.values()) + study.left_out == 400
    page = Page(render(data))
    drawn = page.data["figures"]["price-BTCUSDT"]["headlines"]
    assert [at for at, *_ in drawn] == [mark.ts // 1_000 for mark in marks]
    assert [title for *_, title, _ in drawn] == [mark.title for mark in marks]
    assert "Price moves around headlines" in page.text


@pytest.mark.parametrize(("fingerprint", "found"), [("of-the-run", 4 * HOUR_MS), ("of-another", None)])
def test_the_horizon_comes_from_the_card_of_the_same_model(
    tmp_path: Path, fingerprint: str, found: int | None
) -> None:
    card = Card(base="none", method="fusion", hyper={"horizon": 4 * HOUR_MS}, fingerprint=fingerprint)
    write_card(card, tmp_path)
    run = msgspec.structs.replace(
        load_report_data(record_run(tmp_path)).run, versions={"fusion": "of-the-run"}
    )
    config = Config.model_validate({"fusion": {"path": str(tmp_path)}})
    notes: list[str] = []
    assert horizon_of(run, config, notes) == found
    assert bool(notes) == (found is None)


def test_bars_longer_than_a_day_are_the_periods_of_the_returns() -> None:
    """The Sharpe ratio of 157 weeks is mean / deviation of the weekly returns * sqrt(365 / 7)."""
    rng, week = np.random.default_rng(5), 7 * DAY_MS
    returns = rng.normal(0.005, 0.02, 157)
    ts = START + (np.arange(157) + 1) * week
    price = 100 * np.cumprod(1 + returns)
    book = TradeBook()
    trades = [
        closed
        for row in range(0, 156, 4)  # entered on the second day of a week, which has no sample
        for text, at in (("+1@100", int(ts[row]) + 2 * DAY_MS), ("-1@101", int(ts[row + 1]) + 2 * DAY_MS))
        if (closed := book.add(fill(text, at))) is not None
    ]
    run = run_record(1)._replace(
        config=Config.model_validate(
            {"market": {"interval": "7d", "symbols": ["BTCUSDT"], "category": "equity"}}
        ),
        ts=ts,
        equity=100 * price,
        closes={"BTCUSDT": Closes(ts, price)},
        trades=trades,
        headlines=headlines_of([]),
    )
    evidence = evidence_of(run)
    found = evidence.significance
    assert (evidence.period, found.periods) == (week, 157)
    assert found.sharpe is not None
    assert found.sharpe.value == pytest.approx(
        float(returns.mean() / returns.std(ddof=1)) * (365 / 7) ** 0.5, rel=1e-9
    )
    assert descriptions_of(evidence)["significance"][0].startswith(
        "The Sharpe ratio of 157 weekly returns is "
    )
    assert sum(group.periods for group in evidence.years.values()) == 157
    assert sum(group.trades for group in evidence.years.values()) == len(trades) == 39
    assert evidence.absent.keys() == {"outcomes", "event_study", "decay"}
