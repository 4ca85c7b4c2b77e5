"""A restored engine makes the same decisions as the one whose state was saved."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict, defaultdict, deque
from contextlib import suppress
from decimal import Decimal
from math import copysign, isnan, nan
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as how
from hypothesis import strategies as st

from agent.core.engine import Engine
from agent.core.events import (
    MINUTE_MS,
    AccountSnapshot,
    Command,
    Event,
    Fill,
    FillKind,
    FundingSettlement,
    Kline,
    Order,
    OrderStatus,
    OrderType,
    OrderUpdate,
    Prediction,
    RiskState,
    Side,
    Signal,
)
from agent.core.paper import PaperExchange
from agent.core.sinks import NullSink
from agent.core.sleeves import SleevedEngine
from agent.core.strategy import Market, Strategy, Target
from agent.core.venue import VenueExchange
from agent.replay.engine_state import WIRING, capture, restore, spec_of
from agent.replay.object_codec import Spec, StateError, Unencodable, decode_into, encode
from strategies.sma_cross import RollingMean, SmaCross
from tests.models.fusion.fusion_harness import write_fusion
from tests.support.market import SYMBOL, T0, bar, config, flat_bars
from tests.support.sleeves import BTC, ETH, account, sleeve, sleeved_config
from tests.support.stories import Chained, Story

PLAIN = Spec(("strategies.", "agent.core."), wiring={}, first={}, rebuild={}, blank={})


def assert_resumes_identically(story: Story, cut: int) -> Engine:
    """Check that an engine saved after event `cut` and restored behaves like an uninterrupted one."""
    whole, sink = story.fresh()
    story.play(whole, sink, 0, cut)
    saved, chain = capture(whole), (sink.chain.digest, sink.chain.count)
    again, second = story.fresh()
    second.decisions.clear()
    restore(again, saved)
    second.chain.digest, second.chain.count = chain
    assert capture(again) == saved
    story.play(whole, sink, cut, len(story.events))
    story.play(again, second, cut, len(story.events))
    assert second.chain.head == sink.chain.head
    assert second.chain.count == sink.chain.count
    assert capture(again) == capture(whole)
    return whole


@pytest.mark.slow
@example(seed=1014, share=0.0)  # all cash is withdrawn while a position is open
@given(seed=st.integers(0, 10_000), share=st.floats(0, 1))
@how(max_examples=25, deadline=None)
def test_a_restored_engine_makes_the_same_decisions(tmp_path_factory: Any, seed: int, share: float) -> None:
    story = Story(seed, tmp_path_factory.getbasetemp())
    assert_resumes_identically(story, int(share * len(story.events)))


@pytest.mark.parametrize("seed", [0, 3, 6, 8])
def test_a_run_can_be_resumed_after_any_event(tmp_path: Path, seed: int) -> None:
    story = Story(seed, tmp_path, minutes=40)
    risk = story.config.risk.model_copy(update={"max_orders_per_minute": 2})
    story.config = story.config.model_copy(update={"risk": risk})
    whole, sink = story.fresh()
    saved = {}
    for cut in range(len(story.events)):
        if cut % 4 == 0:
            saved[cut] = capture(whole), sink.chain.digest, sink.chain.count
        story.play(whole, sink, cut, cut + 1)
    end = capture(whole)
    for cut, (state, digest, count) in saved.items():
        again, second = story.fresh()
        restore(again, state)
        second.chain.digest, second.chain.count = digest, count
        story.play(again, second, cut, len(story.events))
        assert (second.chain.head, capture(again)) == (sink.chain.head, end), f"from event {cut}"


def test_stories_cover_both_exchanges_orders_fills_and_signals(tmp_path: Path) -> None:
    met: Counter[str] = Counter()
    for seed in range(12):
        story = Story(seed, tmp_path)
        engine, sink = story.fresh()
        story.play(engine, sink, 0, len(story.events))
        met.update(type(one).__name__ for one in sink.decisions)
        met[type(engine.exchange).__name__] += 1
        met["working"] += sum(map(len, engine.exchange.books.values()))
        met.update(engine.signals.counts)
    assert all(met[kind.__name__] for kind in (PaperExchange, VenueExchange, Order, Fill, Signal))
    assert met["working"]
    assert met["revised"] > 10
    assert met["withdrawn"]
    assert met["kept"]


@pytest.mark.parametrize("ablation", ["full", "probabilities", "price"])
def test_a_fusion_models_state_is_restored(tmp_path: Path, ablation: str) -> None:
    model = write_fusion(tmp_path / "model", ablation=ablation, interval=MINUTE_MS)
    story = Story(7, tmp_path, minutes=120, predictor=model)
    for share in (0.2, 0.5, 0.9):
        assert_resumes_identically(story, int(share * len(story.events)))
    engine, sink = story.fresh()
    story.play(engine, sink, 0, len(story.events))
    assert len({one.up for one in sink.decisions if isinstance(one, Prediction)}) > 5


def test_every_attribute_listed_as_wiring_exists(tmp_path: Path) -> None:
    """Compare WIRING with the classes; an attribute that can't be saved fails the tests above."""
    met: dict[str, set[str]] = {}

    def walk(one: Any, seen: set[int]) -> None:
        kind = type(one)
        if id(one) in seen or not kind.__module__.startswith(("agent.", "strategies.")):
            for item in (
                (*one, *(one.values() if isinstance(one, dict) else ()))
                if isinstance(one, dict | list | deque)
                else ()
            ):
                walk(item, seen)
            return
        seen.add(id(one))
        slots = {name for base in kind.__mro__ for name in getattr(base, "__slots__", ())}
        names = {*slots, *getattr(one, "__dict__", ()), *getattr(kind, "__mypyc_attrs__", ())}
        for base in kind.__mro__:
            met.setdefault(f"{base.__module__}:{base.__qualname__}", set()).update(names)
        for name in names:
            walk(getattr(one, name, None), seen)

    for seed in range(12):
        story = Story(seed, tmp_path, predictor=write_fusion(tmp_path / str(seed), interval=120_000))
        engine, sink = story.fresh()
        story.play(engine, sink, 0, len(story.events))
        walk(engine, set())
    walk(two_sleeves()[0], set())
    walk(two_sleeves(execution={"mode": "testnet"})[0], set())
    assert {name: set(names) - met[name] for name, names in WIRING.items() if set(names) - met[name]} == {}


