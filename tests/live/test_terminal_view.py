"""Terminal views of the running agent."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from agent.core.engine import Engine
from agent.core.events import (
    HOUR_MS,
    AssetSentiment,
    Command,
    Direction,
    Event,
    News,
    Notice,
    Provenance,
    Sentiment,
    Signal,
)
from agent.core.sinks import NullSink
from agent.live.agent_screen import sparkline
from agent.live.formatting import describe
from agent.live.interfaces.observer import Observer
from agent.live.interfaces.status import Status
from agent.live.observers import LiveSink, RecentActivity
from agent.live.terminal_view import LineView, TerminalView
from strategies import load_strategy
from tests.support.agent_status import status_of
from tests.support.market import SYMBOL, T0, config, flat_bars

HEADLINE = News("n1", T0, T0 + 30_000, "Bitcoin [bold]soars[/] on record inflows")
SAID = Sentiment("n1", T0, T0 + 31_000, 0.05, 0.05, 0.9)


def shown(observer_of: Callable[[Callable[[], Engine | None]], Observer]) -> Observer:
    """Feed a view three hours of bars and a headline that is traded on."""
    settings = config(strategy={"name": "sentiment", "params": {"position_size": 0.5}})
    sink = LiveSink(NullSink(), 60_000)
    engine = Engine(
        settings, load_strategy("sentiment", {"position_size": 0.5}), sink, run_id="run", equity_block=1
    )
    observer = observer_of(lambda: engine)
    sink.observers = [observer]
    bars = flat_bars([100.0 + i % 5 for i in range(180)])
    events: list[Event] = [bars[0], HEADLINE, SAID, Command("pause", T0, T0, {}, "uid 1"), *bars[1:]]
    for seq, event in enumerate(events, 1):
        observer.event(seq, event)
        sink.event_seq = seq
        engine.handle(event)
    return observer


def account_view(engine: Callable[[], Engine | None]) -> TerminalView:
    def status() -> Status | None:
        running = engine()
        return None if running is None else status_of(running)

    return TerminalView("demo", engine, status)


def test_the_chart_draws_bars_headlines_signals_fills_and_equity() -> None:
    console = Console(file=io.StringIO(), width=100, record=True)
    view = shown(account_view)
    assert isinstance(view, TerminalView)
    view.refresh()
    console.print(view)
    text = console.export_text()
    assert "demo · 2025-01-01 03:00 UTC" in text
    assert "bullish 0.90 Bitcoin [bold]soars[/] on record inflows" in text
    for said in (
        f"signal BUY  {SYMBOL} 0.90",
        f"fill   BUY  {SYMBOL} 50",
        "risk   REDUCING command",
        "equity 10,",
        f"fill   SELL {SYMBOL} 50",
        "flat",
        "fills 2",
    ):
        assert said in text
    assert "▁" in text


def test_lines_are_printed_without_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=40, record=True)
    shown(lambda engine: LineView(console, engine))
    lines = console.export_text().splitlines()
    assert lines[:3] == [
        "00:00  bullish 0.90 Bitcoin [bold]soars[/] on record inflows",
        f"00:00  signal BUY {SYMBOL} 0.90",
        "00:01  risk REDUCING command",
    ]
    assert any(line.startswith("00:01  fill BUY") for line in lines)
    assert sum("equity" in line for line in lines) == 3 * HOUR_MS // HOUR_MS


def test_messages_of_the_strategy_are_shown() -> None:
    notice = Notice(T0, "warning", "the spread is wide\x1b[2J")
    console = Console(file=io.StringIO(), width=100, record=True)
    LineView(console, lambda: None).decision(1, notice)
    view = TerminalView("demo", lambda: None, lambda: None)
    view.decision(1, notice)
    console.print(view)
    text = console.export_text()
    assert text.startswith("00:00  notice warning: the spread is wide")
    assert text.count("the spread is wide") == 2
    assert "\x1b[2J" not in text


BOTH_WAYS = (AssetSentiment("BTC", 0.82, 0.1, 0.08), AssetSentiment("ETH", 0.05, 0.18, 0.77))
MANY = tuple(AssetSentiment(f"C{number}", 0.0, 1.0, 0.0) for number in range(12))


def scored(view: Observer, *answers: Sentiment) -> Observer:
    """Feed a view one headline for each sentiment."""
    for seq, sentiment in enumerate(answers):
        news = News(sentiment.news_id, T0, T0, f"Headline {sentiment.news_id}")
        view.event(2 * seq, news)
        view.event(2 * seq + 1, sentiment)
    return view


def answer(number: int, assets: tuple[AssetSentiment, ...] = (), kind: str = "") -> Sentiment:
    return Sentiment(f"n{number}", T0, T0, 0.1, 0.2, 0.7, assets=assets, kind=kind, kind_confidence=0.9)


@pytest.mark.parametrize(("width", "cut"), [(100, "+9 Headline n3"), (60, "+…")])
def test_the_chart_shows_the_kind_and_the_answer_for_each_asset(width: int, cut: str) -> None:
    console = Console(file=io.StringIO(), width=width, record=True)
    view = TerminalView("demo", lambda: None, lambda: None)
    console.print(scored(view, answer(1, BOTH_WAYS, "price"), answer(2), answer(3, MANY, "regulation")))
    lines = [line.strip("│ ") for line in console.export_text().splitlines() if "bullish" in line]
    assert lines[0].startswith("00:00 bullish 0.70 price      BTC▼.82 ETH▲.77 Headline ")
    assert lines[1] == "00:00 bullish 0.70            Headline n2"
    assert lines[2] == f"00:00 bullish 0.70 regulation C0■1.00 C1■1.00 C2■1.00 {cut}"


def test_lines_end_with_the_kind_and_the_answer_for_each_asset() -> None:
    console = Console(file=io.StringIO(), width=40, record=True)
    abstained = Sentiment("n5", T0, T0, 1 / 3, 1 / 3, 1 / 3, abstained=True, assets=BOTH_WAYS, kind="price")
    scored(
        LineView(console, lambda: None),
        answer(1, BOTH_WAYS, "price"),
        answer(2),
        answer(3, (), "macro"),
        answer(4, MANY),
        abstained,
    )
    assert console.export_text().splitlines() == [
        "00:00  bullish 0.70 Headline n1 (price; BTC▼.82 ETH▲.77)",
        "00:00  bullish 0.70 Headline n2",
        "00:00  bullish 0.70 Headline n3 (macro)",
        f"00:00  bullish 0.70 Headline n4 ({' '.join(f'C{number}■1.00' for number in range(10))} +2)",
        "00:00  abstained Headline n5",
    ]


def test_the_log_describes_the_kind_and_the_score_of_each_asset() -> None:
    told = describe(answer(1, BOTH_WAYS, "price"))
    assert (told["news_kind"], told["assets"]) == ("price", "BTC -0.74 ETH +0.72")
    assert describe(answer(2)).keys() == {"what", "news", "score", "confidence", "latency_ms"}


def revised(view: Observer) -> Observer:
    """Feed a view three headlines: with another answer, an abstention, and no answer of the slower model."""
    told = Provenance("qwen", "f" * 64, 42, ("bearish",), reason="A fund\ncloses.")
    sentiments = [
        Sentiment("n1", T0, T0, 0.1, 0.2, 0.7, provisional=True),
        Sentiment("n2", T0, T0, 0.1, 0.2, 0.7, provisional=True),
        Sentiment("n3", T0, T0, 0.1, 0.2, 0.7, provisional=True),
        Sentiment("n1", T0, T0 + 60_000, 0.8, 0.1, 0.1, provenance=told),
        Sentiment("n2", T0, T0 + 60_000, 1 / 3, 1 / 3, 1 / 3, abstained=True),
    ]
    for number in (1, 2, 3):
        view.event(number, News(f"n{number}", T0, T0, f"Headline {number}"))
    for number, sentiment in enumerate(sentiments, 4):
        view.event(number, sentiment)
    return view


def test_the_chart_shows_what_a_revision_has_replaced() -> None:
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(revised(TerminalView("demo", lambda: None, lambda: None)))
    lines = [line.strip("│ ") for line in console.export_text().splitlines() if "Headline" in line]
    assert [" ".join(line.split()) for line in lines] == [
        "00:00 bullish 0.70 → bearish 0.80 Headline 1 — A fund closes.",
        "00:00 bullish 0.70 Headline 2",
        "00:00 bullish 0.70 Headline 3",
    ]


def test_lines_tell_what_a_revision_has_replaced() -> None:
    console = Console(file=io.StringIO(), width=40, record=True)
    revised(LineView(console, lambda: None))
    assert console.export_text().splitlines() == [
        "00:00  bullish 0.70 Headline 1",
        "00:00  bullish 0.70 Headline 2",
        "00:00  bullish 0.70 Headline 3",
        "00:01  revised: bullish 0.70 → bearish 0.80 Headline 1 — A fund closes.",
        "00:01  not revised: bullish 0.70 → abstained Headline 2",
    ]


def test_the_log_tells_which_answers_are_provisional() -> None:
    assert describe(Sentiment("n1", T0, T0, 0.1, 0.2, 0.7, provisional=True))["answer"] == "provisional"
    assert "answer" not in describe(Sentiment("n1", T0, T0, 0.1, 0.2, 0.7))


def test_a_signal_states_the_kind_of_news_behind_it() -> None:
    console = Console(file=io.StringIO(), width=80, record=True)
    line, chart = LineView(console, lambda: None), TerminalView("demo", lambda: None, lambda: None)
    for kind in ("failure", ""):
        signal = Signal(SYMBOL, T0, Direction.SELL, 0.9, 0.9, 0.05, 0.05, True, ("n1",), kind)
        assert describe(signal).get("news_kind", "") == kind
        line.decision(1, signal)
        chart.decision(1, signal)
    assert console.export_text(clear=False).splitlines() == [
        f"00:00  signal SELL {SYMBOL} 0.90 failure",
        f"00:00  signal SELL {SYMBOL} 0.90",
    ]
    console.print(chart)
    assert f"signal SELL {SYMBOL} 0.90 failure" in console.export_text()


def test_recent_activity_keeps_the_last_entries_without_bars() -> None:
    recent = shown(lambda _: RecentActivity(4))
    assert isinstance(recent, RecentActivity)
    assert len(recent.lines) == 4
    assert not any(line["what"].startswith(("bar", "open bar")) for line in recent.lines)


@pytest.mark.parametrize(
    ("values", "drawn"),
    [([], ""), ([1.0], "▁"), ([2.0, 2.0], "▁▁"), ([1.0, 8.0, 4.5], "▁█▅"), ([3.0, 1.0], "█▁")],
)
def test_sparkline(values: list[float], drawn: str) -> None:
    assert sparkline(values) == drawn
