"""Observers that show the agent on a terminal: bars, scored headlines, signals, fills and equity.

`TerminalView` redraws a terminal, `LineView` writes lines to anything else.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from msgspec import UNSET
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agent.core.events import (
    HOUR_MS,
    AssetSentiment,
    Decision,
    Direction,
    Event,
    Fill,
    FillKind,
    Kline,
    News,
    Notice,
    RiskEvent,
    Sentiment,
    Side,
    Signal,
    StrategyChange,
)
from agent.core.strategy_version import label_of
from agent.core.trading_engine import TradingEngine
from agent.data.provenance import shown_reason
from agent.data.text import MAX_TITLE, one_line, printable

_BARS: Final = 48  # closes in a sparkline
_ASSETS: Final = 3  # scores for single assets on a line of the terminal
_LOGGED_ASSETS: Final = 10  # the same in a log
_WORD: Final = 12  # characters of a ticker and of a kind
_TITLES: Final = 1_000  # headlines without their last score whose titles a log remembers
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_STYLES: Final = {
    Direction.BUY: "green",
    Direction.SELL: "red",
    Direction.HOLD: "dim",
    Side.BUY: "green",
    Side.SELL: "red",
}
_NOTICES: Final = {"info": "", "warning": "yellow", "error": "bold red"}


def sparkline(values: list[float]) -> str:
    """Draw one character per value, from the lowest to the highest block."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] for value in values)