def test_a_new_attribute_of_the_core_is_saved_without_a_change_of_the_codec() -> None:
    story_config = config()
    engine = Engine(story_config, Strategy(), NullSink(), run_id="r", equity_block=1)
    before = capture(engine)
    stories = engine.signals._stories  # a class that is never compiled, so an attribute can be added
    stories.novelty = {"BTCUSDT": 1}  # type: ignore[attr-defined]
    again = Engine(story_config, Strategy(), NullSink(), run_id="r", equity_block=1)
    saved = capture(engine)
    assert saved != before
    restore(again, saved)
    assert again.signals._stories.novelty == {"BTCUSDT": 1}  # type: ignore[attr-defined]
    stories.novelty = open  # type: ignore[attr-defined]
    with pytest.raises(Unencodable, match=r"signals\._stories\.novelty is an object of"):
        capture(engine)


ODD: list[Any] = [
    nan,
    -0.0,
    0.1 + 0.2,
    5e-324,
    1 << 62,
    -(1 << 70),
    None,
    True,
    "ü\0",
    b"\xff",
    Decimal("1.10"),
    Decimal("-0E-7"),
    Decimal("NaN"),
    (1, "a", (2.5,)),
    [1, [2.0] * 20, {}],
    {"b": 1, "a": 2},
    {1: {2: 3}},
    {(1, "x"): -0.0},
    {3, 1, 2},
    frozenset({"q"}),
    deque([1.0, nan], maxlen=2),
    deque(),
    Counter("abca"),
    OrderedDict([("z", 1), ("a", 2)]),
    defaultdict(list, {"k": [1]}),
    RiskState.HALTED,
    Target("BTCUSDT", -0.5, reason="x"),
    np.arange(6, dtype="<f4").reshape(2, 3),
    np.float64(0.1),
    np.int32(-3),
    Command("pause", 1, 2, {"a": "b"}),
    flat_bars([1.0, 2.0])[1],
]


