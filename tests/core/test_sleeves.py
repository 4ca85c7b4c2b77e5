"""Several strategies in one account; amounts are computed by hand."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from agent.core.engine import Engine
from agent.core.errors import ConfigError, ReconciliationError, StrategyError
from agent.core.events import (
    MINUTE_MS,
    Command,
    Decision,
    Event,
    Fill,
    FillKind,
    Funding,
    FundingPayment,
    Kline,
    News,
    Order,
    OrderType,
    OrderUpdate,
    Prediction,
    RiskEvent,
    RiskState,
    Sentiment,
    Side,
    Signal,
)
from agent.core.features import WARM_UP_BARS, Features
from agent.core.fusion_inputs import Forecast
from agent.core.orders import WorkingOrder
from agent.core.paper import PaperExchange
from agent.core.sinks import ListSink
from agent.core.strategy import Market, Strategy
from tests.support.market import T0, bar, config, flat_bars, order
from tests.support.sleeves import (
    BTC,
    ETH,
    Steps,
    account,
    fills,
    orders,
    play,
    sleeve,
    sleeved_config,
)

FEES = {"fees": "maker_taker", "taker_fee": "0.001"}


def command(action: str, minute: int, **args: str) -> Command:
    return Command(action, T0 + minute * MINUTE_MS, T0 + minute * MINUTE_MS, args, "test")


def risk_events(sink: ListSink, name: object = UNSET) -> list[tuple[str, str]]:
    return [
        (one.state.value, one.rule)
        for one in sink.decisions
        if isinstance(one, RiskEvent) and one.sleeve == name
    ]


# -- money ---------------------------------------------------------------------------------------------------


def test_two_sleeves_with_a_cross_and_funding_add_up_to_the_cent() -> None:
    # x has 5,000, y has 2,500, and 2,500 stay idle. At 100, x wants 0.5 * 5,000 / 100 = 25 coins, y -7.5:
    # 7.5 cross at 100. x buys 17.5 at the next open, 101, for a fee of 17.5 * 101 * 0.001 = 1.7675
    settings_ = sleeved_config(sleeve("x", 0.5), sleeve("y", 0.25), paper=FEES)
    engine, sink = account(
        settings_, {"x": {0: {"weight": 0.5}}, "y": {0: {"weight": -0.3}, 2: {"weight": 0}}}
    )
    stamp = T0 + 2 * MINUTE_MS
    play(
        engine,
        [
            bar(0, 100, 100, 100, 100),
            bar(1, 101, 102, 101, 102),
            Funding(BTC, stamp, stamp, 0.001),  # at 102: x pays 25 * 0.102, y receives 7.5 * 0.102
            bar(2, 102, 104, 102, 104),
            bar(3, 105, 106, 105, 106),  # y buys back at 105 for a fee of 0.7875
        ],
    )
    engine.finish()
    assert [(one.sleeve, one.kind, one.side, str(one.qty), float(one.price)) for one in fills(sink)] == [
        ("x", FillKind.INTERNAL, Side.BUY, "7.500", 100),
        ("y", FillKind.INTERNAL, Side.SELL, "7.500", 100),
        ("x", FillKind.TRADE, Side.BUY, "17.500", 101),
        ("y", FillKind.TRADE, Side.BUY, "7.500", 105),
    ]
    x, y = engine.results["x"], engine.results["y"]
    assert (x.realised, x.unrealised, x.fees, x.funding) == (
        0,
        Decimal("132.5"),  # 25 * 106 - 7.5 * 100 - 17.5 * 101
        Decimal("1.7675"),
        Decimal("-2.55"),
    )
    assert (y.realised, y.unrealised, y.fees, y.funding) == (
        Decimal("-37.5"),  # 7.5 * (100 - 105)
        0,
        Decimal("0.7875"),
        Decimal("0.765"),
    )
    assert (x.equity, y.equity, engine.idle) == (Decimal("5128.1825"), Decimal("2462.4775"), 2500)
    whole = engine.portfolio
    assert whole.exact_equity() == Decimal("10090.66")
    assert (whole.fees, whole.funding) == (Decimal("2.555"), Decimal("-1.785"))
    # the account was never short: it bought 17.5 at 101 and 7.5 at 105
    assert (whole.realised, whole.positions[BTC].cost) == (0, Decimal("2555"))
    assert whole.turnover == 2555  # the cross is none of it
    crosses = engine.crosses.totals
    assert (crosses.count, crosses.value, crosses.fees_saved) == (1, 750, Decimal("1.5"))
    assert sink.samples[-1].equity == pytest.approx(10_090.66)
    assert {name: samples[-1].equity for name, samples in sink.sleeve_samples.items()} == {
        "x": pytest.approx(5128.1825),
        "y": pytest.approx(2462.4775),
    }


@pytest.mark.parametrize(
    ("steps", "crossed"),
    [
        ({"x": {0: {"weight": 0.2}}, "y": {0: {"weight": 0.2}}}, []),
        ({"x": {0: {"weight": 0.2}}, "y": {1: {"weight": -0.2}}}, []),
        ({"x": {0: {"weight": 0.2}}, "y": {0: {"weight": -0.2, "limit": 100.0}}}, []),
        ({"x": {0: {"weight": 0.2}}, "y": {0: {"weight": -0.1}}}, [("x", "5.000"), ("y", "5.000")]),
        ({"x": {0: {"weight": 0.2}}, "y": {0: {"weight": -0.4}}}, [("x", "10.000"), ("y", "10.000")]),
    ],
    ids=["same side", "a bar later", "a limit order", "smaller sale", "larger sale"],
)
def test_new_market_orders_of_opposite_sides_cross_for_the_smaller_quantity(
    steps: dict[str, Any], crossed: list[tuple[str, str]]
) -> None:
    settings_ = sleeved_config(sleeve("x", 0.5), sleeve("y", 0.5))
    engine, sink = account(settings_, steps)
    play(engine, flat_bars([100, 100, 101, 101]))
    internal = [one for one in fills(sink) if one.kind is FillKind.INTERNAL]
    assert [(one.sleeve, str(one.qty)) for one in internal] == crossed
    filled = {one.order_id: one.filled for one in sink.decisions if isinstance(one, OrderUpdate)}
    for one in orders(sink):
        if one.price is None:
            assert filled[one.id] == one.qty


def test_an_order_on_its_way_crosses_one_of_the_same_moment_and_the_bar_of_another_symbol() -> None:
    # y decides on the bar of ETHUSDT, which closes with that of BTCUSDT; latency keeps x's order on its way
    settings_ = sleeved_config(
        sleeve("x", 0.5, symbols=[BTC]),
        sleeve("y", 0.5),
        market={"symbols": [BTC, ETH]},
        paper={"latency": 250},
    )
    engine, sink = account(settings_, {"x": {0: {"weight": 0.2}}, "y": {1: {"weight": -0.2, "symbol": BTC}}})
    play(engine, [bar(0, 100, 100, 100, 100), bar(0, 50, 50, 50, 50, symbol=ETH)])
    assert [(one.sleeve, one.kind.value) for one in fills(sink)] == [("x", "INTERNAL"), ("y", "INTERNAL")]


def test_a_reduce_only_order_crosses_for_no_more_than_the_position() -> None:
    settings_ = sleeved_config(sleeve("x", 0.5), sleeve("y", 0.5))
    engine, sink = account(
        settings_, {"x": {0: {"weight": 0.1}, 2: {"weight": 0}}, "y": {2: {"weight": 0.6}}}
    )
    play(engine, flat_bars([100] * 5))
    assert [str(one.qty) for one in fills(sink, "y")] == ["5.000", "25.000"]
    assert engine.sleeves["x"].engine.portfolio.positions[BTC].qty == 0
    assert engine.portfolio.positions[BTC].qty == 30


@pytest.mark.parametrize(
    ("held", "side", "reduce_only", "most"),
    [
        (5, Side.SELL, True, 5),
        (5, Side.BUY, True, 0),
        (0, Side.SELL, True, 0),
        (5, Side.SELL, False, 8),
        (0, Side.BUY, False, 8),
        (45, Side.BUY, False, 5),  # 5,000 without leverage buys 50 at 100
    ],
)
def test_an_order_crosses_for_what_position_and_margin_allow(
    held: int, side: Side, reduce_only: bool, most: int
) -> None:
    engine, _ = account(sleeved_config(sleeve("x", 0.5)), {"x": {0: {"weight": held / 50}}})
    play(engine, flat_bars([100] * 3))
    exchange = engine.sleeves["x"].engine.exchange
    assert isinstance(exchange, PaperExchange)
    wanted = order(1, side, OrderType.MARKET, "8", reduce_only=reduce_only)
    assert exchange.most_at(WorkingOrder(wanted, T0), Decimal(100)) == most


def test_the_protection_of_a_crossed_entry_works_from_the_next_bar_on() -> None:
    settings_ = sleeved_config(sleeve("x", 0.5), sleeve("y", 0.5))
    engine, sink = account(settings_, {"x": {0: {"weight": 0.2, "stop": -0.05}}, "y": {0: {"weight": -0.2}}})
    play(engine, [bar(0, 100, 100, 100, 100), bar(1, 100, 100, 94, 99)])
    (stopped,) = [one for one in fills(sink, "x") if one.reason == "stop"]
    assert (stopped.price, stopped.kind) == (95, FillKind.TRADE)
    assert engine.portfolio.positions[BTC].qty == -10


def test_sleeves_share_the_volume_of_a_bar() -> None:
    # a tenth of a volume of 100 is 10 coins: x gets them first
    settings_ = sleeved_config(
        sleeve("x", 0.5),
        sleeve("y", 0.5),
        paper={"liquidity": "participation", "max_participation": 0.1},
    )
    engine, sink = account(settings_, {"x": {0: {"weight": 0.16}}, "y": {0: {"weight": 0.16}}})
    play(engine, [bar(0, 100, 100, 100, 100), bar(1, 100, 100, 100, 100, volume=100)])
    assert [(one.sleeve, str(one.qty)) for one in fills(sink)] == [("x", "8.000"), ("y", "2.0")]


def test_a_ledger_that_was_changed_is_noticed_at_the_end() -> None:
    settings_ = sleeved_config(sleeve("x", 0.5), sleeve("y", 0.5))
    engine, _ = account(settings_, {"x": {0: {"weight": 0.2}}, "y": {}})
    play(engine, flat_bars([100, 101, 102]))
    engine.portfolio.cash += Decimal("0.00000001")
    with pytest.raises(ReconciliationError, match=r"sleeves do not add up to the account: cash"):
        engine.finish()


# -- one sleeve is the strategy without sleeves --------------------------------------------------------------


class Restless(Strategy):
    """Trades on every few bars, with stops, limits and both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.bars = 0

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.bars += 1
        step = (self.bars * 7) % 11
        if step < 6:
            weight = (step - 2.5) / 2
            distance = 0.01 if weight < 0 else -0.01
            if step % 2:
                self.target(kline.symbol, weight=weight, stop=distance, take_profit=-distance)
            else:
                self.target(kline.symbol, weight=weight, limit=kline.close * (1 - weight / 500))