def hour_minute(ms: int) -> str:
    """Format UTC ms as hours and minutes."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%H:%M}"


class TerminalView:
    """Renderable for `rich.live.Live`.

    `engine` returns the engine whose account is shown; `title` is shown above the prices.
    """

    def __init__(self, title: str, engine: Callable[[], TradingEngine | None], *, rows: int = 8) -> None:
        self._title = title
        self._engine = engine
        self._now = 0
        self._closes: dict[str, deque[float]] = {}
        self._marks: dict[str, float] = {}
        self._equity: deque[float] = deque(maxlen=_BARS)
        self._headlines: deque[News] = deque(maxlen=rows)
        self._sentiments: dict[str, Sentiment] = {}
        self._revised: dict[str, Sentiment] = {}  # the scores that were replaced
        self._activity: deque[tuple[int, Text]] = deque(maxlen=rows)
        self.fills = 0

    def event(self, seq: int, event: Event) -> None:
        self._now = max(self._now, event.available_at)
        match event:
            case Kline():
                self._marks[event.symbol] = event.close
                if event.confirm:
                    self._closes.setdefault(event.symbol, deque(maxlen=_BARS)).append(event.close)
                    engine = self._engine()
                    if engine is not None and not engine.risk.warming_up:
                        self._equity.append(engine.portfolio.equity())
            case News():
                self._headlines.append(event)
                shown = {news.id for news in self._headlines}
                for answers in (self._sentiments, self._revised):
                    for news_id in answers.keys() - shown:
                        del answers[news_id]
            case Sentiment():
                before = self._sentiments.get(event.news_id)
                if before is not None and before.provisional:
                    if event.abstained:
                        return
                    self._revised.setdefault(event.news_id, before)
                self._sentiments[event.news_id] = event

    def decision(self, seq: int, decision: Decision) -> None:
        """Keep signals, fills, notices, and changes of the strategy and of the risk state."""
        match decision:
            case Signal(actionable=True) | Signal(direction=Direction.HOLD):
                signal = f"{decision.direction.value:<4} {decision.symbol} {decision.confidence:.2f}"
                signal = f"{signal} {one_line(decision.kind, _WORD)}".rstrip()
                text = Text(f"signal {signal}", _STYLES[decision.direction])
            case Fill():
                self.fills += 1
                fill = f"{decision.side.value:<4} {decision.symbol} {decision.qty} @ {decision.price}"
                fill += _of_sleeve(decision)
                text = Text(f"fill   {fill}", f"bold {_STYLES[decision.side]}")
            case RiskEvent(rule="warm-up"):
                return
            case RiskEvent():
                risk = f"{decision.state.value} {decision.rule} {decision.symbol}".rstrip()
                text = Text(f"risk   {risk}{_of_sleeve(decision)}", "yellow")
            case Notice():
                text = Text(
                    f"notice {printable(one_line(decision.text, MAX_TITLE))}", _NOTICES[decision.level]
                )
            case StrategyChange():
                text = Text(f"strategy {change_text(decision)}", "bold")
            case _:
                return
        self._activity.append((decision.ts, text))

    def __rich__(self) -> RenderableType:
        return Group(self._price_panel(), self._headline_panel(), self._account_panel())

    def _price_panel(self) -> Panel:
        table = Table.grid(padding=(0, 2))
        for symbol, mark in self._marks.items():
            closes = list(self._closes.get(symbol, ()))
            change = mark / closes[0] - 1 if closes else 0.0
            style = "green" if change >= 0 else "red"
            table.add_row(
                Text(symbol, "bold"),
                Text(f"{mark:,.2f}"),
                Text(f"{change:+.2%}", style),
                Text(sparkline(closes), style),
            )
        day = f"{datetime.fromtimestamp(self._now / 1000, UTC):%Y-%m-%d %H:%M}" if self._now else "connecting"
        return Panel(table, title=f"{self._title} · {day} UTC", title_align="left")

    def _headline_panel(self) -> Panel:
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(min_width=5, no_wrap=True)
        table.add_column(min_width=12, no_wrap=True)
        told = any(sentiment.kind for sentiment in self._sentiments.values())
        if told:
            table.add_column(min_width=10, no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for news in self._headlines:
            sentiment = self._sentiments.get(news.id)
            answer = _revision_text(self._revised.get(news.id), sentiment)
            cells = [Text(hour_minute(news.available_at), "dim"), answer]
            if told:
                cells.append(Text(_kind(sentiment), "dim"))
            title = Text(one_line(news.title, MAX_TITLE))
            if reason := shown_reason(sentiment.provenance if sentiment else None):
                title.append(f" — {reason}", "dim")
            assets = _asset_texts(sentiment, _ASSETS)
            table.add_row(*cells, Text(" ").join([*assets, title]) if assets else title)
        return Panel(table, title="headlines", title_align="left")

    def _account_panel(self) -> Panel:
        activity = Table.grid(padding=(0, 1))
        for ts, text in self._activity:
            activity.add_row(Text(hour_minute(ts), "dim"), text)
        lines: list[RenderableType] = [activity]
        engine = self._engine()
        if engine is not None:
            held = (
                "  ".join(f"{symbol} {p.qty:+}" for symbol, p in engine.portfolio.positions.items() if p.qty)
                or "flat"
            )
            start = self._equity[0] if self._equity else engine.portfolio.equity()
            equity = engine.portfolio.equity()
            style = "green" if equity >= start else "red"
            lines.append(
                Text.assemble("equity ", (f"{equity:,.2f}", f"bold {style}"), f"  {held}  fills {self.fills}")
            )
            lines.append(Text(sparkline(list(self._equity)), style))
            if engine.version:
                name = label_of(engine.version["strategy"], engine.version["class"])
                source = engine.version["sha256"][:12]
                line = f"strategy {name} {source}".rstrip() + f" since {hour_minute(engine.version_since)}"
                lines.append(Text(printable(one_line(line, MAX_TITLE)), "dim"))
        return Panel(Group(*lines), title="signals, fills, equity", title_align="left")


class LineView:
    """Prints lines for logs and pipes: scored headlines, signals, fills, changes of risk, and the equity
    every hour.
    """

    def __init__(self, console: Console, engine: Callable[[], TradingEngine | None]) -> None:
        self._console = console
        self._engine = engine
        self._titles: OrderedDict[str, str] = OrderedDict()
        self._provisional: OrderedDict[str, Sentiment] = OrderedDict()
        self._hour = 0
        self.fills = 0

    def event(self, seq: int, event: Event) -> None:
        match event:
            case News():
                self._titles[event.id] = one_line(event.title, MAX_TITLE)
                if len(self._titles) > _TITLES:
                    self._titles.popitem(last=False)
            case Sentiment():
                self._on_sentiment(event)
            case Kline(confirm=True) if event.ts // HOUR_MS > self._hour:
                first, self._hour = not self._hour, event.ts // HOUR_MS
                engine = self._engine()
                if engine is not None and not first and not engine.risk.warming_up:
                    self._print(event.ts, f"equity {engine.portfolio.equity():,.2f}")

    def _on_sentiment(self, sentiment: Sentiment) -> None:
        news_id = sentiment.news_id
        title = self._titles.get(news_id, "")
        before = self._provisional.pop(news_id, None)
        if sentiment.provisional:
            self._provisional[news_id] = before or sentiment
            if len(self._provisional) > _TITLES:
                self._provisional.popitem(last=False)
        else:
            self._titles.pop(news_id, None)
        verb = "not revised: " if sentiment.abstained else "revised: "
        answer = f"{verb if before else ''}{_revision_text(before, sentiment).plain}"
        reason = shown_reason(sentiment.provenance)
        self._print(
            sentiment.available_at,
            f"{answer} {title}{_answers(sentiment)}{f' — {reason}' if reason else ''}",
        )

    def decision(self, seq: int, decision: Decision) -> None:
        """Print actionable signals, fills, notices, and changes of the strategy and of the risk state."""
        match decision:
            case Signal(actionable=True):
                signal = f"{decision.direction.value} {decision.symbol} {decision.confidence:.2f}"
                self._print(decision.ts, f"signal {signal} {one_line(decision.kind, _WORD)}".rstrip())
            case Fill():
                self.fills += 1
                fill = f"{decision.side.value} {decision.symbol} {decision.qty} @ {decision.price}"
                self._print(decision.ts, f"fill {fill}{_of_sleeve(decision)}")
            case RiskEvent() if decision.rule != "warm-up":
                risk = f"risk {decision.state.value} {decision.rule} {decision.symbol}".rstrip()
                self._print(decision.ts, f"{risk}{_of_sleeve(decision)}")

            case Notice():
                self._print(decision.ts, f"notice {decision.level}: {one_line(decision.text, MAX_TITLE)}")
            case StrategyChange():
                self._print(decision.ts, f"strategy {change_text(decision)}")

    def _print(self, ms: int, line: str) -> None:
        self._console.print(
            printable(f"{hour_minute(ms)}  {line}"), highlight=False, markup=False, soft_wrap=True
        )


def _of_sleeve(decision: Fill | RiskEvent) -> str:
    """Name the sleeve of a decision, and that a fill was internal; empty without sleeves."""
    inside = " internally" if isinstance(decision, Fill) and decision.kind is FillKind.INTERNAL else ""
    return "" if decision.sleeve is UNSET else f"{inside} ({decision.sleeve})"


def change_text(change: StrategyChange) -> str:
    """Show a strategy that decides from now on: its name, the beginning of its hash, and its parameters."""
    parts = [label_of(change.strategy, change.class_name), change.sha256[:12], change.params]
    return printable(one_line(" ".join(part for part in parts if part), MAX_TITLE))


def _sentiment_text(sentiment: Sentiment | None) -> Text:
    """Show the likeliest class and its probability."""
    if sentiment is None:
        return Text("…", "dim")
    if sentiment.abstained:
        return Text("abstained", "dim")
    share, name, style, _ = _likeliest(sentiment)
    return Text(f"{name} {share:.2f}", style)


def _revision_text(before: Sentiment | None, sentiment: Sentiment | None) -> Text:
    """Show the score, and the one that it replaced, such as `bearish 0.71 → bullish 0.83`."""
    text = _sentiment_text(sentiment)
    return text if before is None else Text(" → ").join([_sentiment_text(before), text])


def _likeliest(answer: Sentiment | AssetSentiment) -> tuple[float, str, str, str]:
    """Return the largest probability, the name of its class, its style and its sign."""
    return max(
        (answer.bearish, "bearish", "red", "▼"),
        (answer.neutral, "neutral", "dim", "■"),
        (answer.bullish, "bullish", "green", "▲"),
    )


def _kind(sentiment: Sentiment | None) -> str:
    """Return the kind of news; empty if it isn't known."""
    return "" if sentiment is None or sentiment.abstained else one_line(sentiment.kind, _WORD)


def _asset_texts(sentiment: Sentiment | None, most: int) -> list[Text]:
    """Show the score for each named asset, such as `BTC▼.82`, and how many are left out beyond `most`."""
    if sentiment is None or sentiment.abstained:
        return []
    shown = []
    for own in sentiment.assets[:most]:
        share, _, style, sign = _likeliest(own)
        number = f"{share:.2f}".removeprefix("0")
        shown.append(Text(f"{one_line(own.asset, _WORD)}{sign}{number}", style))
    rest = len(sentiment.assets) - len(shown)
    return [*shown, Text(f"+{rest}", "dim")] if rest else shown


def _answers(sentiment: Sentiment) -> str:
    """Return the kind of news and the scores for single assets, in parentheses; empty without them."""
    assets = " ".join(text.plain for text in _asset_texts(sentiment, _LOGGED_ASSETS))
    parts = [part for part in (_kind(sentiment), assets) if part]
    return f" ({'; '.join(parts)})" if parts else ""
