"""The verdict: a summary of the result, its comparison with buy-and-hold, and its reliability."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from agent.analysis.report import formats
from agent.analysis.report.descriptions import describe_significance
from agent.analysis.report.report_data import ReportData, Significance
from agent.analysis.run_metrics import FEW_TRADES, MIN_YEARLY, YEAR_MS, Metrics
from agent.core.events import DAY_MS, RiskEvent
from agent.store.runs import UNKNOWN_CUTOFF

_SIGNIFICANT: Final = 2.0
"""A mean return with at least this t-value is distinguishable from zero: about 95 %, two-sided."""


class Verdict(msgspec.Struct, frozen=True):
    """A one-sentence `headline`, further `sentences`, and `warnings` about the reliability of the result."""

    tone: Literal["good", "bad", "plain"]
    headline: str
    sentences: list[str]
    warnings: list[str]


def verdict_of(data: ReportData) -> Verdict:
    """Judge a run. The tone is good only if it made money, beat its benchmark and has no warning."""
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
    """Judge metrics. The headline first states whether the run made money, then compares with buy-and-hold.

    `fills_at_close` is True if orders filled at the close of the signal bar; `halted` is the event that ended
    trading. Luck is judged by the intervals of `significance` (of returns over `period` ms) if it has any,
    else by the t-value of the mean return.
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
            f"Risk halted trading on {formats.minute(halted.ts)} UTC, and it was not resumed: "
            f"{halted.detail}.",
        )
    beaten = hold is not None and performance.total_return <= hold.total_return
    tone: Literal["good", "bad", "plain"] = "plain"
    if beaten or performance.total_return <= -1 or _is_below_zero(metrics, significance):
        tone = "bad"
    elif hold is not None and metrics.fills and performance.total_return > 0 and not warnings:
        tone = "good"
    more = describe_significance(significance, period) if metrics.fills else []
    return Verdict(tone, headline, _sentences(metrics, currency) + more, warnings)


def _result(total_return: float) -> str:
    """Return `made 3.1 %`, `lost 5.1 %`, or `broke even` if the figure rounds to zero."""
    size = formats.percent(abs(total_return))
    if size == formats.percent(0.0):
        return "broke even"
    return f"{'made' if total_return > 0 else 'lost'} {size}"


def _t_value(metrics: Metrics) -> float | None:
    """Return the t-value of the mean return: annual Sharpe ratio × √years (Lo 2002, i.i.d. returns)."""
    sharpe = metrics.performance.sharpe
    return None if sharpe is None else sharpe * ((metrics.end - metrics.start) / YEAR_MS) ** 0.5


def _is_below_zero(metrics: Metrics, significance: Significance) -> bool:
    """Return True if the Sharpe ratio is significantly negative, by its interval or else by the t-value."""
    if not metrics.fills or metrics.end - metrics.start < MIN_YEARLY:
        return False
    if significance.sharpe is not None:
        return significance.sharpe.high < 0
    t = _t_value(metrics)
    return t is not None and t <= -_SIGNIFICANT


def _sentences(metrics: Metrics, currency: str) -> list[str]:
    performance, trades = metrics.performance, metrics.trades
    sentences = [
        f"{formats.money(metrics.initial_equity, currency)} became "
        f"{formats.money(metrics.final_equity, currency)} "
        f"in {formats.duration(metrics.end - metrics.start)}; "
        f"the maximum drawdown was {formats.percent(-performance.max_drawdown)}."
    ]
    if metrics.fills:
        share = (
            f", {formats.percent(trades.win_rate)} of them profitable" if trades.win_rate is not None else ""
        )
        open_too = f" ({metrics.open_trades} still open at the end)" if metrics.open_trades else ""
        sentences.append(
            f"{_round_trips(trades.trades)}{share}{open_too}; "
            f"in the market {formats.percent(metrics.exposure)} of the time."
        )
        costs = metrics.fees - metrics.funding + metrics.slippage
        sentences.append(
            f"Fees, funding and slippage cost {formats.money(costs, currency)}, "
            f"{formats.percent(costs / metrics.initial_equity)} of the initial capital."
        )
    return sentences


def _warnings(
    metrics: Metrics, significance: Significance, stamps: tuple[str, ...], *, fills_at_close: bool
) -> list[str]:
    warnings = []
    if "LEAKED" in stamps:
        warnings.append(
            "The model was trained on data of this window: it has seen the answers, "
            "and the results prove nothing."
        )
    if UNKNOWN_CUTOFF in stamps:
        warnings.append(
            "Up to which day the language model knows events is unknown: it may have seen the answers, "
            "and the results prove nothing."
        )
    if fills_at_close:
        warnings.append(
            "Orders fill at the close of the signal bar. This is optimistic: "
            "when that price is known, it can no longer be traded."
        )
    if metrics.fills and (count := metrics.trades.trades) < FEW_TRADES:
        warnings.append(
            f"{_round_trips(count)} {'is' if count == 1 else 'are'} too few to tell skill from luck."
        )
    duration = metrics.end - metrics.start
    if duration < MIN_YEARLY:
        warnings.append(
            f"A window of {formats.duration(duration)} is too short to judge; no figure is annualised."
        )
    elif _is_below_zero(metrics, significance):
        warnings.append(
            "The Sharpe ratio is significantly below zero: the strategy loses more than chance can explain."
        )
    elif metrics.fills and significance.sharpe is not None:
        warnings += _luck(metrics, significance)
    elif (t := _t_value(metrics)) is not None and metrics.fills and t < _SIGNIFICANT:
        warnings.append(
            f"The mean return is not distinguishable from zero (t = {formats.number(t, 1)}): "
            "chance can explain it."
        )
    return warnings


def _luck(metrics: Metrics, significance: Significance) -> list[str]:
    """Return warnings about the parts of the result that chance can explain, by the intervals."""
    sharpe, lead = significance.sharpe, significance.against_hold
    warnings = []
    if sharpe is not None and not sharpe.excludes(0.0):
        warnings.append("The Sharpe ratio is not distinguishable from zero: chance can explain it.")
    hold = metrics.buy_and_hold
    led = hold is not None and metrics.performance.total_return > hold.total_return
    if led and lead is not None and not lead.total_return.excludes(0.0):
        warnings.append("The lead over buy-and-hold is not distinguishable from luck.")
    return warnings


def _round_trips(count: int) -> str:
    return "1 round trip" if count == 1 else f"{count:,} round trips"