def comparable(decisions: list[Decision]) -> list[Any]:
    """Return orders, updates, fills and payments without what names run and sleeve."""
    found: list[Any] = []
    for one in decisions:
        if isinstance(one, Order):
            found.append(replace(one, id="", oco="", sleeve=UNSET))
        elif isinstance(one, Fill):
            found.append(replace(one, id="", order_id="", sleeve=UNSET))
        elif isinstance(one, OrderUpdate):
            found.append(replace(one, order_id="", sleeve=UNSET))
        elif isinstance(one, FundingPayment):
            found.append(replace(one, sleeve=UNSET))
    return found


def walk(steps: list[int], symbol: str = BTC) -> list[Kline]:
    price, rows = 10_000, []
    for number, step in enumerate(steps):
        opened, price = price, max(1_000, price + step)
        high, low = max(opened, price) + abs(step) // 3, min(opened, price) - abs(step) // 4
        rows.append(bar(number, *(one / 100 for one in (opened, high, low, price)), 50.0, symbol))
    return rows


@given(st.lists(st.integers(-300, 300), min_size=5, max_size=80))
@settings(max_examples=40, deadline=None)
def test_one_sleeve_with_all_of_the_capital_is_the_strategy_without_sleeves(steps: list[int]) -> None:
    costs = {"fees": "maker_taker", "slippage": "square_root", "liquidity": "participation"}
    limits = {"max_leverage": 1, "max_position": 1, "max_order": 2, "max_drawdown": 0.04}
    sections = {"paper": costs, "risk": limits}
    events: list[Event] = []
    for number, one in enumerate(walk(steps)):
        events.append(one)
        if number % 8 == 7:
            events.append(Funding(BTC, one.ts, one.ts, 0.0001))
    plain_sink = ListSink()
    plain = Engine(config(**sections), Restless(), plain_sink, run_id="test", contain_errors=True)
    for event in events:
        plain.handle(event)
    plain.finish()
    engine, sink = account(sleeved_config(sleeve("x", 1.0), **sections), {"x": Restless()})
    play(engine, events)
    engine.finish()
    assert comparable(sink.decisions) == comparable(plain_sink.decisions)
    assert sink.samples == plain_sink.samples
    assert engine.portfolio.exact_equity() == plain.portfolio.exact_equity()
    assert engine.risk.state is plain.risk.state


