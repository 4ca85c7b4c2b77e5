"""Bars in blocks: the same decisions, samples and state as event by event, to the last bit."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from agent.config import Config, parse
from agent.core.bar_block import CHUNK
from agent.core.block_runner import BlockRunner
from agent.core.engine import Engine
from agent.core.errors import StrategyError
from agent.core.events import (
    MINUTE_MS,
    PRIORITY,
    Command,
    Decision,
    Event,
    Fill,
    Funding,
    Gap,
    Kline,
    Order,
    Sentiment,
)
from agent.core.exchange import MatchingExchange
from agent.core.sinks import ListSink
from agent.core.strategy import BarSpan, Market, Strategy
from agent.data.bar_checks import Bars
from agent.data.block_stream import BarSlice, block_stream
from agent.data.merge import merge
from agent.replay.engine_state import spec_of
from agent.replay.object_codec import encode
from strategies.buy_and_hold import BuyAndHold
from strategies.sentiment import SentimentStrategy
from strategies.sma_cross import SmaCross
from tests.simulation.generated_data import SYMBOLS, T0, random_walk
from tests.support.effort import usual
from tests.support.market import flat_bars

BARS = 700


class ColumnSource:
    """Bars of one symbol, with gaps, as events or in columns of at most `size` bars."""

    def __init__(self, bars: Sequence[Kline | Gap], size: int) -> None:
        self.symbol = next(bar.symbol for bar in bars)
        self.interval = MINUTE_MS
        self._bars = bars
        self._size = size

    def __iter__(self) -> Iterator[Kline | Gap]:
        return iter(self._bars)

    def blocks(self) -> Iterator[Bars | Gap]:
        part: list[Kline] = []
        for bar in self._bars:
            if isinstance(bar, Gap) or len(part) == self._size:
                if part:
                    yield columns_of(part)
                part = []
            if isinstance(bar, Gap):
                yield bar
            else:
                part.append(bar)
        yield columns_of(part)


def columns_of(bars: list[Kline]) -> Bars:
    start, end = (np.array([getattr(bar, name) for bar in bars]) for name in ("start", "ts"))
    names = "open", "high", "low", "close", "volume", "turnover"
    values = tuple(np.array([getattr(bar, name) for bar in bars]) for name in names)
    return Bars(start, end, start, np.full(len(bars), MINUTE_MS), values)


class Restless(Strategy):
    """Orders of all kinds, at bars, fills and headlines that depend on the prices alone."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        self._trade(kline.symbol, int(kline.close * 10) % 61, market)

    def on_sentiment(self, sentiment: Sentiment, market: Market) -> None:
        self._trade(sentiment.symbols[0], int(sentiment.bullish * 1000) % 61, market)

    def _trade(self, symbol: str, number: int, market: Market) -> None:
        price = market.price(symbol)
        side = 1 if number % 2 else -1
        if number == 0:
            self.target(symbol, weight=0.0)
        elif number < 4:
            self.target(symbol, weight=0.3 * side, stop=-0.02 * side, take_profit=0.03 * side)
        elif number < 6:
            self.target(symbol, weight=0.2 * side, trail=-0.02 * side)
        elif number < 8 and price > 0:
            self.target(symbol, weight=0.4 * side, limit=price * (1 - 0.004 * side), expire="20m")
        elif number == 8:
            self.target(symbol, weight=0.8, stop=-0.05, take_profit=((0.02, 0.5), (0.04, 0.5)))
        elif number == 9 and market.features(symbol).warm:
            self.target(symbol, weight=3.0 if market.features(symbol).return_5 > 0 else -3.0)


class Headlines(Restless):
    """The same on headlines alone, without features: the bars between them may be passed over."""

    reads_features = False
    on_kline = Strategy.on_kline

    def _trade(self, symbol: str, number: int, market: Market) -> None:
        if number != 9:
            super()._trade(symbol, number, market)


