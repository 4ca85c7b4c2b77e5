"""How much cost and delay an edge bears: a table of returns, and by bisection where it is gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import product
from typing import Final

import msgspec

from agent.config import Config
from agent.core.events import DAY_MS
from agent.core.instruments import instrument_for
from agent.research.material import Material, release
from agent.research.variants import Outcome, Variant, rehearse, rehearse_all
from agent.research.workers import Advance

LATENCIES: Final = (0, 250, 5_000, 60_000)
FACTORS: Final = (0.0, 1.0, 2.0, 4.0)
MARGIN: Final = 1.5
"""The edge should bear so many times the costs that are assumed: they are an estimate."""

_MOST: Final = 64.0  # times the assumed costs; beyond it nobody asks
_PRECISION: Final = 0.02  # of the factor, as a share of it
STEPS: Final = 30
"""At most so many replays find the two limits."""


class Cell(msgspec.Struct, frozen=True):
    """One row of the table. `fees` and `slippage` (with the spread) are multiples of what is configured, `latency` in ms."""

    latency: int
    fees: float
    slippage: float
    total_return: float
    trades: int


class Costs(msgspec.Struct, frozen=True):
    """What was found. `total_return` and `round_trip` (a fraction of the notional) are at the configured costs.

    - `break_even`: times the configured fees, spread and slippage at which the total return is gone; 0 where there is none even
      without costs, None where it bears 64 times as much. `break_even_round_trip` is the cost of a round trip there.
    - `latest`: the latency (ms) at which it is gone, None where it bears a day; 0 where there is nothing to lose.
    """

    passed: bool
    strategy: str
    margin: float
    total_return: float
    round_trip: float | None
    break_even: float | None
    break_even_round_trip: float | None
    latest: int | None
    table: list[Cell]


def check_costs(
    material: Material,
    *,
    latencies: Sequence[int] = LATENCIES,
    fees: Sequence[float] = FACTORS,
    slippage: Sequence[float] = FACTORS,
    margin: float = MARGIN,
    jobs: int = 1,
    advance: Advance | None = None,
) -> Costs:
    """Replay a settled `material` under every combination, then search where nothing is left. Passed: beyond `margin`."""
    config = material.config
    points = list(product(latencies, fees, slippage))
    variants = [
        Variant(dearer(config, latency=point[0], fees=point[1], slippage=point[2])) for point in points
    ]
    table = [
        Cell(*point, outcome.total_return, outcome.trades)
        for point, outcome in zip(
            points, rehearse_all(material, variants, jobs=jobs, advance=advance), strict=True
        )
    ]
    outcomes: dict[float, Outcome] = {}

    def at_factor(factor: float) -> float:
        outcomes[factor] = rehearse((material, Variant(dearer(config, fees=factor, slippage=factor))))
        return outcomes[factor].total_return

    def at_latency(latency: float) -> float:
        return rehearse((material, Variant(dearer(config, latency=round(latency))))).total_return

    own = at_factor(1.0)
    factor = zero_of(at_factor, 0.0, 1.0, _MOST)
    latest = zero_of(
        at_latency, float(config.paper.latency), float(max(config.paper.latency * 2, 1_000)), float(DAY_MS)
    )
    release()
    dear = outcomes.get(factor) if factor else None
    return Costs(
        passed=own > 0 and (factor is None or factor > margin),
        strategy=config.strategy.name,
        margin=margin,
        total_return=own,
        round_trip=outcomes[1.0].cost,
        break_even=factor,
        break_even_round_trip=dear.cost if dear else None,
        latest=None if latest is None else round(latest) if own > 0 else 0,
        table=table,
    )


def dearer(config: Config, *, latency: int | None = None, fees: float = 1.0, slippage: float = 1.0) -> Config:
    """`config` with another latency (ms), its fees `fees` times as high, its spread and slippage `slippage` times."""
    paper = config.paper
    rules = instrument_for(config.market.symbols[0], config)
    times = Decimal(repr(fees))
    changed = paper.model_copy(
        update={
            "latency": paper.latency if latency is None else latency,
            "maker_fee": rules.maker_fee * times,
            "taker_fee": rules.taker_fee * times,
            "per_share_fee": paper.per_share_fee * times,
            "half_spread_bps": paper.half_spread_bps * slippage,
            "slippage_bps": paper.slippage_bps * slippage,
            "impact": paper.impact * slippage,
        }
    )
    return config.model_copy(update={"paper": changed})


def zero_of(value: Callable[[float], float], low: float, step: float, most: float) -> float | None:
    """Where a falling `value` reaches zero: `low` where it isn't above it there, None where it still is at `most`.

    Doubles from `step` on until the value is gone, then halves the interval to 2 % of its upper end, which is what is returned.
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