# -- attribution ---------------------------------------------------------------------------------------------

_TARGET = st.fixed_dictionaries(
    {"weight": st.sampled_from((-1.0, -0.6, -0.2, 0, 0.1, 0.5, 1.0)), "symbol": st.sampled_from((BTC, ETH))},
    optional={"reason": st.just("drawn")},
)
_STEPS = st.dictionaries(st.integers(0, 60), _TARGET, max_size=25)
_COMMANDS = st.dictionaries(
    st.integers(0, 30),
    st.sampled_from(
        (
            ("pause", "x"),
            ("halt", "y"),
            ("resume", "y"),
            ("flatten", "x"),
            ("remove-sleeve", "z"),
            ("pause", ""),
            ("halt", ""),
            ("resume", ""),
            ("flatten", ""),
            ("kill", ""),
        )
    ),
    max_size=4,
)


@given(
    st.tuples(_STEPS, _STEPS, _STEPS),
    st.lists(st.tuples(st.integers(-400, 400), st.integers(-400, 400)), min_size=8, max_size=31),
    _COMMANDS,
)
@settings(max_examples=80, deadline=None)
def test_the_sleeves_add_up_to_the_account_after_every_event(
    steps: tuple[dict[int, Any], ...], moves: list[tuple[int, int]], commands: dict[int, tuple[str, str]]
) -> None:
    settings_ = sleeved_config(
        sleeve("x", 0.5),
        sleeve("y", 0.2, risk={"max_leverage": 3, "max_position": 3, "max_order": 3}),
        sleeve("z", 0.25),
        market={"symbols": [BTC, ETH]},
        account={"leverage": 3},
        paper={**FEES, "slippage": "fixed", "slippage_bps": 3.0, "liquidity": "participation"},
        risk={"max_drawdown": 0.3, "on_max_drawdown": "flatten"},
    )
    engine, _ = account(settings_, dict(zip("xyz", steps, strict=True)))
    btc, eth = walk([one for one, _ in moves]), walk([other for _, other in moves], ETH)
    for number, pair in enumerate(zip(btc, eth, strict=True)):
        for event in pair:
            engine.handle(event)
        if number % 5 == 4:
            for symbol in (BTC, ETH):
                engine.handle(Funding(symbol, pair[0].ts, pair[0].ts, 0.0003))
        if (found := commands.get(number)) is not None:
            action, name = found
            engine.handle(command(action, number + 1, **({"sleeve": name} if name else {})))
        engine.check()
        # prices have two decimals and rates four digits, so no ledger rounds: the sums are equal
        parts = [one.engine.portfolio for one in engine.sleeves.values()]
        assert sum((one.cash for one in parts), engine.idle) == engine.portfolio.cash
        every = engine.results.values()
        assert sum(one.fees for one in every) == engine.portfolio.fees
        assert sum(one.funding for one in every) == engine.portfolio.funding
        assert sum(one.slippage for one in every) == engine.portfolio.slippage
    engine.finish()


