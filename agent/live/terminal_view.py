"""Observers that show the agent on a terminal: account, positions, scored headlines, signals and fills.

`TerminalView` redraws a terminal, `LineView` writes lines to anything else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from rich.console import Console

from agent.core.events import (
    HOUR_MS,
    Decision,
    Event,
    Fill,
    Kline,
    News,
    Notice,
    RiskEvent,
    Sentiment,
    Signal,
    StrategyChange,
)
from agent.core.trading_engine import TradingEngine
from agent.data.provenance import shown_reason
from agent.data.text import MAX_TITLE, one_line, printable
from agent.live.agent_screen import (
    KEPT,
    AgentScreen,
    ShownHeadline,
    action_text,
    asset_texts,
    change_text,
    hour_minute,
    kind_of,
    of_sleeve,
    revision_text,
)
from agent.live.interfaces.status import Status

_LOGGED_ASSETS: Final = 10  # scores for single assets on a line
_WORD: Final = 12  # characters of a kind
_TITLES: Final = 1_000  # headlines without their last score whose titles a log remembers


class TerminalView(AgentScreen):
    """The screen of an agent in this process, an observer of it.

    `engine` returns the engine whose equity is drawn, `status` the agent's status; None before the start.
    """

    def __init__(
        self,
        title: str,
        engine: Callable[[], TradingEngine | None],
        status: Callable[[], Status | None],
        *,
        live: bool = False,
        spare: int = 0,
    ) -> None:
        super().__init__(title, live=live, spare=spare)
        self._engine = engine
        self._read_status = status
        self.fills = 0

    def refresh(self) -> None:
        """Read the agent's status."""
        self.status = self._read_status()

    def event(self, seq: int, event: Event) -> None:
        self.now = max(self.now, event.available_at)
        match event:
            case Kline(confirm=True):
                self.add_price(event.symbol, event.close)
                engine = self._engine()
                if engine is not None and not engine.risk.warming_up:
                    self.equity.append(engine.portfolio.equity())
            case News():
                self.headlines.append(ShownHeadline(event.available_at, event.title, None, id=event.id))
                del self.headlines[:-KEPT]
            case Sentiment():
                for place, shown in enumerate(self.headlines):
                    if shown.id == event.news_id:
                        self.headlines[place] = shown.scored(event)

    def decision(self, seq: int, decision: Decision) -> None:
        """Keep signals, orders, fills, notices, and changes of the strategy and of the risk state."""
        self.fills = (self.fills or 0) + isinstance(decision, Fill)
        text = action_text(decision)
        if text is not None:
            self.actions.append((decision.ts, text))
            del self.actions[:-KEPT]


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
        answer = f"{verb if before else ''}{revision_text(before, sentiment).plain}"
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
                self._print(decision.ts, f"fill {fill}{of_sleeve(decision)}")
            case RiskEvent() if decision.rule != "warm-up":
                risk = f"risk {decision.state.value} {decision.rule} {decision.symbol}".rstrip()
                self._print(decision.ts, f"{risk}{of_sleeve(decision)}")

            case Notice():
                self._print(decision.ts, f"notice {decision.level}: {one_line(decision.text, MAX_TITLE)}")
            case StrategyChange():
                self._print(decision.ts, f"strategy {change_text(decision)}")

    def _print(self, ms: int, line: str) -> None:
        self._console.print(
            printable(f"{hour_minute(ms)}  {line}"), highlight=False, markup=False, soft_wrap=True
        )


def _answers(sentiment: Sentiment) -> str:
    """Return the kind of news and the scores for single assets, in parentheses; empty without them."""
    assets = " ".join(text.plain for text in asset_texts(sentiment, _LOGGED_ASSETS))
    parts = [part for part in (kind_of(sentiment), assets) if part]
    return f" ({'; '.join(parts)})" if parts else ""
