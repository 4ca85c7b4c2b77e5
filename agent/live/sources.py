"""The sources of a live run, each going on where the run's journal ends."""

from __future__ import annotations

from agent.clock import Clock
from agent.config import Config
from agent.config_live import LiveConfig
from agent.errors import ConfigError
from agent.events import Event, Kline
from agent.feeds.bybit.producer import KlineProducer
from agent.feeds.producer import Emit, Producer, deliver
from agent.live.memory import Memory
from strategies import strategy_class


def hears_headlines(config: Config) -> bool:
    """Whether the strategy needs news and a model at all."""
    return strategy_class(config.strategy.name).hears("on_news", "on_sentiment", "on_signal", "on_faded")


def market_data(config: Config, clock: Clock, memory: Memory) -> Producer:
    """Klines of what is traded. Raises ConfigError for a market that Bybit doesn't have."""
    market = config.market
    if market.category == "equity":
        raise ConfigError(
            "market.category is equity, and live data come from Bybit", hint="linear or spot; equities are replayed"
        )
    return KlineProducer(config.bybit, market.category, market.symbols, (market.interval,), clock, last=memory.bars)


class OpenBars:
    """Lets one state of each open bar through in `every` ms, 0: all. Closed bars and everything else always pass."""

    def __init__(self, config: LiveConfig, emit: Emit) -> None:
        self._every = config.open_bars_every
        self._emit = emit
        self._last: dict[str, int] = {}

    async def __call__(self, event: Event) -> None:
        """Pass on, or drop."""
        if self._every and isinstance(event, Kline) and not event.confirm:
            if event.ts - self._last.get(event.symbol, 0) < self._every:
                return
            self._last[event.symbol] = event.ts
        await deliver(self._emit, event)