@pytest.mark.parametrize("one", ODD, ids=lambda one: repr(one)[:30])
def test_plain_data_is_restored_exactly(one: Any) -> None:
    data = encode([one], PLAIN)
    (back,) = decode_into(data, [None], PLAIN)
    assert type(back) is type(one)
    assert encode([back], PLAIN) == data
    if isinstance(one, float):
        assert isnan(back) if isnan(one) else (back, copysign(1, back)) == (one, copysign(1, one))
    elif isinstance(one, np.ndarray):
        assert np.array_equal(back, one)
        back[0] = 9  # the array is writable
    else:
        assert repr(back) == repr(one)


def test_shared_objects_stay_shared() -> None:
    shared: list[Any] = [1]
    shared.append(shared)
    twins = {"a": shared, "b": shared, "c": [1]}
    (back,) = decode_into(encode([twins], PLAIN), [None], PLAIN)
    assert back["a"] is back["b"] is back["a"][1]
    assert back["c"] is not back["a"]


@pytest.mark.parametrize(
    "one", [open, lambda: 0, iter([1]), object(), defaultdict(lambda: 1), random.Random(1), Path()]
)
def test_other_objects_are_refused_with_their_path(one: Any) -> None:
    with pytest.raises(Unencodable, match=r"\['deep'\] is"):
        encode([{"deep": one}], PLAIN)


@given(st.binary(max_size=60))
def test_damaged_data_is_a_state_error(junk: bytes) -> None:
    data = encode([{"a": [1, Decimal(2)], "b": deque([1])}], PLAIN)
    for bad in (junk, data[: len(junk)], data[: len(junk)] + junk + data[len(junk) + 3 :]):
        with suppress(StateError):
            decode_into(bad, [None], PLAIN)


def test_untrusted_data_creates_no_object_outside_the_core() -> None:
    for name in (
        "os:system",
        "subprocess:Popen",
        "agent.store.database:Database",
        "agent.core.strategy:load",
        "builtins:eval",
    ):
        for node in ([14, 0], [10, name, "x"], [11, name, "x"], [8, name, "x"]):
            with pytest.raises(StateError):
                decode_into(msgspec.msgpack.encode([[[name, []]], [node]]), [None], PLAIN)


def test_packed_floats_are_stored_as_the_list_of_earlier_snapshots() -> None:
    spec = spec_of([SmaCross()])
    mean = RollingMean(3)
    for value in (0.5, 1.0):
        mean.push(value)
    data = encode([mean], spec)

    shape = ["agent.core.rolling_mean:RollingMean", ["_at", "_error", "_length", "_sum", "_values"]]
    assert msgspec.msgpack.decode(data) == [[shape], [[14, 0, 2, 0.0, 3, 1.5, [1, 0.5, 1.0, 0.0]]]]
    (again,) = decode_into(data, [None], spec)
    assert [again.push(value) for value in (3.0, 2.0)] == [1.5, 2.0]


class ManyTypes(Strategy):
    """Strategy whose state has values of many types, including the market."""

    def on_start(self, market: Market) -> None:
        self.market = market
        self.means = [RollingMean(3), RollingMean(5)]
        self.by_side = defaultdict(list, {"up": [1.0]})
        self.last = np.zeros(3)

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.last = np.roll(self.last, 1)
        self.last[0] = kline.close
        fast, slow = (mean.push(kline.close) for mean in self.means)
        self.by_side["up" if fast > slow else "down"].append(kline.close)
        assert self.market is market
        self.target(kline.symbol, weight=0.5 if fast > slow else 0.0)


class Unsavable(ManyTypes):
    """Strategy with an attribute that can't be saved."""

    def on_start(self, market: Market) -> None:
        super().on_start(market)
        self.secret = iter(range(3))
        self.count = 0

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.count += 1
        self.target(kline.symbol, weight=0.1 * (self.count % 4))