class LettingPass(Restless):
    """The same at few bars, which price and a feature select. Counts all bars, and sums their moves."""

    def __init__(self, odd: int) -> None:
        super().__init__()
        self.odd = odd
        self.seen = 0
        self.moves: dict[str, float] = {}

    def on_kline(self, kline: Kline, market: Market) -> None:
        self._count(kline.symbol, kline.close - kline.open)
        features, held = market.features(kline.symbol), bool(market.position(kline.symbol))
        if self._acts(kline.close, features.return_5, held):
            super().on_kline(kline, market)

    def quiet_bars(self, bars: BarSpan, market: Market) -> int:
        held = bool(market.position(bars.symbol))
        changes = bars.feature("return_5")
        assert len(bars) == len(bars.feature("rsi")) == len(changes)
        for name, bounds in (("rsi", {"below": 40.0, "above": 55.0}), ("return_5", {"above": 0.001})):
            found = bars.first_beyond(name, **bounds)
            assert found == first_beyond(bars.feature(name), **bounds), (name, bounds)
        for number, (close, change) in enumerate(zip(bars.close.tolist(), changes, strict=True)):
            if self._acts(close, change, held):
                return number
        return len(bars)

    def pass_over(self, bars: BarSpan) -> None:
        for opened, close in zip(bars.open.tolist(), bars.close.tolist(), strict=True):
            self._count(bars.symbol, close - opened)

    def _acts(self, close: float, change: float, held: bool) -> bool:
        return int(close * 100) % self.odd == 0 and (change > 0 or held)

    def _count(self, symbol: str, move: float) -> None:
        self.seen += 1
        self.moves[symbol] = self.moves.get(symbol, 0.0) + move


def first_beyond(
    values: Sequence[float],
    *,
    below: float = -math.inf,
    above: float = math.inf,
    weight: float = 1.0,
    offset: float = 0.0,
) -> int:
    levels = [offset + weight * value for value in values]
    return next((n for n, level in enumerate(levels) if level < below or level > above), len(levels))


class BuysCalm(Strategy):
    """Buys once the relative strength index is below 60."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        if market.features(kline.symbol).rsi < 60 and not market.position(kline.symbol):
            self.target(kline.symbol, weight=0.1)

    def quiet_bars(self, bars: BarSpan, market: Market) -> int:
        return len(bars) if market.position(bars.symbol) else bars.first_beyond("rsi", below=60)


STRATEGIES = {
    "letting bars pass": lambda rng: LettingPass(rng.choice([3, 11, 40])),
    "orders at bars": lambda rng: Restless(),
    "orders at headlines": lambda rng: Headlines(),
    "features at headlines": lambda rng: FeaturesAtHeadlines(),
    "sentiment": lambda rng: SentimentStrategy(
        SentimentStrategy.Params(
            position_size=0.5, confidence_threshold=0.5, stop=rng.choice([None, 0.03]), allow_short=True
        )
    ),
    "holding": lambda rng: BuyAndHold(),
    "averages": lambda rng: SmaCross(SmaCross.Params(fast=5, slow=30, allow_short=True)),
}


class FeaturesAtHeadlines(Restless):
    """Reads features on headlines alone."""

    on_kline = Strategy.on_kline


def configuration(rng: random.Random, symbols: Sequence[str]) -> Config:
    category = rng.choice(["linear", "linear", "spot"])
    risk = {
        "max_daily_loss": rng.choice([0.03, 0.5]),
        "max_drawdown": rng.choice([0.1, 0.9]),
        "max_leverage": 10,
    }
    risk |= {"max_position": 5, "max_order": 5, "on_max_drawdown": rng.choice(["halt", "flatten"])}
    paper = {"fill": rng.choice(["open", "close"]), "latency": rng.choice([0, 500])}
    paper |= {"max_participation": rng.choice([0.01, 0.5]), "liquidation_fee": "0.01"}
    market = {"symbols": symbols, "category": category}
    sections = {"market": market, "risk": risk, "paper": paper, "account": {"leverage": 5}}
    return parse(sections | {"signals": {"half_life": "20m", "window": "1h"}}, where="test")


def tape(rng: random.Random, symbols: Sequence[str]) -> tuple[list[ColumnSource], list[Event]]:
    sources, others = [], list[Event]()
    for symbol in symbols:
        bars: list[Kline | Gap] = []
        missing = {
            at + n
            for at in rng.sample(range(5, BARS - 40), rng.randrange(3))
            for n in range(rng.randrange(1, 9))
        }
        late = rng.choice([0, 0, 37])
        # a bar in ten trades nothing
        for number, bar in enumerate(random_walk(rng, symbol, BARS, volatility=rng.choice([0.0005, 0.002]))):
            if number < late or number in missing:
                continue
            if rng.random() < 0.1:
                bar = msgspec.structs.replace(bar, volume=0.0)
            if bars and bar.start > bars[-1].ts:
                end = bars[-1].ts
                bars.append(Gap(symbol, MINUTE_MS, end, bar.start, available_at=bar.ts, ts=bar.start))
            bars.append(bar)
        sources.append(ColumnSource(bars, rng.choice([7, 100, 5_000])))
    for number in range(rng.randrange(60)):
        at = T0 + rng.randrange(BARS) * MINUTE_MS + rng.choice([0, 0, 1, 31_500])
        bullish = rng.choice([0.03, 0.5, 0.97])
        bullish += rng.random() / 50
        others.append(
            Sentiment(f"n{number}", at, at, 1 - bullish, 0.0, bullish, symbols=(rng.choice(symbols),))
        )
    for _ in range(rng.randrange(6)):
        at = T0 + rng.randrange(BARS) * MINUTE_MS
        others.append(
            Command(rng.choice(["pause", "resume", "flatten", "resume", "kill"]), at, at, by="test")
        )
    for symbol in symbols:
        for _ in range(rng.randrange(12)):  # some of them within a bar
            at = T0 + rng.randrange(BARS) * MINUTE_MS + rng.choice([0, 0, 20_000])
            others.append(Funding(symbol, at, at, rng.choice([0.0001, -0.0003])))
    others.sort(
        key=lambda event: (
            event.available_at,
            PRIORITY[type(event)],
            event.symbol if isinstance(event, Funding) else "",
        )
    )
    return sources, others


class Log(ListSink):
    """Decisions with the number of their event."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        self.runner: BlockRunner | None = None
        self.numbered: list[tuple[int, Decision]] = []

    def decision(self, decision: Decision) -> None:
        row = 0 if self.runner is None else self.runner.row
        self.numbered.append((self.number + row, decision))

    def equity(self, *columns: Any) -> None:
        super().equity(*(np.asarray(column).tolist() for column in columns))


