"""What the terminal shows of an agent, for `tapewire demo` and `tapewire top`: one renderable.

Account, positions with stops, scored headlines, orders, fills and signals, health and alarms. It follows the
width of the terminal (80 columns and more) and, if it is drawn again and again, its height.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, NamedTuple

from msgspec import UNSET
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agent.core.durations import format_duration
from agent.core.events import (
    AssetSentiment,
    Decision,
    Direction,
    Fill,
    FillKind,
    Notice,
    Order,
    OrderType,
    RiskEvent,
    RiskState,
    Sentiment,
    Side,
    Signal,
    StrategyChange,
)
from agent.core.strategy_version import label_of
from agent.data.provenance import shown_reason
from agent.data.text import MAX_TITLE, one_line, printable
from agent.live.interfaces.status import PositionStatus, Status
from agent.system.fitted_table import Column, fitted_table

KEPT: Final = 50
"""Headlines and actions that a view keeps."""

_POINTS: Final = 48  # of a sparkline
_ROWS: Final = 8  # headlines and actions if the height is free
_FEWEST: Final = 2  # rows that headlines and actions get in a low terminal
_ALARMS: Final = 4  # lines of alarms at most
_SHORTEST: Final = 8  # points of the narrowest sparkline
_POSITIONS: Final = 6  # rows of positions at most
_FRAME: Final = 4  # columns of a panel's border and padding
_BORDER: Final = 2  # lines of a panel's border
_ASSETS: Final = 3  # scores for single assets on a line
_WORD: Final = 12  # characters of a ticker and of a kind
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_STYLES: Final = {
    Direction.BUY: "green",
    Direction.SELL: "red",
    Direction.HOLD: "dim",
    Side.BUY: "green",
    Side.SELL: "red",
}
_RISK: Final = {RiskState.ACTIVE: "green", RiskState.REDUCING: "yellow", RiskState.HALTED: "bold red"}
_NOTICES: Final = {"info": "", "warning": "yellow", "error": "bold red"}


class ShownHeadline(NamedTuple):
    """A headline, available since `at` (UTC ms), the score that counts, and the one that it replaced."""

    at: int
    title: str
    sentiment: Sentiment | None
    before: Sentiment | None = None
    id: str = ""

    def scored(self, sentiment: Sentiment) -> ShownHeadline:
        """Return it with another score: one that abstains doesn't replace a provisional one."""
        known = self.sentiment
        if known is None or not known.provisional:
            return self._replace(sentiment=sentiment)
        return (
            self if sentiment.abstained else self._replace(sentiment=sentiment, before=self.before or known)
        )