# -- risk ----------------------------------------------------------------------------------------------------


def test_an_error_of_one_strategy_halts_its_sleeve_and_no_other() -> None:
    settings_ = sleeved_config(sleeve("x", 0.5), sleeve("y", 0.5))
    engine, sink = account(
        settings_, {"x": {0: {"weight": 0.1}, 1: {"error": "boom"}}, "y": {3: {"weight": 0.2}}}
    )
    play(engine, flat_bars([100] * 6))
    assert "RuntimeError: boom" in engine.failures["x"]
    assert risk_events(sink, "x") == [("HALTED", "strategy")]
    assert [str(one.qty) for one in fills(sink, "y")] == ["10.000"]
    assert engine.risk.state is RiskState.ACTIVE
    # the daemon reports the error with its text, and the operator resumes
    engine.handle(command("strategy-error", 6, sleeve="x", detail="boom"))
    assert engine.failures == {}
    engine.handle(command("resume", 6, sleeve="x"))
    assert engine.sleeves["x"].engine.risk.state is RiskState.ACTIVE


def test_a_sleeve_is_halted_by_its_own_drawdown_while_the_others_trade() -> None:
    # x: 0.9 of 5,000 at 100 is 45 coins; 94 costs it 270 of 5,000, 5.4 %, and the account 2.7 %
    settings_ = sleeved_config(
        sleeve("x", 0.5, risk={"max_drawdown": 0.05}), sleeve("y", 0.5), risk={"max_drawdown": 0.05}
    )
    engine, sink = account(settings_, {"x": {0: {"weight": 0.9}}, "y": {4: {"weight": 0.2}}})
    play(engine, flat_bars([100, 100, 94, 94, 94, 94, 94]))
    assert risk_events(sink, "x") == [("HALTED", "max_drawdown")]
    assert engine.risk.state is RiskState.ACTIVE
    assert fills(sink, "y")