def run(
    strategy: Strategy, config: Config, sources: Sequence[Any], others: list[Event], *, blocks: bool
) -> Any:
    log = Log()
    engine = Engine(config, strategy, log, run_id="test")
    if blocks:
        runner, seq = BlockRunner(engine), 0
        for part in block_stream([*sources, others]):
            if isinstance(part, BarSlice):
                log.runner, log.number = runner, seq - part.first + 1
                runner.handle(part.block, part.first, part.last)
                seq += part.last - part.first
            else:
                seq += 1
                log.runner, log.number = None, seq
                engine.handle(part)
        log.runner, log.number = None, seq
        runner.finish()
    else:
        for log.number, event in enumerate(merge([*sources, others]), 1):
            engine.handle(event)
        engine.finish()
    assert isinstance(engine.exchange, MatchingExchange)
    met = engine.exchange.bars_met, engine.exchange.bars_without_volume, engine.exchange.bars_below_a_lot
    if strategy.reads_features:
        for state in engine.states.values():
            state.tracker.latest()
    else:
        for state in engine.states.values():
            state.tracker.reset()
    return log.numbered, log.samples, met, encode([engine, strategy], spec_of([strategy]))


@pytest.mark.parametrize("name", STRATEGIES)
def test_blocks_give_what_single_events_give(name: str) -> None:
    decided = 0
    for seed in range(usual(8, long=400)):
        rng = random.Random(f"{name} {seed}")
        symbols = rng.choice([SYMBOLS, SYMBOLS[:1]])
        config = configuration(rng, symbols)
        sources, others = tape(rng, symbols)
        made = [STRATEGIES[name](random.Random(seed)) for _ in range(2)]
        singly, in_blocks = (
            run(one, config, sources, others, blocks=blocks)
            for one, blocks in zip(made, (False, True), strict=True)
        )
        for number, (expected, actual) in enumerate(zip(singly, in_blocks, strict=True)):
            assert actual == expected, f"{name}, seed {seed}: part {number}"
        decided += len(singly[0])
    assert decided > 100


