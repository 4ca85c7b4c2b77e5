"""The texts that the bot sends, in Telegram's HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

from agent import __version__
from agent.analysis.report.formats import duration, minute, money, number, percent
from agent.analysis.trades import RoundTrip
from agent.core.events import RiskState, Side
from agent.core.risk import KILL, RESUME_FROM_KILL
from agent.data.text import one_line
from agent.live.interfaces.probes import problems_of
from agent.live.interfaces.status import PositionStatus, Status
from agent.live.services.telegram.bot_api import MOST_CHARACTERS
from agent.live.services.telegram.recorded_results import DayTrades, RecordedResults
from agent.system.clock import iso

_MOST_LINES: Final = 20  # positions, sleeves and problems of a message
_TRADES: Final = 10  # round trips of a message
_LONGEST: Final = 300  # characters of a text from outside, before it is escaped
_MORE: Final = "… cut"

HELP: Final = "\n".join(
    (
        "<b>Tapewire</b>",
        "/status risk, equity, positions, health",
        "/trades the last closed round trips",
        "/pause open or enlarge no position",
        "/resume trade again; after a kill, <code>/resume " + RESUME_FROM_KILL + "</code>",
        "/flatten close all positions (asks first)",
        "/kill cancel all orders, also stops, and halt (asks first)",
        "<code>/kill flatten</code> the same, and close all positions",
        "/help this text",
    )
)


def safe(text: str, limit: int = _LONGEST) -> str:
    """Return a text from outside on one line, escaped for Telegram's HTML."""
    return escape(one_line(text, limit), quote=False)


def joined(lines: Iterable[str]) -> str:
    """Join lines to a message that Telegram accepts; lines beyond its length are left out, which it states.

    No line has an element that ends in another one.
    """
    kept: list[str] = []
    room = MOST_CHARACTERS - len(_MORE) - 1
    for line in lines:
        room -= len(line.encode("utf-16-le")) // 2 + 1
        if room < 0:
            return "\n".join([*kept, _MORE])
        kept.append(line)
    return "\n".join(kept)


def error_text(message: str, hint: str) -> str:
    """Describe a refusal or failure."""
    return joined([f"⚠ {safe(message)}", *([safe(hint)] if hint else [])])


def status_text(status: Status, currency: str, day_start: float | None) -> str:
    """Describe the agent: risk, equity with the change since the day began (UTC), positions, health."""
    run, orders = safe(status.run, 60), safe(status.orders, 60)
    lines = [
        f"<b>{safe(status.strategy, 100)}</b>, run <code>{run}</code>, {orders}",
        _risk_line(status),
        f"equity <b>{money(status.equity, safe(currency, 12))}</b>{_day_change(status.equity, day_start)}",
    ]
    exposure = sum(abs(one.value) for one in status.positions)
    share = f" ({percent(exposure / status.equity, 0)} of equity)" if status.equity > 0 else ""
    lines.append(f"drawdown {percent(status.drawdown, 2)}, exposure {number(exposure)}{share}")
    held = [one for one in status.positions if one.qty]
    working = sum(one.open_orders for one in status.positions)
    lines += _limited([_position_line(one) for one in held]) or ["no position"]
    lines.append(f"{working} working orders" if working != 1 else "1 working order")
    lines += _limited([_sleeve_line(one) for one in status.sleeves])
    problems = problems_of(status)
    if status.unreconciled:
        problems.append("the account is not reconciled with the venue")
    if status.record:
        problems.append(f"the record: {status.record}")
    lines += _limited([f"⚠ {safe(one)}" for one in problems]) or ["health: ok"]
    lines.append(f"up {duration(status.uptime_s * 1000)}, version {__version__}, {iso(status.now)}")
    return joined(lines)


def trades_text(results: RecordedResults, of_day: DayTrades, currency: str) -> str:
    """Describe the last closed round trips, newest first, and the sum of the UTC day."""
    profit = f"<b>{number(float(of_day.pnl), signed=True)} {safe(currency, 12)}</b>"
    today = f"today (UTC) {of_day.trades} closed, {of_day.wins} won, {profit}"
    latest = list(results.closed)[-_TRADES:][::-1]
    if not latest:
        return joined([today, "no round trip has been closed in this run"])
    return joined([today, f"the last {len(latest)} of {results.total:,}:", *map(_trade_line, latest)])