@pytest.mark.parametrize(("reaction", "held"), [("halt", "90"), ("flatten", "0")])
def test_the_drawdown_of_the_account_halts_all_sleeves(reaction: str, held: str) -> None:
    # both hold 45 coins; at 94 the account is 5.4 % below its peak, more than its limit and less than theirs
    own = {"max_drawdown": 0.5}
    settings_ = sleeved_config(
        sleeve("x", 0.5, risk=own),
        sleeve("y", 0.5, risk=own),
        risk={"max_drawdown": 0.05, "on_max_drawdown": reaction},
    )
    engine, sink = account(
        settings_, {"x": {0: {"weight": 0.9}}, "y": {0: {"weight": 0.9}, 4: {"weight": 1.0}}}
    )
    play(engine, flat_bars([100, 100, 94, 94, 94, 94, 94]))
    assert risk_events(sink)[0] == ("HALTED", "max_drawdown")
    assert all(one.engine.risk.halted for one in engine.sleeves.values())
    assert engine.portfolio.positions[BTC].qty == Decimal(held)


def test_the_daily_loss_of_the_account_stops_new_positions_of_every_sleeve() -> None:
    settings_ = sleeved_config(sleeve("x", 0.5), sleeve("y", 0.5), risk={"max_daily_loss": 0.02})
    states: list[RiskState] = []

    class Watching(Steps):
        def on_kline(self, kline: Kline, market: Market) -> None:
            super().on_kline(kline, market)
            states.append(market.risk_state)

    own = {"x": {0: {"weight": 0.9}}, "y": Watching({4: {"weight": 0.2}})}
    settings_ = settings_.model_copy(
        update={
            "sleeves": tuple(
                one.model_copy(update={"risk": {"max_daily_loss": 1.0}}) for one in settings_.sleeves
            )
        }
    )
    engine, sink = account(settings_, own)
    play(engine, flat_bars([100, 100, 94, 94, 94, 94, 94]))
    assert risk_events(sink) == [("REDUCING", "max_daily_loss"), ("REDUCING", "state REDUCING")]
    assert engine.sleeves["y"].engine.risk.state is RiskState.ACTIVE
    assert not orders(sink, "y")
    assert states[0] is RiskState.ACTIVE
    assert states[-1] is RiskState.REDUCING