def test_bars_in_which_nothing_can_happen_are_passed_over() -> None:
    bars = random_walk(random.Random(1), "BTCUSDT", 6_000, volatility=0.0002)
    at = T0 + 1000 * MINUTE_MS
    news: list[Event] = [Sentiment("a", at, at, 0.01, 0.0, 0.99, symbols=("BTCUSDT",))]
    params = SentimentStrategy.Params(position_size=0.5, stop=0.3, exit_on_fade=False)
    engine, runner = replay(SentimentStrategy(params), ColumnSource(bars, 5_000), news=news)
    assert engine.portfolio.positions["BTCUSDT"].qty > 0  # a stop protects it, attached inside a bar
    assert runner.stepped < 1_000


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("at", [191, 192, 200, 223, 224])  # at the edges of a chunk and within
def test_a_stop_meets_the_bar_that_reaches_it(side: int, at: int) -> None:
    bars = flat_bars([100.0] * 400, "BTCUSDT")
    beyond = {"low": 97.0} if side > 0 else {"high": 103.0}
    bars[at] = msgspec.structs.replace(bars[at], **beyond)
    good, bad = (0.97, 0.01) if side > 0 else (0.01, 0.97)
    ts = bars[9].ts
    news: list[Event] = [Sentiment("a", ts, ts, bad, 0.02, good, symbols=("BTCUSDT",))]
    config = parse({"market": {"symbols": ["BTCUSDT"]}}, where="test")
    params = SentimentStrategy.Params(position_size=0.5, stop=0.02, exit_on_fade=False, allow_short=True)
    singly, in_blocks = (
        run(SentimentStrategy(params), config, [ColumnSource(bars, 5_000)], news, blocks=blocks)
        for blocks in (False, True)
    )
    assert in_blocks == singly
    fills = [decision for _, decision in in_blocks[0] if isinstance(decision, Fill)]
    assert [(fill.side.sign, fill.available_at) for fill in fills[1:]] == [(-side, bars[at].ts)]


def test_features_begin_anew_after_missing_bars_that_no_gap_announces() -> None:
    bars = flat_bars([100.0 + number / 10 for number in range(160)] + [120.0] * 240, "BTCUSDT")
    del bars[150:160]
    config = parse({"market": {"symbols": ["BTCUSDT"]}}, where="test")
    singly, in_blocks = (
        run(BuysCalm(), config, [ColumnSource(bars, 5_000)], [], blocks=blocks) for blocks in (False, True)
    )
    assert in_blocks == singly
    first = next(decision for _, decision in in_blocks[0] if isinstance(decision, Order))
    assert first.ts == bars[150 + 14].ts  # the fifteenth bar after the hole has the first RSI, 50


def test_a_strategy_that_declares_to_read_no_features_can_not_read_them() -> None:
    class Undeclared(Strategy):
        reads_features = False

        def on_kline(self, kline: Kline, market: Market) -> None:
            market.features(kline.symbol)

    bars = random_walk(random.Random(1), "BTCUSDT", 3)
    config = parse({"market": {"symbols": ["BTCUSDT"]}}, where="test")
    with pytest.raises(StrategyError, match="reads_features = False"):
        run(Undeclared(), config, [ColumnSource(bars, 3)], [], blocks=False)


def replay(
    strategy: Strategy, *sources: ColumnSource, news: Sequence[Event] = ()
) -> tuple[Engine, BlockRunner]:
    """Run a strategy over bars in blocks, and headlines between them."""
    symbols = [source.symbol for source in sources]
    engine = Engine(parse({"market": {"symbols": symbols}}, where="test"), strategy, Log(), run_id="test")
    runner = BlockRunner(engine)
    for part in block_stream([*sources, news]):
        if isinstance(part, BarSlice):
            runner.handle(part.block, part.first, part.last)
        else:
            engine.handle(part)
    runner.finish()
    return engine, runner