def result_text(action: str, result: dict[str, Any], status: Status) -> str:
    """Describe the outcome of a command that the agent executed."""
    lines = [f"{action}: done; risk is <b>{safe(str(result.get('risk', status.risk.value)), 20)}</b>"]
    if action in ("flatten", "kill") and status.flattening:
        lines.append(f"closing {safe(', '.join(status.flattening))}")
    held = [one for one in status.positions if one.qty]
    if action in ("pause", "kill") and held:
        lines.append(
            f"{len(held)} open positions; /status shows them" if len(held) > 1 else _position_line(held[0])
        )
    if emergency := result.get("emergency"):
        lines.append(f"carried out at the venue, since the store can't be written: {safe(str(emergency))}")
    return joined(lines)


def confirmation_text(action: str, args: dict[str, str], status: Status, seconds: float) -> str:
    """Request the confirmation of a flatten or kill, with what it affects."""
    held = [one for one in status.positions if one.qty]
    orders = sum(one.open_orders for one in status.positions)
    closes = action == "flatten" or "flatten" in args
    lines = [
        f"<b>{'Close all positions' if action == 'flatten' else 'Kill trading'}</b> of run "
        f"<code>{safe(status.run, 60)}</code>?"
    ]
    if action == "kill":
        lines.append(
            f"All working orders ({orders}) are cancelled, including stops. Trading is halted, also after a "
            "restart, until a resume is confirmed."
        )
    elif status.risk is RiskState.ACTIVE:
        lines.append("The strategy may open new positions right away; pause first to stay flat.")
    if held:
        lines.append(
            "These positions are closed at the market price:" if closes else "These positions stay open:"
        )
        lines += _limited([_position_line(one) for one in held])
    else:
        lines.append("No position is open.")
    lines.append(f"Confirm within {seconds:g} s.")
    return joined(lines)


def killed_text(status: Status) -> str:
    """Describe how to resume after a kill; empty if the agent wasn't killed."""
    if status.risk is not RiskState.HALTED or status.risk_rule != KILL:
        return ""
    return joined(
        [
            f"The agent was killed by {safe(status.risk_detail)} at {iso(status.risk_since)}.",
            f"To trade again, send <code>/resume {RESUME_FROM_KILL}</code>",
        ]
    )


def _risk_line(status: Status) -> str:
    rule = f" by {safe(status.risk_rule, 60)} since {iso(status.risk_since)}" if status.risk_rule else ""
    why = f": {safe(status.risk_detail)}" if status.risk_detail else ""
    return f"risk <b>{status.risk.value}</b>{rule}{why}"


def _day_change(equity: float, start: float | None) -> str:
    if start is None:
        return ""
    share = f", {percent(equity / start - 1, 2, signed=True)}" if start > 0 else ""
    return f" ({number(equity - start, signed=True)} today{share})"


def _position_line(one: PositionStatus) -> str:
    stale = ", no fresh data" if one.stale else ""
    return f"{safe(one.symbol, 30)} {one.qty:+f}, worth {number(abs(one.value))}{stale}"


def _sleeve_line(one: Any) -> str:
    state = "leaving" if one.leaving else one.risk.value
    return f"sleeve {safe(one.name, 40)}: {number(one.equity)}, {state}"


def _trade_line(trade: RoundTrip) -> str:
    side = "long" if trade.side is Side.BUY else "short"
    why = f", {safe(trade.exit_reason, 60)}" if trade.exit_reason else ""
    profit = f"<b>{number(float(trade.pnl), signed=True)}</b>"
    return (
        f"{minute(trade.exit_ts)} {safe(trade.symbol, 30)} {side} {profit} "
        f"({percent(trade.return_on_notional, 2, signed=True)}) in {duration(trade.holding_time)}{why}"
    )


def _limited(lines: Sequence[str]) -> list[str]:
    more = len(lines) - _MOST_LINES
    return [*lines[:_MOST_LINES], *([f"… and {more} more"] if more > 0 else [])]
