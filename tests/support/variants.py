"""Random tapes, and strategies that write down all that they see: for engines alone and in lockstep."""

from __future__ import annotations

import random
from math import isnan
from typing import Any

import numpy as np

from agent.core.events import (
    MINUTE_MS,
    PRIORITY,
    AssetSentiment,
    Command,
    Event,
    Funding,
    Gap,
    Kline,
    News,
    Sentiment,
)
from agent.core.features import Features
from agent.core.fusion_inputs import Forecast
from agent.core.strategy import Market, Strategy, StrategyParams
from tests.support.market import T0

SYMBOLS = ("BTCUSDT", "ETHUSDT")
WORDS = ("bitcoin", "ether", "falls", "rises", "listed", "hacked", "banned", "bought", "sold", "fund", "fed")
COMMANDS = ("pause", "resume", "halt", "kill", "flatten", "heartbeat", "warm-up", "warm-up-done")


def tape(seed: int, bars: int, *, commands: bool, odd_bars: bool) -> list[Event]:
    """Return a market of two symbols: bars with gaps and repetitions, funding, headlines and commands."""
    dice = random.Random(seed)
    events: list[Event] = []
    for symbol in SYMBOLS:
        events += _bars(dice, symbol, bars, odd_bars=odd_bars)
        for _ in range(dice.randrange(6)):
            at = T0 + dice.randrange(bars) * MINUTE_MS + dice.choice((0, 0, 17_000))
            late = dice.choice((0, 0, 0, 45_000))
            events.append(Funding(symbol, at, at + late, dice.uniform(-0.002, 0.002)))
    for number in range(dice.randrange(bars // 4)):
        events += _headline(dice, number, T0 + dice.randrange(bars * MINUTE_MS))
    for _ in range(dice.randrange(5) if commands else 0):
        at = T0 + dice.randrange(bars) * MINUTE_MS
        args = {"confirm": "resume from kill"} if dice.random() < 0.5 else {}
        events.append(Command(dice.choice(COMMANDS), at, at, args, by="operator"))
    return sorted(events, key=lambda event: (event.available_at, PRIORITY[type(event)]))


def _bars(dice: random.Random, symbol: str, bars: int, *, odd_bars: bool) -> list[Event]:
    events: list[Event] = []
    price, jump = 100.0, dice.choice((0.0005, 0.004, 0.03))
    for number in range(bars):
        opened = price
        high, low = opened * (1 + dice.random() * jump), opened * (1 - dice.random() * jump)
        price = round(dice.uniform(low, high), 2)
        opened, high, low = round(opened, 2), round(max(high, price), 2), round(min(low, price), 2)
        start = T0 + number * MINUTE_MS
        end = start + MINUTE_MS
        volume = dice.choice((0.0, 1.0, 50.0, 50.0))
        if odd_bars and dice.random() < 0.02:
            if dice.random() < 0.5:
                events.append(Gap(symbol, MINUTE_MS, start, end, available_at=end + MINUTE_MS, ts=end))
            continue
        if odd_bars and dice.random() < 0.05:
            at = start + 30_000
            events.append(
                Kline(symbol, MINUTE_MS, start, at, at, opened, high, low, low, volume, confirm=False)
            )
        bar = Kline(symbol, MINUTE_MS, start, end, end, opened, high, low, price, volume)
        events += [bar] * (2 if odd_bars and dice.random() < 0.02 else 1)
    return events


def _headline(dice: random.Random, number: int, at: int) -> list[Event]:
    title = " ".join(dice.choice(WORDS) for _ in range(4))
    events: list[Event] = [News(f"n{number}", at, at, title, actionable=dice.random() < 0.9)]
    if dice.random() < 0.1:
        return events
    later = at + dice.randrange(90_000)
    events.append(_sentiment(dice, number, later, provisional=dice.random() < 0.3))
    if dice.random() < 0.3:
        later += dice.randrange(120_000)
        events.append(_sentiment(dice, number, later, provisional=False))
    return events


def _sentiment(dice: random.Random, number: int, at: int, *, provisional: bool) -> Sentiment:
    bullish = dice.choice((0.05, 0.9, dice.random()))
    neutral = (1 - bullish) * dice.random()
    assets = (AssetSentiment("BTC", 1 - bullish - neutral, neutral, bullish),) if dice.random() < 0.3 else ()
    return Sentiment(
        f"n{number}",
        at,
        at,
        1 - bullish - neutral,
        neutral,
        bullish,
        abstained=dice.random() < 0.2,
        symbols=() if dice.random() < 0.5 else (dice.choice(SYMBOLS),),
        assets=assets,
        provisional=provisional,
    )


class Coin:
    """A fusion model whose predictions depend on all of its inputs."""

    fingerprint = "coin"
    half_life = 10 * MINUTE_MS
    interval = 2 * MINUTE_MS

    def vector(self, sentiment: Sentiment, asset: str) -> np.ndarray | None:
        return np.array((sentiment.of(asset).bullish,)) if sentiment.bullish < 0.95 else None

    def read(self, mean: Any) -> Any:
        return mean

    def predict(self, features: Features, reading: Any, mass: float) -> Forecast:
        up = abs(features.return_1 * 100) % 1
        return Forecast(1 - up, 0.0, up, mass + (0.0 if reading is None else float(reading[0])))


class Params(StrategyParams):
    """Parameters of the test strategies."""

    seed: int = 0
    rate: float = 0.2  # of callbacks that set a target
    fails_at: int = 0  # number of the callback that raises


class Watcher(Strategy[Params]):
    """Writes down what it sees at each callback, and trades at random."""

    def __init__(self, params: Params | None = None) -> None:
        super().__init__(params)
        self.seen: list[Any] = []
        self.dice = random.Random(self.params.seed)

    def look(self, what: str, market: Market, symbol: str) -> None:
        self.seen.append((what, market.now, market.equity, market.risk_state, self.view(market)))
        if len(self.seen) == self.params.fails_at:
            raise ValueError("no more")
        if self.dice.random() < self.params.rate:
            self.target(symbol, **self.wish(market, symbol))
        if self.dice.random() < 0.05:
            self.plot("line", self.dice.random())
            self.notify(f"{what} {symbol}")

    def view(self, market: Market) -> list[Any]:
        """Return what the market shows, without NaN, which equals nothing."""
        found: list[Any] = []
        for symbol in market.symbols:
            position = market.position(symbol)
            found += [float(position), position.qty, position.stop, position.trail, position.take_profits]
            found += [position.age, position.open_profit, market.signal(symbol), market.prediction(symbol)]
            numbers = (market.price(symbol), market.weight(symbol), *market.features(symbol))
            found += [None if isnan(number) else number for number in numbers]
        return found

    def wish(self, market: Market, symbol: str) -> dict[str, Any]:
        """Return a random target."""
        dice, side = self.dice, self.dice.choice((-1, 1, 1))
        price = market.price(symbol)
        kind = dice.randrange(8)
        if isnan(price) or kind == 0:
            return {"weight": 0}
        if kind == 1:
            return {"weight": side * 0.5, "limit": price * (1 - side * 0.001), "expire": "3m"}
        if kind == 2:
            return {"weight": side * 0.4, "stop": -side * 0.003, "take_profit": side * 0.004}
        if kind == 3:
            return {"risk": 0.01, "stop": -side * 0.01, "trail": -side * 0.004}
        if kind == 4:
            levels = [(side * 0.002, 0.5), (side * 0.005, 0.5)]
            return {"weight": side * 0.6, "take_profit": levels}
        if kind == 5:
            return {"qty": side * 3, "stop_entry": price * (1 + side * 0.001)}
        return {"weight": side * dice.choice((0.2, 0.9, 2.5))}


class EveryBar(Watcher):
    def on_kline(self, kline: Kline, market: Market) -> None:
        self.look("kline", market, kline.symbol)


class EveryFiveMinutes(Watcher):
    intervals = ("1m", "5m")

    def on_bar(self, bar: Any, market: Market) -> None:
        if bar.interval == "5m":
            bars = market.bars(bar.symbol, "5m", 10)
            self.seen.append((bar, bars.close.tolist(), bars.missing.tolist()))
            self.look("bar", market, bar.symbol)


class Indicated(Watcher):
    intervals = ("3m",)

    def on_bar(self, bar: Any, market: Market) -> None:
        length = 3 + self.params.seed % 2
        mean = self.ta.SMA(bar.symbol, "3m", timeperiod=length)
        column = self.ta.EMA(bar.symbol, "3m", timeperiod=length, window=length + 4, history=3)
        self.seen.append(repr((mean, column.tolist())))
        self.look("bar", market, bar.symbol)


class SignalsOnly(Watcher):
    def on_signal(self, signal: Any, market: Market) -> None:
        self.look(f"signal {signal}", market, signal.symbol)

    def on_signal_expired(self, signal: Any, market: Market) -> None:
        self.look(f"expired {signal}", market, signal.symbol)


class Everything(EveryFiveMinutes, EveryBar, SignalsOnly):
    def on_news(self, news: News, market: Market) -> None:
        self.look(news.title, market, SYMBOLS[0])

    def on_sentiment(self, sentiment: Sentiment, market: Market) -> None:
        self.look(sentiment.news_id, market, SYMBOLS[1])

    def on_prediction(self, prediction: Any, market: Market) -> None:
        self.look(f"prediction {prediction}", market, prediction.symbol)

    def on_fill(self, fill: Any, market: Market) -> None:
        self.look(f"fill {fill}", market, fill.symbol)


class Predicted(Watcher):
    def on_prediction(self, prediction: Any, market: Market) -> None:
        self.look(f"prediction {prediction}", market, prediction.symbol)


class FillsOnly(SignalsOnly):
    def on_fill(self, fill: Any, market: Market) -> None:
        self.look(f"fill {fill}", market, fill.symbol)


KINDS: tuple[type[Watcher], ...] = (
    EveryBar,
    EveryFiveMinutes,
    Indicated,
    SignalsOnly,
    Everything,
    Predicted,
    FillsOnly,
)