def test_the_limits_of_the_account_apply_to_its_net_position() -> None:
    # At most 1 x 10,000 in all: x holds 8,000 long with its own leverage of 2, so y may buy for 2,000 more.
    # It may sell for 7,500, because that reduces the account's position
    wide = {"max_leverage": 2, "max_position": 2, "max_order": 2}
    limits = {"max_leverage": 1, "max_position": 1, "max_order": 1}
    for weight, expected in ((0.8, 0), (0.3, 1), (-1.5, 1)):
        settings_ = sleeved_config(
            sleeve("x", 0.5, risk=wide),
            sleeve("y", 0.5, risk=wide),
            risk=limits,
            account={"leverage": 3},
        )
        engine, sink = account(settings_, {"x": {0: {"weight": 1.6}}, "y": {2: {"weight": weight}}})
        play(engine, flat_bars([100] * 5))
        assert len(orders(sink, "y")) == expected, weight
        assert engine.risk.refusals.total() == 1 - expected


# -- signals and predictions ---------------------------------------------------------------------------------


STORIES = ("Bitcoin rallies after a quiet weekend", "Regulator approves another fund of coins")


class Steady:
    """A fusion model that expects the same after every bar."""

    fingerprint, interval, half_life = "steady", MINUTE_MS, MINUTE_MS

    def vector(self, sentiment: Sentiment, asset: str) -> None:
        return None

    def read(self, mean: Any) -> Any:
        return mean

    def predict(self, features: Features, reading: Any, mass: float) -> Forecast:
        return Forecast(0.1, 0.1, 0.8, 0.01)


