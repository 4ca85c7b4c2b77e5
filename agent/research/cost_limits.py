"""Cost check: the return at other costs and latencies, and the cost and latency at which it reaches zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import product
from typing import Final

import msgspec

from agent.config import Config
from agent.config.costs import changed_costs, costs_in_words
from agent.core.events import DAY_MS
from agent.core.instruments import instrument_for
from agent.research.parallel import Advance
from agent.research.replay_inputs import ReplayInputs, clear_window_cache
from agent.research.replay_variants import (
    Variant,
    VariantResult,
    count_check,
    replay_variant,
    replay_variants,
)

LATENCIES: Final = (0, 250, 5_000, 60_000)
FACTORS: Final = (0.0, 1.0, 2.0, 4.0)
MARGIN: Final = 1.5
"""Multiple of the configured costs that the edge should survive, because these are estimates."""

_MAX_FACTOR: Final = 64.0
_PRECISION: Final = 0.02  # relative, of both limits
MAX_SEARCH_REPLAYS: Final = 32
"""Upper bound of the replays that find the two limits and try the fitted intervals."""


class CostCell(msgspec.Struct, frozen=True):
    """One row of the table.

    `fees` and `slippage` (with the spread) are multiples of the configured ones, `latency` is in ms.
    """

    latency: int
    fees: float
    slippage: float
    total_return: float
    trades: int


class FittedCosts(msgspec.Struct, frozen=True):
    """Total returns at both ends of the intervals of costs that were fitted to fills (`[costs]`).

    At the `low` end spread, impact and latency are all as small as their intervals allow, at the `high` end
    as large.
    """

    costs: str  # whose they are
    low: float
    high: float


class CostCheck(msgspec.Struct, frozen=True):
    """Result of the check. It passes by `fitted` if there are intervals, else by `margin`.

    - `total_return`, `round_trip` (a fraction of the notional): at the configured costs.
    - `break_even`: multiple of the configured fees, spread and slippage at which the total return reaches
      zero; 0 if it is a loss even without costs, None if it is a gain even at 64 times.
    - `break_even_round_trip`: the cost of a round trip there.
    - `latest`: latency (ms) at which the total return reaches zero; None if it is a gain even at a day's
      latency, 0 if it is a loss at the configured costs.
    """

    passed: bool
    strategy: str
    margin: float
    total_return: float
    round_trip: float | None
    break_even: float | None
    break_even_round_trip: float | None
    latest: int | None
    table: list[CostCell]
    costs: str = "default"  # whose costs the configuration uses
    fitted: FittedCosts | None = None


def check_costs(
    inputs: ReplayInputs,
    *,
    latencies: Sequence[int] = LATENCIES,
    fees: Sequence[float] = FACTORS,
    slippage: Sequence[float] = FACTORS,
    margin: float = MARGIN,
    jobs: int = 1,
    advance: Advance | None = None,
) -> CostCheck:
    """Replay settled `inputs` at all combinations, then search the limits.

    It passes if the edge survives `margin` times the costs; if the costs were fitted to fills and have not
    been changed since, it passes if the edge survives the upper ends of their intervals.
    """
    config = inputs.config
    points = list(product(latencies, fees, slippage))
    variants = [
        Variant(with_costs(config, latency=point[0], fees=point[1], slippage=point[2])) for point in points
    ]
    replayed = replay_variants(inputs, variants, jobs=jobs, advance=advance)
    table = [
        CostCell(*point, result.total_return, result.trades)
        for point, result in zip(points, replayed, strict=True)
    ]
    results: dict[float, VariantResult] = {}

    def at_factor(factor: float) -> float:
        results[factor] = replay_variant((inputs, Variant(with_costs(config, fees=factor, slippage=factor))))
        return results[factor].total_return

    def at_latency(latency: float) -> float:
        return replay_variant((inputs, Variant(with_costs(config, latency=round(latency))))).total_return

    total_return = at_factor(1.0)
    factor = find_break_even(at_factor, 0.0, 1.0, _MAX_FACTOR)
    own_latency = config.paper.latency
    latest = find_break_even(
        at_latency, float(own_latency), float(max(own_latency * 2, 1_000)), float(DAY_MS)
    )
    fitted = _at_interval(inputs)
    clear_window_cache()
    count_check(inputs, results[1.0].evaluation)
    at_limit = results.get(factor) if factor else None
    return CostCheck(
        passed=total_return > 0
        and (factor is None or factor > margin if fitted is None else fitted.high > 0),
        strategy=config.strategy.name,
        margin=margin,
        total_return=total_return,
        round_trip=results[1.0].cost,
        break_even=factor,
        break_even_round_trip=at_limit.cost if at_limit else None,
        latest=None if latest is None else round(latest) if total_return > 0 else 0,
        table=table,
        costs=costs_in_words(config.paper, config.costs),
        fitted=fitted,
    )


def _at_interval(inputs: ReplayInputs) -> FittedCosts | None:
    """Return the returns at the ends of the fitted intervals; None if a fitted value was changed."""
    config = inputs.config
    intervals = {
        name: interval
        for name in ("half_spread_bps", "impact", "latency")
        if (interval := getattr(config.costs, name)) is not None
    }
    if not intervals or changed_costs(config.paper, config.costs):
        return None

    def at(end: int) -> float:
        ends = {name: interval[end] for name, interval in intervals.items()}
        if "latency" in ends:
            ends["latency"] = round(ends["latency"])
        paper = config.paper.model_copy(update=ends)
        return replay_variant((inputs, Variant(config.model_copy(update={"paper": paper})))).total_return

    return FittedCosts(costs_in_words(config.paper, config.costs), at(0), at(1))


def with_costs(
    config: Config, *, latency: int | None = None, fees: float = 1.0, slippage: float = 1.0
) -> Config:
    """Return `config` with another latency (ms), and fees, spread and slippage multiplied."""
    paper = config.paper
    rules = instrument_for(config.market.symbols[0], config)
    fee_factor = Decimal(repr(fees))
    changed = paper.model_copy(
        update={
            "latency": paper.latency if latency is None else latency,
            "maker_fee": rules.maker_fee * fee_factor,
            "taker_fee": rules.taker_fee * fee_factor,
            "per_share_fee": paper.per_share_fee * fee_factor,
            "half_spread_bps": paper.half_spread_bps * slippage,
            "slippage_bps": paper.slippage_bps * slippage,
            "impact": paper.impact * slippage,
        }
    )
    return config.model_copy(update={"paper": changed})


def find_break_even(value: Callable[[float], float], low: float, step: float, most: float) -> float | None:
    """Find where the falling function `value` reaches zero, by doubling and bisection.

    Returns `low` if the value is not above zero there, None if it is still above zero at `most`. The search
    doubles the argument from `step` on until the value is gone. Then it halves the interval until this is
    2 % of its upper end, which is returned.
    """
    if value(low) <= 0:
        return low
    high = max(step, 2 * low)
    while value(high) > 0:
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > _PRECISION * high:
        middle = (low + high) / 2
        low, high = (low, middle) if value(middle) <= 0 else (middle, high)
    return high