def test_a_strategy_is_called_only_for_bars_that_it_does_not_let_pass() -> None:
    called: list[int] = []

    class AtThreshold(Strategy):
        reads_features = False

        def on_kline(self, kline: Kline, market: Market) -> None:
            called.append(kline.start)

        def quiet_bars(self, bars: BarSpan, market: Market) -> int:
            above = np.flatnonzero(bars.close > 100.5)
            return above[0] if len(above) else len(bars)  # numpy's integer

    bars = [
        Kline("BTCUSDT", MINUTE_MS, T0 + n * MINUTE_MS, *[T0 + (n + 1) * MINUTE_MS] * 2, *[price] * 4, 1.0)
        for n, price in enumerate([101.0 if n in (700, 1_400, 1_401) else 100.0 for n in range(3_000)])
    ]
    replay(AtThreshold(), ColumnSource(bars, 1_000))
    numbers = [(start - T0) // MINUTE_MS for start in called]
    # also the first bars of each block, which may follow a gap, and the last one of each day; after two in a
    # row one more without being asked
    assert [n for n in numbers if n % 1_000 >= CHUNK and (n + 1) % 1_440] == [700, 1_400, 1_401, 1_402]
    assert len(numbers) < 3 * CHUNK + 7


def test_a_subclass_with_an_on_kline_of_its_own_lets_no_bars_pass() -> None:
    class Eager(SmaCross):
        def on_kline(self, kline: Kline, market: Market) -> None:
            super().on_kline(kline, market)

    class Renamed(SmaCross):
        pass

    class Both(Eager):
        def quiet_bars(self, bars: BarSpan, market: Market) -> int:
            return 0

    found = {
        kind.__name__: kind.lets_bars_pass() for kind in (Strategy, Restless, SmaCross, Eager, Renamed, Both)
    }
    wanted = {
        "Strategy": False,
        "Restless": False,
        "SmaCross": True,
        "Eager": False,
        "Renamed": True,
        "Both": True,
    }
    assert found == wanted


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"above": 0.0},
        {"below": 0.0},
        {"below": -1e-4, "above": 1e-4},
        {"above": 1e-3, "weight": 40.0, "offset": -0.05},
        {"below": math.inf},  # all but NaN
    ],
)
def test_the_first_bar_beyond_a_bound(given: dict[str, float]) -> None:
    """The feature is NaN at the first 20 bars."""
    asked = []

    class Asking(Strategy):
        def on_kline(self, kline: Kline, market: Market) -> None:
            pass

        def quiet_bars(self, bars: BarSpan, market: Market) -> int:
            values = bars.feature("return_20")
            asked.append((bars.first_beyond("return_20", **given), first_beyond(values, **given)))
            return max(1, len(bars) // 3)

    replay(Asking(), ColumnSource(random_walk(random.Random(3), "BTCUSDT", 900), 300))
    assert len(asked) > 30
    assert all(found == wanted for found, wanted in asked)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda bars: -1, "Wrong.quiet_bars returned -1"),
        (lambda bars: len(bars) + 1, "Wrong.quiet_bars returned"),
        (lambda bars: None, "Wrong.quiet_bars returned None"),
        (lambda bars: 1.5, "Wrong.quiet_bars returned 1.5"),
        (lambda bars: bars.feature("return_5"), "reads_features = False"),
        (lambda bars: bars.first_beyond("return_5", above=0), "reads_features = False"),
    ],
)
def test_a_wrong_answer_about_quiet_bars_is_an_error(answer: Any, message: str) -> None:
    class Wrong(Strategy):
        reads_features = False

        def on_kline(self, kline: Kline, market: Market) -> None:
            pass

        def quiet_bars(self, bars: BarSpan, market: Market) -> int:
            return answer(bars)

    bars = random_walk(random.Random(1), "BTCUSDT", 200)
    with pytest.raises(StrategyError, match=message):
        replay(Wrong(), ColumnSource(bars, 200))


def test_the_bars_that_come_can_not_be_written() -> None:
    class Writing(LettingPass):
        def quiet_bars(self, bars: BarSpan, market: Market) -> int:
            for name in ("open", "high", "low", "close", "volume", "start", "end"):
                column = getattr(bars, name)
                assert len(column) == len(bars) > 0
                with pytest.raises(ValueError, match="read-only"):
                    column[0] = 0
            with pytest.raises(StrategyError, match="there is no feature 'rsj'"):
                bars.feature("rsj")
            with pytest.raises(StrategyError, match="there is no feature 'rsj'"):
                bars.first_beyond("rsj", above=0.0)
            self.odd = 0
            return len(bars)

    rng = random.Random(1)
    for symbols in (SYMBOLS, SYMBOLS[:1]):
        strategy = Writing(1_000_000)
        replay(strategy, *(ColumnSource(random_walk(rng, symbol, 200), 200) for symbol in symbols))
        assert strategy.odd == 0
