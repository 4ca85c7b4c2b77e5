"""The verdict in words: what came of it, against what, and how far it can be believed."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from agent.analysis.metrics import FEW_TRADES, MIN_YEARLY, YEAR_MS, Metrics
from agent.analysis.report import formats
from agent.analysis.report.data import ReportData, Significance
from agent.analysis.report.readings import significance_words
from agent.core.events import DAY_MS, RiskEvent

_SIGNIFICANT: Final = 2.0
"""t-value from which a mean return is called distinguishable from zero: about 95 %, two-sided."""


class Verdict(msgspec.Struct, frozen=True):
    """`headline` is one sentence, `sentences` follow it, `warnings` say what to distrust."""

    tone: Literal["good", "bad", "plain"]
    headline: str
    sentences: list[str]
    warnings: list[str]


def verdict_of(data: ReportData) -> Verdict:
    """Judge a run. A good tone is only for one that made money, beat its benchmark and carries no warning."""
    config = data.config
    return judge(
        data.metrics,
        currency=config.account.currency,
        stamps=data.run.stamps,
        fills_at_close=config.paper.fill == "close",
        halted=data.halted,
        significance=data.evidence.significance,
        period=data.evidence.period,
    )


def judge(
    metrics: Metrics,
    *,
    currency: str = "",
    stamps: tuple[str, ...] = (),
    fills_at_close: bool = False,
    halted: RiskEvent | None = None,
    significance: Significance = Significance(0),  # noqa: B008
    period: int = DAY_MS,
) -> Verdict:
    """The verdict on figures: `stamps` are the run's, `fills_at_close` says that it filled at the signal bar's own close.

    `halted` is what ended its trading for good. If `significance` (of returns over `period` ms) has intervals they bound what chance
    can do, else the t-value of the mean return does. The headline states first whether money was made, then compares.
    """
    performance, hold = metrics.performance, metrics.buy_and_hold
    if performance.total_return <= -1:
        headline = "The account was lost."
    elif not metrics.fills:
        headline = "It never traded."
    else:
        headline = f"{_result(performance.total_return).capitalize()} after costs"
        headline += "." if hold is None else f"; buy-and-hold {_result(hold.total_return)}."
    warnings = _warnings(metrics, significance, stamps, fills_at_close=fills_at_close)
    if halted is not None:
        warnings.insert(
            0,
            f"Risk halted trading on {formats.minute(halted.ts)} UTC and nobody resumed it: {halted.detail}.",
        )
    beaten = hold is not None and performance.total_return <= hold.total_return
    tone: Literal["good", "bad", "plain"] = "plain"
    if beaten or performance.total_return <= -1 or _is_below_zero(metrics, significance):
        tone = "bad"
    elif hold is not None and metrics.fills and performance.total_return > 0 and not warnings:
        tone = "good"
    words = significance_words(significance, period) if metrics.fills else []
    return Verdict(tone, headline, _sentences(metrics, currency) + words, warnings)


def _result(total_return: float) -> str:
    """`made 3.1 %`, `lost 5.1 %`, or `broke even` if the figure rounds to zero."""
    size = formats.percent(abs(total_return))
    if size == formats.percent(0.0):
        return "broke even"
    return f"{'made' if total_return > 0 else 'lost'} {size}"


def _t_value(metrics: Metrics) -> float | None:
    """Of the mean return: the annual Sharpe ratio times the root of the years (Lo 2002, i.i.d. returns)."""
    sharpe = metrics.performance.sharpe
    return None if sharpe is None else sharpe * ((metrics.end - metrics.start) / YEAR_MS) ** 0.5


def _is_below_zero(metrics: Metrics, significance: Significance) -> bool:
    """True if the strategy loses by more than chance: the Sharpe ratio's interval is negative, without one the t-value is."""
    if not metrics.fills or metrics.end - metrics.start < MIN_YEARLY:
        return False
    if significance.sharpe is not None:
        return significance.sharpe.high < 0
    t = _t_value(metrics)
    return t is not None and t <= -_SIGNIFICANT


def _sentences(metrics: Metrics, currency: str) -> list[str]:
    performance, trades = metrics.performance, metrics.trades
    sentences = [
        f"{formats.money(metrics.initial_equity, currency)} became {formats.money(metrics.final_equity, currency)} "
        f"in {formats.duration(metrics.end - metrics.start)}; at worst the account stood "
        f"{formats.percent(-performance.max_drawdown)} below its peak."
    ]
    if metrics.fills:
        share = (
            f", {formats.percent(trades.win_rate)} of them profitable" if trades.win_rate is not None else ""
        )
        open_too = f" ({metrics.open_trades} still open at the end)" if metrics.open_trades else ""
        sentences.append(
            f"{_round_trips(trades.trades)}{share}{open_too}; exposed {formats.percent(metrics.exposure)} of the time."
        )
        costs = metrics.fees - metrics.funding + metrics.slippage
        sentences.append(
            f"Fees, funding and slippage took {formats.money(costs, currency)}, "
            f"{formats.percent(costs / metrics.initial_equity)} of the initial capital."
        )
    return sentences


def _warnings(
    metrics: Metrics, significance: Significance, stamps: tuple[str, ...], *, fills_at_close: bool
) -> list[str]:
    warnings = []
    if "LEAKED" in stamps:
        warnings.append(
            "The model was trained on data of this window: it has seen the answers, and nothing here is evidence."
        )
    if fills_at_close:
        warnings.append(
            "Orders fill at the signal bar's own close: optimistic, as that price is known only once it is gone."
        )
    if metrics.fills and metrics.trades.trades < FEW_TRADES:
        warnings.append(f"{_round_trips(metrics.trades.trades)} can't tell skill from luck: too few.")
    duration = metrics.end - metrics.start
    if duration < MIN_YEARLY:
        warnings.append(
            f"{formats.duration(duration)} are too short a window to judge; nothing is extrapolated to a year."
        )
    elif _is_below_zero(metrics, significance):
        warnings.append(
            "The Sharpe ratio is significantly below zero: the strategy loses money by more than chance."
        )
    elif metrics.fills and significance.sharpe is not None:
        warnings += _luck(metrics, significance)
    elif (t := _t_value(metrics)) is not None and metrics.fills and t < _SIGNIFICANT:
        warnings.append(
            f"The mean return is not distinguishable from zero (t = {formats.number(t, 1)}): chance alone could have done this."
        )
    return warnings


def _luck(metrics: Metrics, significance: Significance) -> list[str]:
    """What of the result chance alone could have done, by the intervals."""
    sharpe, lead = significance.sharpe, significance.against_hold
    words = []
    if sharpe is not None and not sharpe.excludes(0.0):
        words.append("The Sharpe ratio is not distinguishable from zero: chance alone could have done this.")
    hold = metrics.buy_and_hold
    led = hold is not None and metrics.performance.total_return > hold.total_return
    if led and lead is not None and not lead.total_return.excludes(0.0):
        words.append("Its lead over buy-and-hold is not distinguishable from luck.")
    return words


def _round_trips(count: int) -> str:
    return "1 round trip" if count == 1 else f"{count:,} round trips"
