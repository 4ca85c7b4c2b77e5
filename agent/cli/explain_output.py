"""What `tapewire explain` prints."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING, Final

from msgspec import UNSET
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agent.analysis.comparison.comparison_text import describe, shown_value
from agent.analysis.report import formats
from agent.cli.console import out
from agent.core.durations import format_duration
from agent.core.events import MINUTE_MS
from agent.data.text import one_line
from agent.system.clock import iso
from agent.system.fitted_table import Column, fitted_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from agent.replay.explanation import Explanation

_TITLE: Final = 110  # characters of a headline
_NEAR: Final = 0.8  # share of a limit from which it is marked
_ORIGINS: Final = {
    "target": "a target of the strategy",
    "protection": "protection of a position, placed by the exchange",
    "closing": "the closing of the position by the engine",
    "liquidation": "liquidation: the margin ran out",
}


def print_explanation(found: Explanation) -> None:
    """Print an explanation as a panel. Texts from outside are plain text, without markup."""
    order = found.order
    trip = f", round trip t{found.trip}" if found.trip else ""
    title = f"order {found.number} of run {found.run}{trip}"
    parts: list[RenderableType] = [
        _facts(
            ("order", _order_line(found)),
            ("id", order.id),
            ("decided", f"{iso(order.ts)} on event {found.event_seq:,}"),
            *((("sleeve", found.sleeve),) if found.sleeve else ()),
            ("event", describe(found.event)),
            ("placed by", _origin_line(found)),
        )
    ]
    parts += [Text(f"! {note}", style="yellow") for note in found.notes]
    parts += [*_target(found), *_signal(found), *_model(found), *_risk(found), *_outcome(found)]
    out.print(Panel(Group(*parts), title=Text(title), title_align="left"))


def _order_line(found: Explanation) -> str:
    order = found.order
    kind = order.type.value.lower().replace("_", " ")
    parts = [f"{order.side.value.lower()} {order.qty:f} {order.symbol}", kind]
    parts += [f"price {order.price:f}"] if order.price is not None else []
    parts += [f"trigger {order.trigger:f}"] if order.trigger is not None else []
    parts += [f"trail {order.trail:f}"] if order.trail is not UNSET else []
    parts += ["reduce-only"] if order.reduce_only else []
    parts += [f"stop {order.stop:f}"] if order.stop is not None else []
    parts += [f"take-profit {order.take_profit:f}"] if order.take_profit is not None else []
    parts += [order.tif.value] if order.tif.value != "GTC" else []
    return ", ".join(parts)


def _origin_line(found: Explanation) -> str:
    line = _ORIGINS[found.origin]
    if found.parent is not None:
        line += f"; it belongs to order {found.parent}"
    if found.origin != "target" and found.order.reason:
        line += f": {one_line(found.order.reason, _TITLE)}"
    return line


def _target(found: Explanation) -> list[RenderableType]:
    rows = []
    if found.target is not None:
        fields = " ".join(
            f"{name}={format_duration(value) if name == 'expire' else shown_value(value)}"
            for name, value in found.target.fields.items()
        )
        rows.append(("target", f"{fields}; set in {found.target.callback or 'the strategy'}"))
    if found.size is not None:
        one = found.size
        rows += [
            ("aimed", f"{one.aimed:,.8g} at price {one.price:,.8g} with equity {one.equity:,.2f}"),
            (
                "size",
                f"held {one.held:f}, after it {one.position_after:f}: {one.qty:f}, in lots of {one.lot:f}"
                + (", reduced by a risk limit" if one.limited else ""),
            ),
        ]
    return _section("Target and size", rows)


def _signal(found: Explanation) -> list[RenderableType]:
    if found.signal is None and not found.votes:
        return []
    rows = [("signal", "none: it has ended")] if found.signal is None else []
    if found.signal is not None:
        signal = found.signal
        probabilities = _probabilities(signal.bearish, signal.neutral, signal.bullish)
        rows.append(
            (
                "signal",
                f"{signal.direction.value}, confidence {signal.confidence:.3f}"
                f"{'' if signal.actionable else ', not actionable'}; {probabilities}; since {iso(signal.ts)}",
            )
        )
    parts = _section("Headlines", rows)
    cells: list[tuple[str, ...]] = []
    for vote in found.votes:
        title = one_line(vote.title or f"(scored headline {vote.news_id})", _TITLE)
        source = f" ({one_line(vote.publisher, 60)})" if vote.publisher else ""
        kind = f", {vote.kind}" if vote.kind else ""
        cells.append(
            (
                iso(vote.voted_at)[:19],
                f"{vote.weight:.3f}",
                f"{vote.direction}{kind}",
                _probabilities(vote.bearish, vote.neutral, vote.bullish),
                title + source,
            )
        )
    columns = (
        *(Column("voted"), Column("weight", right=True), Column("vote")),
        *(Column("probabilities"), Column("headline", wraps=True)),
    )
    return [*parts, fitted_table(columns, cells, out.width)] if found.votes else parts


def _model(found: Explanation) -> list[RenderableType]:
    rows = []
    known = {name: value for name, value in found.features.items() if not isnan(value)}
    if known:
        rows.append(("features", ", ".join(f"{name} {value:.4g}" for name, value in known.items())))
    cold = len(found.features) - len(known)
    if cold:
        rows.append(("", f"{cold} features were not defined yet"))
    if found.prediction is not None:
        one = found.prediction
        move = "" if isnan(one.move) else f", move {formats.percent(one.move, 2)}"
        text = f"down {one.down:.3f}, flat {one.flat:.3f}, up {one.up:.3f}{move}; of {iso(one.ts)}"
        rows.append(("prediction", text))
    return _section("Prices and prediction", rows)


def _risk(found: Explanation) -> list[RenderableType]:
    rows = [("state", found.risk_state)]
    if found.equity_floor is not None:
        rows.append(("acts at", f"equity {found.equity_floor:,.2f} (daily loss or drawdown)"))
    if found.origin == "target" and not found.checks:
        rows.append(("checks", "an order that only reduces a position passes in every state"))
    for check in found.checks:
        if check.rule.endswith(", ms"):
            values = f"{format_duration(round(check.value))} of {format_duration(round(check.limit))}"
            rule = check.rule.removesuffix(", ms")
        else:
            values, rule = f"{check.value:,.3g} of {check.limit:,.3g}", check.rule
        near = f", {check.used:.0%} of the limit" if check.used >= _NEAR else ""
        rows.append((rule, f"passed: {values}{near}"))
    return _section("Risk", rows)


def _outcome(found: Explanation) -> list[RenderableType]:
    one = found.outcome
    rows = []
    if one.arrives_at is not None and found.origin == "target":
        rows.append(("arrives", f"{iso(one.arrives_at)} at the paper exchange"))
    for fill in one.fills[:10]:
        role, fee, slippage = "maker" if fill.maker else "taker", float(fill.fee), float(fill.slippage)
        costs = f"fee {formats.number(fee, 4)}, slippage {formats.number(slippage, 4)}"
        rows.append(("fill", f"{iso(fill.ts)}: {fill.qty:f} at {fill.price:f}, {role}, {costs}"))
    rows += [
        (
            "crossed",
            f"{cross.qty:f} at the mark {cross.price:f} with order {cross.order} of sleeve {cross.sleeve}: "
            "no fee, spread or slippage; the market would have charged "
            f"{formats.number(float(cross.fee_saved), 4)}",
        )
        for cross in found.crosses
    ]
    if len(one.fills) > 10:
        rows.append(("", f"{len(one.fills) - 10:,} more fills; --json has all"))
    if one.fills and one.average_price is not None:
        total = f"{one.filled:f} at {float(one.average_price):,.8g} on average, fees {float(one.fees):,.4f}, "
        total += f"slippage {float(one.slippage):,.4f}"
        if one.latency_ms is not None:
            after = one.latency_ms
            delay = f"{after / 1000:g} s" if after < MINUTE_MS else formats.duration(after)
            total += f"; first fill {delay} after the decision"
        rows.append(("in all", total))
    if one.amended:
        rows.append(("amended", f"{one.amended:,} times"))
    if one.attached:
        rows.append(("protected by", ", ".join(f"order {number}" for number in one.attached)))
    when = f" at {iso(one.ended_at)}" if one.ended_at is not None else ""
    rows.append(("ended", one.ended + when))
    return _section("What became of it", rows)


def _section(title: str, rows: list[tuple[str, str]]) -> list[RenderableType]:
    return [Text(), Text(title, style="bold"), _facts(*rows)] if rows else []


def _facts(*rows: tuple[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(Text(name), Text(text))
    return table


def _probabilities(bearish: float, neutral: float, bullish: float) -> str:
    return f"bearish {bearish:.2f}, neutral {neutral:.2f}, bullish {bullish:.2f}"