class WithHooks(Unsavable):
    """The same with `snapshot` and `restore`."""

    def snapshot(self) -> Any:
        return {"count": self.count}

    def restore(self, state: Any) -> None:
        self.count = state["count"]


@pytest.mark.parametrize("kind", [ManyTypes, WithHooks])
def test_a_strategys_own_state_is_restored(kind: type[Strategy]) -> None:
    bars = flat_bars([100.0 + 7 * (i * i % 5) for i in range(60)])
    settings = config()

    def fresh() -> Engine:
        return Engine(
            settings, kind(), NullSink(), run_id="r", exchange=settings.execution.exchange(), equity_block=1
        )

    whole = fresh()
    for one in bars[:30]:
        whole.handle(one)
    again = fresh()
    restore(again, capture(whole))
    for one in bars[30:]:
        whole.handle(one)
        again.handle(one)
    assert capture(again) == capture(whole)
    assert again.portfolio.positions[SYMBOL].qty == whole.portfolio.positions[SYMBOL].qty


def test_the_error_names_the_attribute_of_a_strategy_that_cannot_be_saved() -> None:
    with pytest.raises(Unencodable, match=r"^secret is an object of builtins\.range_iterator"):
        capture(Engine(config(), Unsavable(), NullSink(), run_id="r"))


class FailingHooks(Strategy):
    """Strategy whose `snapshot` and `restore` fail."""

    def snapshot(self) -> Any:
        raise ZeroDivisionError("of the strategy")

    def restore(self, state: Any) -> None:
        raise AttributeError("of the strategy")


class FailingRestore(FailingHooks):
    def snapshot(self) -> Any:
        return {}


class Nested(Strategy):
    def __init__(self) -> None:
        super().__init__()
        self.deep: Any = None
        for _ in range(5_000):
            self.deep = [self.deep]


@pytest.mark.parametrize(
    ("kind", "words"), [(FailingHooks, "ZeroDivisionError: of the strategy"), (Nested, "nested too deep")]
)
def test_a_strategy_whose_snapshot_fails_is_unencodable(kind: type[Strategy], words: str) -> None:
    with pytest.raises(Unencodable, match=words):
        capture(Engine(config(), kind(), NullSink(), run_id="test"))


def test_a_strategy_whose_restore_fails_is_a_state_error() -> None:
    data = capture(Engine(config(), FailingRestore(), NullSink(), run_id="test"))
    with pytest.raises(StateError, match=r"restore\(\) of the strategy raised AttributeError"):
        restore(Engine(config(), FailingRestore(), NullSink(), run_id="test"), data)


def two_sleeves(**sections: dict[str, Any]) -> tuple[SleevedEngine, Chained]:
    """Return an account whose sleeves trade both ways, and one of which is not enabled."""
    symbols = {"symbols": [BTC, ETH]}
    settings = sleeved_config(
        sleeve("x", 0.4), sleeve("y", 0.3), sleeve("z", 0.2, enabled=False), market=symbols, **sections
    )
    steps: dict[str, Any] = {
        "x": {0: {"weight": 0.5, "stop": -0.02}, 7: {"weight": -0.4}, 15: {"weight": 0.1}},
        "y": {0: {"weight": -0.3}, 9: {"weight": 0.4, "trail": -0.01}, 15: {"weight": -0.2}},
        "z": {3: {"weight": 0.5, "symbol": ETH}},
    }
    sink = Chained()
    venue = settings.execution.account()
    return account(settings, steps, sink=sink, equity_block=1, account=venue)[0], sink


