"""The rows of out-of-sample evidence, as the terminal and the pages show them."""

from __future__ import annotations

from collections.abc import Callable

from agent.analysis.chance import ChanceTest
from agent.analysis.report.formats import plain_number as number
from agent.analysis.report.formats import plain_percent as percent
from agent.analysis.significance import Interval
from agent.research.assessment import OutOfSampleEvidence


def evidence_rows(evidence: OutOfSampleEvidence) -> list[tuple[str, str, str]]:
    """Return name, the strategy's figure and that of buy-and-hold (empty if it has none)."""
    versus, tries = evidence.versus_hold, evidence.trials
    ahead = (
        _with_interval(percent(versus.total_return.value), versus.total_return, percent) if versus else "–"
    )
    return [
        (
            "total return",
            _with_interval(percent(evidence.total_return), evidence.total_return_interval, percent),
            percent(evidence.buy_and_hold),
        ),
        (
            "Sharpe ratio",
            _with_interval(number(evidence.sharpe), evidence.sharpe_interval, number),
            number(evidence.buy_and_hold_sharpe),
        ),
        ("max drawdown, daily", percent(evidence.max_drawdown), ""),
        ("ahead of buy-and-hold", ahead, ""),
        ("true Sharpe above 0, probability", _share(evidence.probabilistic_sharpe), ""),
        (f"  deflated by {tries} {'tries' if tries > 1 else 'try'}", _share(evidence.deflated_sharpe), ""),
        ("round trips", f"{evidence.trades:,}", ""),
        ("cost of a round trip", "–" if evidence.cost is None else f"{evidence.cost * 1e4:.1f} bps", ""),
        ("trades at random times", _chance(evidence.random_entries), ""),
        ("signals at other times", _chance(evidence.shifted_signals), ""),
        ("headlines shuffled", _chance(evidence.placebo), ""),
    ]


def _with_interval(value: str, interval: Interval | None, show: Callable[[float | None], str]) -> str:
    return f"{value} [{show(interval.low)}, {show(interval.high)}]" if interval else value


def _chance(test: ChanceTest | None) -> str:
    return "–" if test is None else f"median {percent(test.median)}, p = {test.p_value:.3f} of {test.draws:,}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
