"""Results by sleeve, with figures computed by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest

from agent.analysis.sleeve_study import InternalTally, SleeveHistory, study_sleeves
from agent.core.events import DAY_MS, Fill, FillKind, FundingPayment, Side
from tests.support.market import SYMBOL, T0
from tests.support.sleeves import sleeve, sleeved_config


def history(*equity: float) -> SleeveHistory:
    """Return a sleeve with one sample at the end of each day."""
    own = SleeveHistory()
    own.extend([T0 + (day + 1) * DAY_MS for day in range(len(equity))], list(equity))
    return own


def fill(number: int, side: Side, price: str, kind: FillKind = FillKind.TRADE) -> Fill:
    return Fill(
        f"f{number}",
        f"o{number}",
        SYMBOL,
        T0,
        T0,
        side,
        Decimal(2),
        Decimal(price),
        Decimal("0.5"),
        kind=kind,
    )


def test_contributions_add_up_to_the_account_and_shares_of_the_risk_to_one() -> None:
    config = sleeved_config(sleeve("up", 0.5), sleeve("down", 0.25))
    # the account has 10,000; up earns 100, -50, 100, -50, 100 and down the opposite of half of it
    up = history(5_100, 5_050, 5_150, 5_100, 5_200)
    down = history(2_450, 2_475, 2_425, 2_450, 2_400)
    study = study_sleeves(config, {"down": down, "up": up}, InternalTally(config).totals)
    first, second = study.sleeves
    assert (first.name, second.name) == ("up", "down")  # as configured
    assert study.idle == 2_500
    assert (first.profit, first.total_return, first.contribution) == (200, pytest.approx(0.04), 0.02)
    assert (second.profit, second.total_return, second.contribution) == (-100, pytest.approx(-0.04), -0.01)
    # down's profits are -0.5 times up's, and the account's +0.5 times: shares 2 and -1, but for the equity
    # before each day, which is within 1 % of 10,000
    assert first.risk == pytest.approx(2, abs=0.01)
    assert second.risk == pytest.approx(-1, abs=0.01)
    assert (first.risk or 0) + (second.risk or 0) == pytest.approx(1)
    assert study.correlation["up"]["down"] == pytest.approx(-1, abs=0.01)
    assert study.correlation["up"]["up"] == pytest.approx(1)
    assert first.max_drawdown == pytest.approx(5_050 / 5_100 - 1)
    assert second.max_drawdown == pytest.approx(2_400 / 2_500 - 1)  # from its capital


def test_fewer_than_five_days_have_no_statistics() -> None:
    config = sleeved_config(sleeve("x", 0.5), sleeve("y", 0.5))
    parts = {"x": history(5_100, 5_050, 5_000, 4_900), "y": history(5_000, 5_100, 5_000, 5_050)}
    study = study_sleeves(config, parts, InternalTally(config).totals)
    assert [(one.risk, one.sharpe) for one in study.sleeves] == [(None, None)] * 2
    assert study.correlation["x"]["y"] is None
    assert study.sleeves[0].profit == -100


def test_costs_and_round_trips_are_those_of_the_sleeves_own_fills() -> None:
    config = sleeved_config(sleeve("x", 0.5))
    own = history(5_000, 5_008)
    for one in (
        fill(1, Side.BUY, "100"),
        FundingPayment(SYMBOL, T0, Decimal("0.001"), Decimal(2), Decimal(100), Decimal("-0.2")),
        fill(2, Side.SELL, "105", FillKind.INTERNAL),
    ):
        own.add(one)
    (result,) = study_sleeves(config, {"x": own}, InternalTally(config).totals).sleeves
    assert (result.trades, result.win_rate) == (1, 1.0)
    assert (result.fees, result.funding) == (Decimal("1.0"), Decimal("-0.2"))


def test_a_sleeve_that_was_added_while_running_begins_with_its_first_sample() -> None:
    config = sleeved_config(sleeve("x", 0.5))
    late = SleeveHistory()
    late.extend([T0 + 3 * DAY_MS, T0 + 4 * DAY_MS], [1_000.0, 1_100.0])
    study = study_sleeves(
        config, {"late": late, "x": history(5_000, 5_100, 5_000, 5_050)}, InternalTally(config).totals
    )
    assert [one.name for one in study.sleeves] == ["x", "late"]
    assert study.sleeves[1].profit == pytest.approx(100)
    assert study.sleeves[1].contribution == pytest.approx(0.01)


def test_internal_crosses_are_counted_once_with_the_fees_of_both_sides() -> None:
    fees = {"fees": "maker_taker", "taker_fee": "0.001"}
    config = sleeved_config(sleeve("x", 0.5), sleeve("y", 0.5), paper=fees)
    tally = InternalTally(config)
    for one in (
        fill(1, Side.BUY, "100"),
        fill(2, Side.BUY, "100", FillKind.INTERNAL),
        fill(3, Side.SELL, "100", FillKind.INTERNAL),
    ):
        tally.add(one)
    # 2 at 100 is 200, and 0.1 % of that on each side
    assert (tally.totals.count, tally.totals.value, tally.totals.fees_saved) == (1, 200, Decimal("0.4"))


def test_a_sleeve_whose_symbols_had_no_bar_has_kept_its_capital() -> None:
    config = sleeved_config(sleeve("x", 0.5), sleeve("y", 0.3), sleeve("off", 0.1, enabled=False))
    study = study_sleeves(config, {"x": history(5_100, 5_000)}, InternalTally(config).totals)
    assert [(one.name, one.final_equity) for one in study.sleeves] == [("x", 5_000), ("y", 3_000)]
    assert study.idle == 2_000