def venue_story(engine: SleevedEngine, sink: Chained) -> list[Event]:
    """Let sleeves trade at a venue that fills their orders a bar later; return the events."""
    events: list[Event] = []

    def handle(event: Event) -> None:
        events.append(event)
        engine.handle(event)

    definition = '{"name": "z", "strategy": "z", "share": "0.2"}'
    handle(
        Command("life", T0, T0, {"incarnation": "a", "cash": "stated", "transfers": "discounted"}, "daemon")
    )
    waiting: list[Order] = []
    for minute in range(16):
        close = 100 + (minute * 5) % 7
        now, seen = T0 + (minute + 1) * MINUTE_MS, len(sink.decisions)
        for number, order in enumerate(waiting):
            if order.type is OrderType.MARKET or minute % 5 == 4:
                price = Decimal(close if order.symbol == BTC else 51)
                name, fee = f"e{minute}.{number}", Decimal("0.01")
                handle(Fill(name, order.id, order.symbol, now, now, order.side, order.qty, price, fee))
            else:
                handle(OrderUpdate(order.id, order.symbol, now, now, OrderStatus.CANCELLED))
        handle(bar(minute, 100, close + 1, 99, close))
        handle(bar(minute, 50, 52, 49, 51, symbol=ETH))
        if minute == 0:
            handle(AccountSnapshot(now, now, {"USDT": Decimal(9_000)}))
        if minute == 3:
            handle(Command("add-sleeve", now, now, {"sleeve": "z", "definition": definition}, "test"))
        if minute == 6:
            held = engine.portfolio.positions[BTC].qty
            handle(FundingSettlement("f", BTC, now, now, Decimal("0.001"), held, Decimal(close), -held / 10))
            handle(Fill("lost", "tw-0", BTC, now, now, Side.BUY, Decimal(1), Decimal(close), Decimal(0)))
        if minute == 8:
            handle(Command("remove-sleeve", now, now, {"sleeve": "y"}, "test"))
        if minute == 12:
            handle(Command("flatten", now, now, {}, "test"))
        new = sink.decisions[seen:]
        over = {one.order_id for one in new if isinstance(one, OrderUpdate) and one.status.final}
        waiting = [one for one in new if isinstance(one, Order) and one.id not in over]
    return events


@pytest.mark.slow
def test_sleeves_at_a_venue_resume_identically() -> None:
    execution = {"mode": "testnet"}
    whole, expected = two_sleeves(execution=execution)
    events = venue_story(whole, expected)
    assert "y" in whole.departed
    kinds = {one.kind for one in expected.decisions if isinstance(one, Fill)}
    assert kinds == {FillKind.TRADE, FillKind.INTERNAL}
    for cut in range(len(events)):
        first, before = two_sleeves(execution=execution)
        for event in events[:cut]:
            first.handle(event)
        state = capture(first)
        second, after = two_sleeves(execution=execution)
        restore(second, state)
        assert capture(second) == state
        after.chain.digest, after.chain.count = before.chain.digest, before.chain.count
        for event in events[cut:]:
            second.handle(event)
            second.check()
        assert after.chain.head == expected.chain.head
        assert capture(second) == capture(whole)


@pytest.mark.slow
def test_a_sleeved_account_resumes_identically_even_after_sleeves_were_added_and_removed() -> None:
    definition = '{"name": "z", "strategy": "z", "share": "0.2"}'
    events: list[Event] = []
    for minute in range(14):
        close = 100 + (minute * 5) % 7
        events += [bar(minute, 100, close + 1, 99, close), bar(minute, 50, 52, 49, 51, symbol=ETH)]
        now = T0 + (minute + 1) * MINUTE_MS
        if minute == 3:
            events.append(Command("add-sleeve", now, now, {"sleeve": "z", "definition": definition}, "test"))
        if minute == 8:
            events.append(Command("remove-sleeve", now, now, {"sleeve": "y"}, "test"))
    whole, expected = two_sleeves()
    for event in events:
        whole.handle(event)
    assert "y" in whole.departed
    for cut in range(len(events)):
        first, before = two_sleeves()
        for event in events[:cut]:
            first.handle(event)
        state = capture(first)
        second, after = two_sleeves()
        restore(second, state)
        assert capture(second) == state
        after.chain.digest, after.chain.count = before.chain.digest, before.chain.count
        for event in events[cut:]:
            second.handle(event)
        second.check()
        assert after.chain.head == expected.chain.head
        assert capture(second) == capture(whole)