class Hearing(Strategy):
    """Counts what it is called with, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: Counter[str] = Counter()

    def on_signal(self, signal: Signal, market: Market) -> None:
        self.heard["signal"] += 1

    def on_prediction(self, prediction: Prediction, market: Market) -> None:
        self.heard["prediction"] += 1


def test_what_all_sleeves_decide_alike_is_recorded_once_and_each_receives_it() -> None:
    hearing = {"x": Hearing(), "y": Hearing()}
    settings_ = sleeved_config(sleeve("x", 0.5), sleeve("y", 0.3))
    oracle: Any = Steady()
    engine, sink = account(settings_, hearing, predictor=oracle)
    play(engine, flat_bars([100.0] * (WARM_UP_BARS + 2)))
    now = T0 + (WARM_UP_BARS + 2) * MINUTE_MS
    for number, chances in enumerate(((0.05, 0.05, 0.9), (0.9, 0.05, 0.05))):
        news = News(f"n{number}", now, now, STORIES[number], currencies=("BTC",))
        play(engine, [news, Sentiment(news.id, now, now, *chances)])
    assert hearing["x"].heard == hearing["y"].heard
    assert min(hearing["x"].heard.values()) > 1
    for kind, name in ((Signal, "signal"), (Prediction, "prediction")):
        recorded = [one for one in sink.decisions if isinstance(one, kind)]
        assert len(recorded) == hearing["x"].heard[name]
        assert {one.sleeve for one in recorded} == {UNSET}
    assert [news.id for news, _, _ in sink.headlines] == ["n0", "n1"]
    assert len(sink.sentiments) == 2


def test_a_signal_of_one_sleeve_that_differs_from_the_others_is_recorded_with_its_name() -> None:
    engine, sink = account(sleeved_config(sleeve("x", 0.5)), {"x": {}, "late": Hearing()})

    def score(number: int) -> None:
        now = T0 + (number + 1) * MINUTE_MS
        news = News(f"n{number}", now, now, STORIES[number], currencies=("BTC",))
        play(engine, [news, Sentiment(news.id, now, now, 0.05, 0.05, 0.9)])

    score(0)
    definition = '{"name": "late", "strategy": "late", "share": "0.3"}'
    play(engine, [command("add-sleeve", 1, sleeve="late", definition=definition)])
    score(1)  # the added sleeve has not heard the first headline
    signals = [one for one in sink.decisions if isinstance(one, Signal)]
    assert [(one.sleeve, len(one.sources)) for one in signals] == [(UNSET, 1), (UNSET, 2), ("late", 1)]


# -- commands ------------------------------------------------------------------------------------------------


def test_a_command_with_a_sleeve_concerns_it_alone() -> None:
    settings_ = sleeved_config(sleeve("x", 0.5), sleeve("y", 0.5))
    engine, sink = account(settings_, {"x": {1: {"weight": 0.2}}, "y": {1: {"weight": 0.2}}})
    play(engine, [*flat_bars([100]), command("pause", 1, sleeve="x"), *flat_bars([100] * 4)[1:]])
    assert [one.sleeve for one in fills(sink)] == ["y"]
    assert engine.risk.state is RiskState.ACTIVE
    play(engine, [command("flatten", 4, sleeve="y"), bar(4, 100, 100, 100, 100)])
    assert engine.portfolio.positions[BTC].qty == 0


def test_a_flatten_of_a_symbol_closes_it_in_the_sleeves_that_trade_it() -> None:
    settings_ = sleeved_config(
        sleeve("x", 0.5), sleeve("y", 0.5, symbols=[ETH]), market={"symbols": [BTC, ETH]}
    )
    moves = {
        "x": {1: {"weight": 0.2, "symbol": BTC}, 2: {"weight": 0.1, "symbol": ETH}},
        "y": {1: {"weight": 0.2, "symbol": ETH}},
    }
    engine, _ = account(settings_, moves)
    minutes = [
        one for pair in zip(flat_bars([100] * 6), flat_bars([100] * 6, ETH), strict=True) for one in pair
    ]
    play(engine, minutes[:8])
    held = {symbol: position.qty for symbol, position in engine.portfolio.positions.items()}
    assert all(held.values())
    play(engine, [command("flatten", 4, symbol=ETH), *minutes[8:]])
    assert engine.portfolio.positions[ETH].qty == 0
    assert engine.portfolio.positions[BTC].qty == held[BTC]


def test_a_resume_of_a_sleeve_is_ignored_while_the_account_is_killed() -> None:
    settings_ = sleeved_config(sleeve("x", 0.5), sleeve("y", 0.5))
    engine, sink = account(settings_, {"x": {0: {"weight": 0.2}}, "y": {}})
    play(engine, flat_bars([100] * 3))
    play(engine, [command("kill", 3, flatten="true")])
    confirm = "resume from kill"
    play(engine, [command("resume", 3, sleeve="x", confirm=confirm), bar(3, 100, 100, 100, 100)])
    assert engine.sleeves["x"].engine.risk.killed
    assert engine.portfolio.positions[BTC].qty == 0
    assert risk_events(sink)[-1] == ("HALTED", "sleeve")
    play(engine, [command("resume", 4)])
    assert engine.risk.killed
    play(engine, [command("resume", 4, confirm=confirm)])
    assert {one.engine.risk.state for one in engine.sleeves.values()} == {RiskState.ACTIVE}
    assert engine.risk.state is RiskState.ACTIVE


def test_a_removed_sleeve_closes_its_position_and_returns_its_cash() -> None:
    settings_ = sleeved_config(sleeve("x", 0.5), sleeve("y", 0.25))
    engine, sink = account(settings_, {"x": {0: {"weight": 0.2}, 4: {"weight": 0.9}}, "y": {}})
    play(engine, [*flat_bars([100, 100, 110]), command("remove-sleeve", 3, sleeve="x")])
    assert engine.sleeves["x"].leaving
    play(engine, [bar(3, 112, 112, 112, 112), bar(4, 112, 112, 112, 112)])
    # 10 coins bought at 100 and sold at 112
    assert list(engine.sleeves) == ["y"]
    assert engine.departed["x"].profit == 120
    assert engine.idle == 2_500 + 5_120
    assert engine.portfolio.exact_equity() == 10_120
    engine.finish()
    assert {one.rule for one in sink.decisions if isinstance(one, RiskEvent) and one.sleeve is UNSET} == {
        "sleeve"
    }


def test_a_sleeve_is_added_with_idle_cash_while_running() -> None:
    settings_ = sleeved_config(sleeve("x", 0.5))
    engine, sink = account(settings_, {"x": {}, "late": {1: {"weight": 0.5}}})
    play(engine, flat_bars([100, 100]))
    definition = '{"name": "late", "strategy": "late", "share": "0.3"}'
    play(engine, [command("add-sleeve", 2, sleeve="late", definition=definition)])
    assert engine.idle == 2_000
    play(engine, flat_bars([100] * 6)[2:])
    assert [(one.sleeve, str(one.qty)) for one in fills(sink)] == [("late", "15.000")]
    engine.finish()


@pytest.mark.parametrize(
    ("definition", "why"),
    [
        ('{"name": "late", "strategy": "late", "share": "0.6"}', "its share is 6000.0, and 5000.0 are idle"),
        ('{"name": "other", "strategy": "late", "share": "0.1"}', "is in use"),
        ('{"name": "late", "strategy": "late", "share": "0.1", "symbols": ["XRPUSDT"]}', "is not traded"),
        ("{", "was not added: ValidationError"),
    ],
    ids=["too much", "another name", "unknown symbol", "not JSON"],
)
def test_a_sleeve_that_can_t_be_added_changes_nothing(definition: str, why: str) -> None:
    engine, sink = account(sleeved_config(sleeve("x", 0.5)), {"x": {}, "late": {}})
    play(engine, [*flat_bars([100]), command("add-sleeve", 1, sleeve="late", definition=definition)])
    assert list(engine.sleeves) == ["x"]
    (note,) = [one for one in sink.decisions if isinstance(one, RiskEvent)]
    assert why in note.detail


def test_commands_for_unknown_sleeves_are_recorded_and_ignored() -> None:
    engine, sink = account(sleeved_config(sleeve("x", 0.5)), {"x": {}})
    play(engine, [command("pause", 1, sleeve="nobody")])
    (note,) = [one for one in sink.decisions if isinstance(one, RiskEvent)]
    assert note.detail == "pause of nobody by test is ignored: there is no such sleeve"


# -- configuration -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sleeves", "message"),
    [
        ([sleeve("x", 0.6), sleeve("y", 0.5)], r"sum to 1\.1, which is more than 1"),
        ([sleeve("x", 0.3), sleeve("x", 0.3)], "two sleeves have the name x"),
        ([sleeve("a b", 0.3)], "String should match pattern"),
        ([sleeve("x", 0)], "greater than 0"),
        ([sleeve("x", 0.1, risk={"max_drawdwn": 0.1})], "unknown limit max_drawdwn; did you mean"),
        ([sleeve("x", 0.1, risk={"max_drawdown": 5})], "less than or equal to 1"),
        ([sleeve("x", 0.1, symbols=[BTC, BTC])], "a symbol occurs twice"),
        ([sleeve("x", 0.1, weight=3)], r"unknown key sleeves\.0\.weight"),
    ],
)
def test_a_wrong_sleeve_is_an_error(sleeves: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sleeved_config(*sleeves)


def test_an_untraded_symbol_of_a_sleeve_is_an_error() -> None:
    with pytest.raises(ConfigError, match="sleeve x: XRPUSDT is not traded"):
        account(sleeved_config(sleeve("x", 0.5, symbols=["XRPUSDT"])), {"x": {}})


def test_an_error_at_the_start_of_a_strategy_names_the_sleeve() -> None:
    class Failing(Strategy):
        def on_start(self, market: Market) -> None:
            raise RuntimeError("no")

    with pytest.raises(StrategyError, match=r"sleeve x: strategy Failing failed: .*RuntimeError: no"):
        account(sleeved_config(sleeve("x", 0.5)), {"x": Failing()})
