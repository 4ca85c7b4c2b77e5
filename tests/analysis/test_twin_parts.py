"""The parts of an order's difference: values by hand, and sums that are exact for all fills."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.analysis.twin_parts import (
    Cause,
    CostRules,
    Handover,
    Move,
    OrderAttribution,
    OrderFacts,
    OrderParts,
    TwinFill,
    exact,
)
from agent.analysis.twin_report import (
    Boundary,
    FundingMove,
    TwinRecord,
    attribute_run,
    funding_parts,
    waterfall,
)
from agent.core.errors import ReconciliationError
from agent.core.events import Fill, FundingPayment, OrderType, Side
from agent.core.instruments import instrument_for
from agent.core.portfolio import Portfolio
from tests.support.market import SYMBOL, T0, config

D = Decimal
RULES = CostRules(instrument_for(SYMBOL, config()), 1e-4)  # a tick of 0.01, half a spread of 1 bp


def facts(side: Side = Side.BUY, kind: OrderType = OrderType.MARKET, **more: Any) -> OrderFacts:
    given: dict[str, Any] = {"limit": None, "missing": "partial"} | more
    return OrderFacts("o", SYMBOL, T0, side, kind, D(2), given["limit"], given["missing"])


def venue(price: str, market: str, qty: str = "2", **more: Any) -> TwinFill:
    return fill(True, price, market, qty, **more)


def paper(price: str, market: str, qty: str = "2", **more: Any) -> TwinFill:
    return fill(False, price, market, qty, **more)


def fill(at_venue: bool, price: str, market: str, qty: str, **more: Any) -> TwinFill:
    given: dict[str, Any] = {
        "seq": 1,
        "ts": T0 + 1_000,
        "side": Side.BUY,
        "fee": D(0),
        "maker": False,
    } | more
    return TwinFill(venue=at_venue, price=D(price), market=D(market), qty=D(qty), **given)


def parts(order: OrderFacts, *moves: Move, mark: str = "100", holes: Any = ()) -> OrderParts:
    found = OrderAttribution(order, RULES, holes).attribute(moves, D(mark))
    assert found.total == found.difference
    return found


def test_the_example_of_the_documentation() -> None:
    # The market stands at 100.00 when paper buys 2, at 100.10 when the venue does. The model charges 1 bp:
    # 100.00 + 0.0100 = 100.01 on paper, and at the venue's moment 100.10 + 0.01001, rounded up to 100.12.
    # The venue's price is 100.15, its fee 0.12 against 0.11.
    found = parts(
        facts(),
        paper("100.01", "100.00", fee=D("0.11")),
        venue("100.15", "100.10", fee=D("0.12"), ts=T0 + 3_000),
    )
    assert found.difference == D("-0.29")  # -2 * (100.15 - 100.01) - 0.01
    assert found.causes == {
        "spread": D("-0.06"),  # -2 * (100.15 - 100.12)
        "rounding": D("-0.01998"),  # -2 * (0.00999 - 0)
        "latency": D("-0.20002"),  # -2 * (100.10 + 0.01001 - 100.00 - 0.01)
        "fee": D("-0.01"),
    }


@pytest.mark.parametrize(
    ("what", "order", "moves", "expected"),
    [
        ("equal fills differ by nothing", facts(), [paper("100.01", "100"), venue("100.01", "100")], {}),
        (
            "a fee that was rounded is no other fee",
            facts(),
            [paper("100.01", "100", fee=D("0.1100001")), venue("100.01", "100", fee=D("0.11"))],
            {"rounding": D("0.0000001")},
        ),
        (
            "a sale at a worse price is a loss",
            facts(Side.SELL),
            [paper("99.99", "100", side=Side.SELL), venue("99.90", "100", side=Side.SELL)],
            {"spread": D("-0.18")},
        ),
        (
            "executions at several prices show the impact",
            facts(),
            [paper("100.01", "100"), venue("100.01", "100", "1"), venue("100.05", "100", "1")],
            {"impact": D("-0.04")},
        ),
        (
            "a limit order that only the venue fills: its fee at once, the price's move as divergence",
            facts(kind=OrderType.LIMIT, limit=D(99), missing="limit"),
            [venue("99", "99", fee=D("0.04"), maker=True)],
            {"limit": D("-0.04"), "positions": D(2)},
        ),
        (
            "a limit order that only paper fills",
            facts(kind=OrderType.LIMIT, limit=D(99), missing="limit"),
            [paper("99", "99", fee=D("0.04"), maker=True)],
            {"limit": D("0.04"), "positions": D(-2)},
        ),
        (
            "a limit order that the venue fills better",
            facts(kind=OrderType.LIMIT, limit=D(99), missing="limit"),
            [paper("99", "99", maker=True), venue("98.90", "98.89")],
            {"limit": D("0.20")},
        ),
        (
            "the rest of an order at a later moment is of its partial fills",
            facts(),
            [
                paper("100.01", "100"),
                venue("100.01", "100", "1"),
                venue("101.02", "101", "1", ts=T0 + 60_000),
            ],
            {"partial": D("-1.0001"), "rounding": D("-0.0099")},
        ),
        (
            "a quantity that the venue lacks until the next decision",
            facts(),
            [paper("100.01", "100", fee=D("0.1")), Handover(2, D(103))],
            {"partial": D("0.12"), "positions": D(-6)},
        ),
        (
            "a rejected order",
            facts(missing="rejected"),
            [paper("100.01", "100", fee=D("0.1")), Handover(2, D(100))],
            {"rejected": D("0.12")},
        ),
        (
            "a fee in base coin",
            facts(),
            [
                paper("100.01", "100"),
                venue("100.01", "100"),
                venue("98", "98", "0.002", side=Side.SELL, is_fee=True),
            ],
            {"positions": D("-0.004")},
        ),
    ],
)
def test_causes(what: str, order: OrderFacts, moves: list[Move], expected: dict[Cause, Decimal]) -> None:
    assert parts(order, *moves).causes == expected, what


def test_fills_around_a_hole_in_the_data_are_of_the_data() -> None:
    moves = paper("100.01", "100", ts=T0 + 60_000), venue("102", "100", ts=T0 + 30_000)
    assert parts(facts(), *moves, holes=[(T0, T0 + 60_000)]).causes == {"data": D("-3.98")}
    assert "data" not in parts(facts(), *moves, holes=[(T0 + 60_000, T0 + 120_000)]).causes
    only = venue("102", "100", ts=T0 + 30_000)
    assert parts(facts(), only, holes=[(T0, T0 + 60_000)]).causes == {"data": D(-4)}


def test_positions_are_divided_by_what_opened_them() -> None:
    order = facts(kind=OrderType.LIMIT, missing="limit")
    moves = venue("99", "99", "1", maker=True), Handover(2, D(98)), venue("97", "97", "1", maker=True)
    found = parts(order, *moves)
    assert found.causes == {"positions": D(2)}  # -1 until the handover, then 100 - 97
    assert found.origins == {"limit": D(2)}
    assert found.open


prices = st.decimals("90", "110", places=2)
quantities = st.decimals("0.001", "5", places=3)
fees = st.decimals("-1", "1", places=8)


@st.composite
def orders(draw: st.DrawFn) -> tuple[OrderFacts, list[Move]]:
    side = draw(st.sampled_from(list(Side)))
    kind = draw(st.sampled_from(list(OrderType)))
    order = OrderFacts(
        "o",
        SYMBOL,
        T0,
        side,
        kind,
        D(1),
        draw(prices) if kind is OrderType.LIMIT else None,
        draw(st.sampled_from(("partial", "limit", "rejected", "undecided"))),
    )
    moves: list[Move] = []
    for seq in range(1, draw(st.integers(1, 8)) + 1):
        if draw(st.integers(0, 5)) == 0:
            moves.append(Handover(seq, draw(prices)))
            continue
        at_venue, maker = draw(st.booleans()), draw(st.booleans())
        price = draw(prices)
        moves.append(
            TwinFill(
                seq,
                T0 + draw(st.integers(0, 4)) * 20_000,
                at_venue,
                side,
                draw(quantities),
                price,
                draw(fees),
                maker,
                price if maker else draw(prices),
                draw(st.floats(0, 0.5)),
                is_fee=at_venue and draw(st.integers(0, 9)) == 0,
            )
        )
    return order, moves


@given(orders(), prices, st.booleans())
def test_the_parts_of_any_order_add_up_to_its_cash_flows(
    made: tuple[OrderFacts, list[Move]], mark: Decimal, has_hole: bool
) -> None:
    order, moves = made
    found = parts(order, *moves, mark=str(mark), holes=[(T0 + 20_000, T0 + 40_000)] if has_hole else ())
    with exact():
        assert sum(found.origins.values(), D(0)) == found.causes.get("positions", D(0))


@given(st.lists(orders(), min_size=1, max_size=5), st.lists(prices, min_size=9, max_size=9))
def test_every_day_adds_up_to_the_difference_of_two_ledgers(
    made: list[tuple[OrderFacts, list[Move]]], marks: list[Decimal]
) -> None:
    """One event a day; the ledgers are `Portfolio`s, which know no causes."""
    named = {f"o{n}": (replace(order, id=f"o{n}"), moves) for n, (order, moves) in enumerate(made)}
    record = record_of(named, marks)
    report = attribute_run(record)
    with exact():
        assert sum((day.difference for day in report.days), D(0)) == report.difference
        for day in report.days:
            assert sum(day.causes.values(), D(0)) == day.difference
        assert sum((order.difference for order in report.orders), D(0)) == report.difference
        assert sum(report.causes.values(), D(0)) == report.difference
    steps = waterfall(report).steps
    assert (steps[0].amount, steps[-1].amount) == (report.twin_equity, report.venue_equity)
    assert all(step.amount for step in steps[1:-1])
    with exact():
        assert sum((step.amount for step in steps[:-1]), D(0)) == steps[-1].amount


def record_of(named: dict[str, tuple[OrderFacts, list[Move]]], marks: list[Decimal]) -> TwinRecord:
    ledgers = {True: Portfolio(D(1_000), [SYMBOL]), False: Portfolio(D(1_000), [SYMBOL])}
    boundaries = []
    with exact():
        for seq in range(9):
            for order, moves in named.values():
                held = D(0)  # by the venue alone, since the last handover
                for move in moves:
                    if isinstance(move, Handover):
                        if move.seq == seq:
                            book(
                                ledgers[False],
                                Side.BUY if held > 0 else Side.SELL,
                                abs(held),
                                move.mark,
                                D(0),
                            )
                        held = D(0)
                        continue
                    held += (1 if move.venue else -1) * move.side.sign * move.qty
                    if move.seq == seq:
                        book(ledgers[move.venue], move.side, move.qty, move.price, move.fee)
                assert order.symbol == SYMBOL
            for ledger in ledgers.values():
                ledger.positions[SYMBOL].mark = float(marks[seq])
            boundaries.append(
                Boundary(
                    seq,
                    f"day {seq}",
                    {SYMBOL: marks[seq]},
                    ledgers[True].exact_equity(),
                    ledgers[False].exact_equity(),
                    None,
                )
            )
    return TwinRecord(
        run="run",
        venue="venue",
        currency="USDT",
        costs="default",
        initial=D(1_000),
        orders={id: order for id, (order, _) in named.items()},
        moves={id: moves for id, (_, moves) in named.items()},
        funding=[],
        boundaries=boundaries,
        rules={SYMBOL: RULES},
        holes={},
        first_different=None,
        notes=[],
    )


def book(ledger: Portfolio, side: Side, qty: Decimal, price: Decimal, fee: Decimal) -> None:
    if qty:
        ledger.apply(Fill("", "", SYMBOL, T0, T0, side, qty, price, fee))


def test_a_difference_that_the_parts_do_not_explain_is_an_error() -> None:
    record = record_of({"o0": (facts(), [venue("100", "100")])}, [D(100)] * 9)
    last = record.boundaries[-1]
    record.boundaries[-1] = Boundary(
        last.seq, last.day, last.marks, last.venue + D("0.01"), last.paper, last.anew
    )
    with pytest.raises(ReconciliationError, match="add up to"):
        attribute_run(record)


amounts = st.decimals("-100", "100", places=8)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.booleans(), amounts, prices, st.decimals("-0.01", "0.01", places=6)),
        max_size=6,
    ),
    amounts,
)
def test_funding_adds_up(stamps: list[tuple[int, bool, Decimal, Decimal, Decimal]], off: Decimal) -> None:
    moves = []
    with exact():
        for ts, at_venue, qty, mark, rate in stamps:
            amount = -qty * mark * rate + (off if at_venue else 0)
            moves.append(FundingMove(1, SYMBOL, ts, at_venue, qty, mark, rate, amount))
        total = sum((m.amount if m.venue else -m.amount for m in moves), D(0))
        assert sum(funding_parts(moves).values(), D(0)) == total


def test_funding_at_another_rate_and_of_another_position() -> None:
    # 2 held at the venue, 1 on paper; the venue's rate is 0.0003 on 100, paper's 0.0001 on 99
    moves = [
        FundingMove(1, SYMBOL, T0, True, D(2), D(100), D("0.0003"), D("-0.06")),
        FundingMove(1, SYMBOL, T0, False, D(1), D(99), D("0.0001"), D("-0.0099")),
    ]
    assert funding_parts(moves) == {"funding": D("-0.0201"), "positions": D("-0.03")}
    assert FundingPayment(SYMBOL, T0, D(0), D(0), D(0), D(0)).amount == 0
