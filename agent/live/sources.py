"""The sources of a live run, each going on where the run's journal ends."""

from __future__ import annotations

import asyncio
import random

from msgspec.structs import replace

from agent.config import Config
from agent.core.errors import ConfigError
from agent.core.events import Event, Kline, News, Sentiment
from agent.core.features import WARM_UP_BARS
from agent.core.fusion_inputs import Predictor
from agent.data.text import news_id, title_key
from agent.live.event_filter import OpenBars
from agent.live.market_data.kline_producer import KlineProducer
from agent.live.news.news_producer import NewsProducer
from agent.live.order_routing import check_venue
from agent.live.producer import Emit, Producer, deliver
from agent.live.resume import Memory, words_of
from agent.replay.fusion_model import wants_headlines
from agent.system.clock import Clock


def check(config: Config) -> None:
    """Raises ConfigError for what can't run live: a market that Bybit doesn't have, orders and data of two markets, headlines
    without a feed."""
    if config.market.category == "equity":
        raise ConfigError(
            "market.category is equity, and live data come from Bybit",
            hint="linear or spot; equities are replayed",
        )
    config.check_live()
    check_venue(config)
    if wants_headlines(config) and not config.news.feeds:
        raise ConfigError(
            f"strategy {config.strategy.name} or its model reads headlines, and news.feeds names no feed",
            hint="add [[news.feeds]]",
        )


def market_data(
    config: Config, clock: Clock, memory: Memory, rng: random.Random, predictor: Predictor | None = None
) -> Producer:
    """Klines of what is traded."""
    market, bybit = config.market, config.bybit
    if predictor is not None:  # so that its features are warm by the first live bar
        needed = (WARM_UP_BARS + 1) * predictor.interval // market.interval
        bybit = bybit.model_copy(update={"warmup_bars": max(bybit.warmup_bars, needed)})
    return KlineProducer(
        bybit,
        market.category,
        market.symbols,
        (market.interval,),
        clock,
        last=memory.bars,
        closes=memory.closes,
        rng=rng,
    )


def headlines(config: Config, clock: Clock, rng: random.Random) -> NewsProducer:
    """Headlines of the configured feeds."""
    return NewsProducer(config.news, clock, rng=rng)


class Gate:
    """Before the queue: a headline passes once in the life of a run, and of an open bar the states that `OpenBars` picks.

    Feeds list a headline for days. Which ones a run has had is in its journal, so nothing else must be remembered.
    """

    def __init__(self, open_bars: OpenBars, memory: Memory, emit: Emit, writable: asyncio.Event) -> None:
        self._open_bars = open_bars
        self._memory = memory
        self._emit = emit
        self._writable = writable
        self._before = {words[32:] for words in memory.headlines.values() if words}

    async def __call__(self, event: Event) -> None:
        """Pass on, or drop."""
        if isinstance(event, Kline):
            for bar in self._open_bars.on_bar(event):
                await deliver(self._emit, bar)
            return
        if isinstance(event, News):
            await self._writable.wait()  # a queue that nobody empties would drop them
            headline = self._new(event)
            if headline is None:
                return
            event = headline
        if isinstance(event, News | Sentiment):
            for bar in self._open_bars.catch_up():
                await deliver(self._emit, bar)
        await deliver(self._emit, event)

    def _new(self, news: News) -> News | None:
        """The headline, under an id of its own if the run has another title under its id; None if the run has it.

        After a restart feeds know nothing of what they gave out: an id that entries share, or that a feed changes, tells nothing, and
        then the same feed, address and title are the same headline.
        """
        words = words_of(news)
        known = self._memory.headlines.get(news.id, "")
        untitled = news.summary.startswith(news.title)  # then the id alone counts, for a summary changes
        if known is None or known[:32] == words[:32] or (known and untitled) or words[32:] in self._before:
            return None
        if not known:
            return news
        own = replace(news, id=news_id("", news.id, title_key(news.title), 0))
        return None if own.id in self._memory.headlines else own
