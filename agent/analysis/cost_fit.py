"""Costs of the paper exchange, fitted to the fills of a venue.

Spread and impact are the least-squares fit of

    cost = half spread + impact * range * sqrt(share)

over the market orders: `cost` is what the average price of an order's first moment is worse than the last
streamed price, less half a tick, because the paper exchange rounds to the tick against the trader; `range` is
high minus low of the bar of the fill, `share` the order's part of its volume (`SquareRootImpact`). Costs and
range are fractions of the price. A negative coefficient is set to 0 and the other one is fitted alone.

Latency is the median time from the decision to the venue's first report or fill.

The intervals are the 2.5 % and 97.5 % percentiles of 1,000 bootstrap samples: of whole UTC days if there are
at least `FEW_DAYS` of them, since orders of a day share its volatility, else of single orders. They are
widened by Student's t for n days or orders, times √(n/(n-1)), because percentiles of few units are too
narrow (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015). The draws of spread
and impact may be negative, so that the bound at 0 does not bias the other one. The interval of the half
spread also has half a tick at each end: how far the venue has rounded is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Final

import msgspec
import numpy as np

from agent.analysis.daily import Floats, Ints
from agent.analysis.day_bootstrap import DRAWS, FEW_DAYS, LEVEL, band
from agent.core.errors import DataError
from agent.core.events import DAY_MS

FEWEST: Final = 10
"""Fills without which nothing is fitted."""

_BPS: Final = 1e4
_SEED: Final = 20_240_229  # fixed, so that two fits of the same fills are identical


class TakerSample(msgspec.Struct, frozen=True):
    """The first moment of a market order at the venue. Fractions are of the market's price."""

    ts: int  # UTC ms
    cost: float  # fraction that the price is worse than the market's; negative if it is better
    half_tick: float  # half the tick as a fraction
    range: float  # of the bar of the fill, as a fraction
    share: float  # of the bar's volume, at most 1


class FillSamples(msgspec.Struct):
    """What the fills of one or several runs show."""

    takers: list[TakerSample] = []
    latencies: list[tuple[int, int]] = []  # UTC ms of the decision, ms to the venue's first report
    limits: list[tuple[int, float, float]] = []  # UTC ms, value filled as a maker, value filled; limit orders
    taker_fees: list[tuple[int, float, float]] = []  # UTC ms, fee, value
    maker_fees: list[tuple[int, float, float]] = []
    left_out: dict[str, int] = {}  # fills that were not measured, by reason

    def leave_out(self, reason: str, count: int = 1) -> None:
        """Count fills that can't be measured."""
        self.left_out[reason] = self.left_out.get(reason, 0) + count


class FittedCost(msgspec.Struct, frozen=True):
    """A fitted value, its interval at `LEVEL`, and the number of orders or fills behind it."""

    value: float
    low: float
    high: float
    count: int


class CostFit(msgspec.Struct, frozen=True):
    """Fitted costs; None if nothing shows them. Latencies are ms, fees fractions of the notional."""

    runs: tuple[str, ...]
    half_spread_bps: FittedCost
    impact: FittedCost
    latency: FittedCost
    latency_p90: float
    latency_p99: float
    maker_share: FittedCost | None
    taker_fee: FittedCost | None
    maker_fee: FittedCost | None
    left_out: dict[str, int]
    resampled: str  # what the bootstrap draws: `days` or `orders`


