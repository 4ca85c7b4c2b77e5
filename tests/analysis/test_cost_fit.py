"""Fitted costs cover the planted ones, and the section that is written is a configuration."""

from __future__ import annotations

import random
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.analysis.cost_fit import FEWEST, FillSamples, TakerSample, fit_costs, paper_section
from agent.analysis.twin_parts import CostRules
from agent.config import Config, parse
from agent.config.costs import costs_in_words
from agent.core.errors import DataError
from agent.core.events import DAY_MS, Side
from agent.core.fill_models import SquareRootImpact
from agent.core.instruments import instrument_for
from tests.support.market import SYMBOL, T0, bar, config

SEEDS = 10
ENOUGH = 9


def in_words(settings: Config) -> str:
    return costs_in_words(settings.paper, settings.costs)


def planted(
    seed: int, *, half_spread_bps: float, impact: float, latency: float, orders: int = 400, days: int = 1
) -> FillSamples:
    """Return fills by the paper exchange's own formula at prices that have moved since they were streamed."""
    rng = random.Random(seed)
    instrument = instrument_for(SYMBOL, config()).replace(tick_size=Decimal("0.001"))
    rules = CostRules(instrument, half_spread_bps * 1e-4)
    model = SquareRootImpact(impact)
    samples = FillSamples()
    for number in range(orders):
        price = round(rng.uniform(90, 110), 2)
        low, volume = price * (1 - rng.lognormvariate(-7, 0.5)), rng.lognormvariate(5, 1)
        qty = rng.uniform(0.1, 20)
        kline = bar(number, price, price, low, price, volume)
        met = round(price * (1 + rng.gauss(0, 1e-4)), 2)
        side = rng.choice(list(Side))
        offset = model.offset(kline, met, qty)
        filled = float(rules.price(Decimal(repr(met)), side, offset, None))
        ts = T0 + number * days * DAY_MS // orders
        samples.takers.append(
            TakerSample(
                ts,
                (filled - price) * side.sign / price,
                0.0005 / price,
                (price - low) / price,
                min(qty / volume, 1.0),
            )
        )
        samples.latencies.append((ts, round(latency * rng.lognormvariate(0, 0.5))))
        samples.limits.append((ts, float(rng.random() < 0.7), 1.0))
        samples.taker_fees.append((ts, 0.00055 * price * qty, price * qty))
    return samples


@pytest.mark.slow
@pytest.mark.parametrize("days", [1, 20])
@pytest.mark.parametrize(
    ("half_spread_bps", "impact", "latency"), [(0.5, 0.3, 250), (3.0, 1.0, 2_000), (1.0, 0.0, 40)]
)
def test_the_intervals_cover_what_was_planted(
    half_spread_bps: float, impact: float, latency: float, days: int
) -> None:
    covered = {"half_spread_bps": 0, "impact": 0, "latency": 0, "maker_share": 0}
    for seed in range(SEEDS):
        samples = planted(seed, half_spread_bps=half_spread_bps, impact=impact, latency=latency, days=days)
        fit = fit_costs(["run"], samples)
        assert fit.resampled == ("days" if days == 20 else "orders")
        for name, value in (
            ("half_spread_bps", half_spread_bps),
            ("impact", impact),
            ("latency", latency),
            ("maker_share", 0.7),
        ):
            estimate = getattr(fit, name)
            covered[name] += estimate.low <= value <= estimate.high
            assert estimate.low <= estimate.value <= estimate.high
            assert estimate.count == 400
    assert min(covered.values()) >= ENOUGH, covered


def test_intervals_exclude_what_was_not_planted() -> None:
    fit = fit_costs(["run"], planted(1, half_spread_bps=3.0, impact=1.0, latency=2_000))
    assert fit.half_spread_bps.low > 1.0
    assert fit.impact.low > 0.3
    assert fit.latency.low > 1_000


def test_the_section_is_a_configuration_that_states_its_evidence(tmp_path: Path) -> None:
    fit = fit_costs(["20250101-a", "20250102-b"], planted(1, half_spread_bps=3.0, impact=1.0, latency=2_000))
    section = paper_section(fit)
    raw = tomllib.loads(section)
    settings = parse(raw, where="costs.toml")
    assert settings.paper.half_spread_bps == pytest.approx(fit.half_spread_bps.value, rel=1e-3)
    assert settings.paper.impact == pytest.approx(fit.impact.value, rel=1e-3)
    assert settings.paper.latency == round(fit.latency.value)
    assert settings.paper.taker_fee == Decimal("0.00055")
    assert settings.paper.maker_fee is None
    assert settings.costs.half_spread_bps == (fit.half_spread_bps.low, fit.half_spread_bps.high)
    assert in_words(settings) == "fitted from 400 fills of runs 20250101-a, 20250102-b"
    assert "filled as makers, " in section
    raw["paper"]["impact"] = 0.1
    assert in_words(parse(raw, where="x")).endswith("but impact changed since")


def test_in_words() -> None:
    assert in_words(parse({}, where="x")) == "default"
    given = parse({"paper": {"impact": 0.5, "latency": "1s", "max_participation": 0.5}}, where="x")
    assert in_words(given) == "given in the configuration (impact, latency)"


def test_too_few_fills_are_refused_with_the_reason() -> None:
    samples = planted(1, half_spread_bps=1.0, impact=0.3, latency=100, orders=FEWEST - 1)
    samples.leave_out("in bars that the run lacks", 3)
    with pytest.raises(DataError, match="9 market orders can be measured, fewer than 10; 3 in bars that"):
        fit_costs(["run"], samples)


def test_a_spread_below_zero_is_none() -> None:
    rows = [TakerSample(T0 + n, -0.001, 0.0, 0.001 * (n % 3), 0.1) for n in range(20)]
    samples = FillSamples(rows, [(T0, 100)] * 20)
    fit = fit_costs(["run"], samples)
    assert fit.half_spread_bps.value == fit.impact.value == 0
    assert fit.maker_share is fit.taker_fee is fit.maker_fee is None


def test_a_coarse_tick_widens_the_interval_of_the_spread() -> None:
    samples = planted(1, half_spread_bps=1.0, impact=0.3, latency=100)
    fine = fit_costs(["run"], samples).half_spread_bps
    samples.takers = [replace(one, half_tick=one.half_tick + 1e-4) for one in samples.takers]
    coarse = fit_costs(["run"], samples).half_spread_bps
    assert coarse.value == pytest.approx(fine.value - 1.0)
    assert coarse.high - coarse.value == pytest.approx(fine.high - fine.value + 1.0)