class AgentScreen:
    """Renderable of an agent; whoever observes the agent sets the attributes.

    With `live` it fills the terminal's height, less `spare` lines; otherwise it shows up to eight headlines
    and as many actions.
    """

    def __init__(self, title: str, *, live: bool = False, spare: int = 0) -> None:
        self.title = title
        self.now = 0
        """UTC ms of the agent's clock; 0 before anything is known."""
        self.status: Status | None = None
        self.prices: dict[str, deque[float]] = {}
        self.equity: deque[float] = deque(maxlen=_POINTS)
        self.headlines: list[ShownHeadline] = []
        self.actions: list[tuple[int, Text]] = []
        """Time (UTC ms) and description, oldest first."""
        self.fills: int | None = None
        """Number of fills; None if it isn't known."""
        self.problems: list[str] = []
        """What prevents the view from being up to date."""
        self.footer = ""
        self._live = live
        self._spare = spare

    def add_price(self, symbol: str, price: float) -> None:
        """Add a point to the symbol's price line."""
        self.prices.setdefault(symbol, deque(maxlen=_POINTS)).append(price)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        inner = width - _FRAME
        account = [*self._account_lines(inner), *self._alarm_lines()]
        positions, lines = self._positions(inner)
        rows = headline_rows = _ROWS
        if self._live:
            height = (options.height or options.max_height) - self._spare
            free = height - len(account) - lines - (4 if lines else 3) * _BORDER - 1
            wanted = min(len(self.actions), free // 2)
            headline_rows = max(min(len(self.headlines), free - wanted), _FEWEST)
            rows = max(free - headline_rows, _FEWEST)
        yield Panel(Group(*account), title=Text(self._title()), title_align="left")
        if positions is not None:
            yield Panel(positions, title="positions", title_align="left")
        yield Panel(self._headline_table(headline_rows), title="headlines", title_align="left")
        yield Panel(self._action_table(rows), title="orders, fills, signals", title_align="left")
        yield self._footer_line(width)

    # -- account -----------------------------------------------------------------------------------------

    def _title(self) -> str:
        day = f"{datetime.fromtimestamp(self.now / 1000, UTC):%Y-%m-%d %H:%M} UTC"
        return f"{self.title} · {day if self.now else 'connecting'}"

    def _account_lines(self, width: int) -> list[Text]:
        status = self.status
        if status is None:
            return [Text("warming up" if self.now else "waiting for the agent", "dim")]
        state = Text(status.risk.value, _RISK[status.risk])
        if status.risk_rule:
            state.append(f" by {status.risk_rule} since {hour_minute(status.risk_since)}")
        parts = [state, Text(one_line(status.strategy, MAX_TITLE), "bold"), Text(f"on {status.orders}")]
        if status.strategy_source:
            since = hour_minute(status.strategy_since)
            parts.append(Text(f"strategy {status.strategy_source[:12]} since {since}", "dim"))
        parts.append(Text(f"run {status.run}, up {format_duration(int(status.uptime_s) * 1000)}", "dim"))
        start = self.equity[0] if self.equity else status.equity
        style = "green" if status.equity >= start else "red"
        fills = "" if self.fills is None else f"  fills {self.fills:,}"
        money = Text.assemble(
            "equity ", (f"{status.equity:,.2f}", f"bold {style}"), f"  drawdown {status.drawdown:.2%}"
        )
        money.append(f"  cash {status.cash:,.2f}{fills}")
        room = width - cell_len(money.plain) - 2
        if len(self.equity) > 1 and room >= _SHORTEST:
            money.append(f"  {sparkline(list(self.equity)[-room:])}", style)
        money.no_wrap, money.overflow = True, "ellipsis"
        return [_joined(parts, width), money]

    def _alarm_lines(self) -> list[Text]:
        """Return what a person should look at; the most urgent comes first."""
        alarms = [Text(one_line(problem, MAX_TITLE), "bold red") for problem in self.problems]
        if self.status is not None:
            alarms += [Text(text, style) for text, style in alarms_of(self.status)]
        for alarm in alarms:
            alarm.no_wrap, alarm.overflow = True, "ellipsis"
        if len(alarms) > _ALARMS:
            more = len(alarms) - _ALARMS + 1
            alarms[_ALARMS - 1 :] = [Text(f"{more} more: tapewire status", "yellow")]
        return alarms

    # -- positions ---------------------------------------------------------------------------------------

    def _positions(self, width: int) -> tuple[RenderableType | None, int]:
        """Return the table of positions and its lines; with many symbols, those that are held come first."""
        known = self.status.positions if self.status is not None else []
        if not known:
            return None, 0
        beyond = len(known) - _POSITIONS
        shown = sorted(known, key=lambda one: not one.qty)[:_POSITIONS] if beyond > 0 else known
        columns = (
            Column("symbol"),
            Column("mark", right=True),
            Column("change", right=True, optional=4),
            Column("position", right=True),
            Column("entry", right=True, optional=3),
            Column("open profit", right=True),
            Column("stop", right=True, optional=1),
            Column("take profit", right=True, optional=2),
            Column("", optional=5),
        )
        rows = [self._position_row(one) for one in shown]
        table = fitted_table(columns, rows, width)
        if beyond > 0:
            table = Group(table, Text(f"{beyond} more: tapewire status", "dim"))
        return table, 1 + len(shown) + (beyond > 0)

    def _position_row(self, one: PositionStatus) -> tuple[Text, ...]:
        prices = list(self.prices.get(one.symbol, ()))
        change = one.mark / prices[0] - 1 if one.mark is not None and len(prices) > 1 and prices[0] else None
        style = "" if change is None else "green" if change >= 0 else "red"
        profit = one.open_profit
        return (
            Text(one.symbol, "bold red" if one.stale else "bold"),
            Text(price(one.mark)),
            Text("" if change is None else f"{change:+.2%}", style),
            Text(f"{one.qty:+}" if one.qty else "flat", "" if one.qty else "dim"),
            Text(price(None if one.entry is None else float(one.entry))),
            Text("" if profit is None else f"{profit:+,.2f}", "green" if profit and profit > 0 else "red"),
            Text(price(one.stop)),
            Text(price(one.take_profit)),
            Text(sparkline(prices) if len(prices) > 1 else "", style),
        )

    # -- headlines and actions -----------------------------------------------------------------------------

    def _headline_table(self, rows: int) -> RenderableType:
        shown = self.headlines[-rows:]
        if not shown:
            return Text("none yet", "dim")
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(min_width=5, no_wrap=True)
        table.add_column(min_width=12, no_wrap=True)
        has_kinds = any(one.sentiment is not None and one.sentiment.kind for one in shown)
        if has_kinds:
            table.add_column(min_width=10, no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for one in shown:
            cells = [Text(hour_minute(one.at), "dim"), revision_text(one.before, one.sentiment)]
            if has_kinds:
                cells.append(Text(kind_of(one.sentiment), "dim"))
            title = Text(one_line(one.title, MAX_TITLE))
            if reason := shown_reason(one.sentiment.provenance if one.sentiment else None):
                title.append(f" — {reason}", "dim")
            assets = asset_texts(one.sentiment, _ASSETS)
            table.add_row(*cells, Text(" ").join([*assets, title]) if assets else title)
        return table

    def _action_table(self, rows: int) -> RenderableType:
        if not self.actions:
            return Text("none yet", "dim")
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(min_width=5, no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for at, text in self.actions[-rows:]:
            table.add_row(Text(hour_minute(at), "dim"), text)
        return table

    def _footer_line(self, width: int) -> Text:
        parts = [Text(self.footer)] if self.footer else []
        if self.status is not None:
            sources = [f"{source['name']} {source['state']}" for source in self.status.producers]
            parts += [Text(", ".join(sources))] if sources else []
            parts.append(Text(f"queue {self.status.queue.depth}, {self.status.events:,} events"))
        line = _joined(parts, width)
        line.style = "dim"
        return line


def alarms_of(status: Status) -> Iterable[tuple[str, str]]:
    """Yield what is wrong with an agent, with a style; the worst first."""
    if not status.storage.writable:
        yield f"not trading: {status.storage.error}", "bold red"
    if status.unreconciled:
        yield "not reconciled with the venue: no position is opened", "bold red"
    if status.record:
        yield f"the record: {status.record}", "bold red"
    if status.clock.trouble:
        yield f"clock: {status.clock.detail}", "bold red"
    if status.risk_rule and status.risk_detail:
        yield f"{status.risk_rule}: {status.risk_detail}", _RISK[status.risk]
    if status.flattening:
        yield f"closing positions of {', '.join(status.flattening)}", "yellow"
    if status.warming_up:
        yield "warming up: nothing is traded", "yellow"
    for source in status.producers:
        if source["vital"] and source["state"] != "live" and not status.warming_up:
            yield f"{source['name']} is {source['state']} {source['last_error']}".rstrip(), "yellow"
    stale = [one.symbol for one in status.positions if one.stale]
    if stale:
        yield f"no new prices of {', '.join(stale)}", "yellow"
    drift = status.model_drift.drift if status.model_drift is not None else None
    if drift is not None and drift.state in ("drifted", "watch"):
        yield f"model drift: {drift.state} {drift.reason}".rstrip(), "yellow"
    if status.twin is not None and (status.twin.outside or status.twin.problem):
        yield f"twin: {status.twin.problem or 'fills differ from the paper model'}", "yellow"
    if status.snapshots.problem:
        yield f"snapshots: {status.snapshots.problem}", "yellow"


def action_text(decision: Decision) -> Text | None:
    """Describe a decision that a person wants to see; None for any other one."""
    match decision:
        case Signal(actionable=True) | Signal(direction=Direction.HOLD):
            signal = f"{decision.direction.value:<4} {decision.symbol} {decision.confidence:.2f}"
            signal = f"{signal} {one_line(decision.kind, _WORD)}".rstrip()
            return Text(f"signal {signal}", _STYLES[decision.direction])
        case Fill():
            fill = f"{decision.side.value:<4} {decision.symbol} {decision.qty} @ {decision.price}"
            return Text(f"fill   {fill}{of_sleeve(decision)}", f"bold {_STYLES[decision.side]}")
        case Order() if decision.type is not OrderType.MARKET:
            return order_text(decision)
        case RiskEvent(rule="warm-up"):
            return None
        case RiskEvent():
            risk = f"{decision.state.value} {decision.rule} {decision.symbol}".rstrip()
            return Text(f"risk   {risk}{of_sleeve(decision)}", "yellow")
        case Notice():
            return Text(f"notice {printable(one_line(decision.text, MAX_TITLE))}", _NOTICES[decision.level])
        case StrategyChange():
            return Text(f"strategy {change_text(decision)}", "bold")
    return None


def order_text(order: Order, state: str = "") -> Text:
    """Describe an order: type, side, quantity and price, and what became of it."""
    level = order.price if order.price is not None else order.trigger
    at = f" @ {level}" if level is not None else ""
    kind = order.type.value.lower().replace("_", " ")
    text = f"{order.side.value:<4} {order.symbol} {order.qty}{at} {kind} {state}".rstrip()
    return Text(f"order  {text}", _STYLES[order.side])


def of_sleeve(decision: Fill | RiskEvent) -> str:
    """Name the sleeve of a decision, and that a fill was internal; empty without sleeves."""
    inside = " internally" if isinstance(decision, Fill) and decision.kind is FillKind.INTERNAL else ""
    return "" if decision.sleeve is UNSET else f"{inside} ({decision.sleeve})"


def change_text(change: StrategyChange) -> str:
    """Show a strategy that decides from now on: its name, the beginning of its hash, and its parameters."""
    parts = [label_of(change.strategy, change.class_name), change.sha256[:12], change.params]
    return printable(one_line(" ".join(part for part in parts if part), MAX_TITLE))


def revision_text(before: Sentiment | None, sentiment: Sentiment | None) -> Text:
    """Show the score, and the one that it replaced, such as `bearish 0.71 → bullish 0.83`."""
    text = _sentiment_text(sentiment)
    return text if before is None else Text(" → ").join([_sentiment_text(before), text])


def _sentiment_text(sentiment: Sentiment | None) -> Text:
    """Show the likeliest class and its probability."""
    if sentiment is None:
        return Text("…", "dim")
    if sentiment.abstained:
        return Text("abstained", "dim")
    share, name, style, _ = _likeliest(sentiment)
    return Text(f"{name} {share:.2f}", style)


def _likeliest(answer: Sentiment | AssetSentiment) -> tuple[float, str, str, str]:
    """Return the largest probability, the name of its class, its style and its sign."""
    return max(
        (answer.bearish, "bearish", "red", "▼"),
        (answer.neutral, "neutral", "dim", "■"),
        (answer.bullish, "bullish", "green", "▲"),
    )


def kind_of(sentiment: Sentiment | None) -> str:
    """Return the kind of news; empty if it isn't known."""
    return "" if sentiment is None or sentiment.abstained else one_line(sentiment.kind, _WORD)


def asset_texts(sentiment: Sentiment | None, most: int) -> list[Text]:
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


def sparkline(values: list[float]) -> str:
    """Draw one character per value, from the lowest to the highest block."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] for value in values)


def hour_minute(ms: int) -> str:
    """Format UTC ms as hours and minutes."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%H:%M}"


def price(value: float | None) -> str:
    """Format a price: two decimals, more below 10; a dash without one."""
    if value is None:
        return "–"
    return f"{value:,.2f}" if abs(value) >= 10 or not value else f"{value:,.5g}"


def _joined(parts: list[Text], width: int) -> Text:
    """Join parts by two spaces, as far as they fit the width."""
    line = Text(no_wrap=True, overflow="ellipsis")
    for number, part in enumerate(parts):
        if number and cell_len(line.plain) + 2 + cell_len(part.plain) > width:
            break
        line.append("  " if number else "").append_text(part)
    return line