def fit_costs(runs: Sequence[str], samples: FillSamples) -> CostFit:
    """Fit the costs to the fills of `runs`. Raises DataError with fewer than `FEWEST` market orders."""
    takers = samples.takers
    if len(takers) < FEWEST:
        left_out = "".join(f"; {count:,} {reason}" for reason, count in sorted(samples.left_out.items()))
        raise DataError(
            f"{len(takers)} market orders can be measured, fewer than {FEWEST}{left_out}",
            hint="name more runs, or let the run go on",
        )
    times = np.array([sample.ts for sample in takers])
    cost = np.array([sample.cost - sample.half_tick for sample in takers])
    walk = np.array([sample.range * np.sqrt(sample.share) for sample in takers])
    by_days = len(np.unique(times // DAY_MS)) >= FEW_DAYS
    spread, impact = _fit(cost, walk)
    draws, units = _draws(times, by_days=by_days)
    low, high = _interval(np.array([_line(cost[rows], walk[rows]) for rows in draws]), units)
    rounded = np.array([np.mean([sample.half_tick for sample in takers]), 0.0])
    low, high = np.maximum(low - rounded, 0.0), np.maximum(high + rounded, 0.0)
    low, high = np.minimum(low, (spread, impact)), np.maximum(high, (spread, impact))
    delays = np.array([delay for _, delay in samples.latencies], float)
    decided = np.array([ts for ts, _ in samples.latencies])
    count = len(takers)
    return CostFit(
        runs=tuple(runs),
        half_spread_bps=FittedCost(spread * _BPS, float(low[0]) * _BPS, float(high[0]) * _BPS, count),
        impact=FittedCost(impact, float(low[1]), float(high[1]), count),
        latency=_estimate(decided, lambda rows: float(np.median(delays[rows])), by_days=by_days),
        latency_p90=float(np.percentile(delays, 90)),
        latency_p99=float(np.percentile(delays, 99)),
        maker_share=_ratio(samples.limits, by_days=by_days),
        taker_fee=_ratio(samples.taker_fees, by_days=by_days),
        maker_fee=_ratio(samples.maker_fees, by_days=by_days),
        left_out=samples.left_out,
        resampled="days" if by_days else "orders",
    )


def _fit(cost: Floats, walk: Floats) -> tuple[float, float]:
    """Return spread and impact by least squares, neither below 0."""
    spread, slope = _line(cost, walk)
    if slope < 0:
        return max(float(cost.mean()), 0.0), 0.0
    if spread < 0:
        through_zero = float(walk @ cost) / float(walk @ walk) if walk.any() else 0.0
        return 0.0, max(through_zero, 0.0)
    return spread, slope


def _line(cost: Floats, walk: Floats) -> tuple[float, float]:
    """Return intercept and slope by least squares; a slope of 0 if all orders have the same impact."""
    deviation = walk - walk.mean()
    squares = float(deviation @ deviation)
    slope = float(deviation @ cost) / squares if squares > 0 else 0.0
    return float(cost.mean()) - slope * float(walk.mean()), slope


def _interval(drawn: Floats, units: int) -> tuple[Floats, Floats]:
    """Return the percentiles of bootstrap draws over the first axis, widened for `units` resampled units."""
    low, high = band(drawn)
    middle = np.median(drawn, axis=0)
    normal = NormalDist().inv_cdf((1 + LEVEL) / 2)
    factor = _student(normal, units - 1) / normal * np.sqrt(units / (units - 1))
    return middle - (middle - low) * factor, middle + (high - middle) * factor


def _student(z: float, degrees: int) -> float:
    """Return Student's t at the probability of the normal `z`: Abramowitz and Stegun, 26.7.5, two terms."""
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def _draws(times: Ints, *, by_days: bool) -> tuple[list[Ints], int]:
    """Return the rows of each bootstrap sample, and the number of units that are drawn."""
    rng = np.random.default_rng(_SEED)
    if not by_days:
        return list(rng.integers(0, len(times), (DRAWS, len(times)))), len(times)
    days, row = np.unique(times // DAY_MS, return_inverse=True)
    of_day = [np.flatnonzero(row == day) for day in range(len(days))]
    chosen = rng.integers(0, len(days), (DRAWS, len(days)))
    return [np.concatenate([of_day[day] for day in drawn]) for drawn in chosen], len(days)


def _estimate(
    times: Ints,
    statistic: Callable[[Ints], float],
    *,
    by_days: bool,
) -> FittedCost:
    everything = np.arange(len(times))
    draws, units = _draws(times, by_days=by_days)
    value = statistic(everything)
    if units < 2:
        return FittedCost(value, value, value, len(times))
    low, high = _interval(np.array([statistic(rows) for rows in draws]), units)
    return FittedCost(value, min(float(low), value), max(float(high), value), len(times))


def _ratio(rows: Sequence[tuple[int, float, float]], *, by_days: bool) -> FittedCost | None:
    """FittedCost the sum of the second value over that of the third."""
    if not rows:
        return None
    times = np.array([row[0] for row in rows])
    above, below = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
    return _estimate(times, lambda drawn: float(above[drawn].sum() / below[drawn].sum()), by_days=by_days)


def paper_section(fit: CostFit) -> str:
    """Return `[paper]` and `[costs]` as TOML.

    The paper exchange has one latency and no share of maker fills: which limit orders fill follows from the
    prices (`limit_fill`). A comment states what the section can't.
    """
    costs: dict[str, str] = {
        "half_spread_bps": repr(float(f"{fit.half_spread_bps.value:.4g}")),
        "slippage": "square_root",
        "impact": repr(float(f"{fit.impact.value:.4g}")),
        "latency": str(round(fit.latency.value)),
    }
    if fit.taker_fee is not None:
        costs["taker_fee"] = _plain(fit.taker_fee.value)
    if fit.maker_fee is not None:
        costs["maker_fee"] = _plain(fit.maker_fee.value)
    quoted = {name: f'"{costs[name]}"' for name in ("slippage", "taker_fee", "maker_fee") if name in costs}
    written = costs | quoted | {"latency": f'"{costs["latency"]}ms"'}
    lines = [
        f"# Fitted by `tapewire costs fit` from {fit.half_spread_bps.count:,} market orders; intervals of "
        f"{round(LEVEL * 100)} % from resampled {fit.resampled}.",
        f"# Not expressed here: how the latency varies (90 % within {fit.latency_p90:,.0f} ms, 99 % within",
        f"# {fit.latency_p99:,.0f} ms); the median is written.",
    ]
    if fit.maker_share is not None:
        share = fit.maker_share
        lines.append(
            f"# Not expressed here: the share of limit orders that filled as makers, {share.value:.0%} "
            f"({share.low:.0%} to {share.high:.0%}, {share.count:,} orders)."
        )
    lines += ["[paper]", *(f"{name} = {value}" for name, value in written.items()), ""]
    runs = ", ".join(f'"{run}"' for run in fit.runs)
    lines += ["[costs]", f"runs = [{runs}]", f"fills = {fit.half_spread_bps.count}"]
    for name, estimate in (
        ("half_spread_bps", fit.half_spread_bps),
        ("impact", fit.impact),
        ("latency", fit.latency),
    ):
        lines.append(f"{name} = [{float(estimate.low)!r}, {float(estimate.high)!r}]")
    lines += ["", "[costs.fitted]", *(f'{name} = "{value}"' for name, value in costs.items())]
    return "\n".join(lines) + "\n"


def _plain(value: float) -> str:
    return f"{value:.8f}".rstrip("0").rstrip(".")
