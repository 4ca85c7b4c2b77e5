"""The sources of a live run, each going on where the run's journal ends."""

from __future__ import annotations

import random

from agent.config import Config
from agent.core.errors import ConfigError
from agent.core.features import WARM_UP_BARS
from agent.core.fusion_inputs import Predictor
from agent.live.interfaces.producer import Producer
from agent.live.market_data.kline_producer import KlineProducer
from agent.live.news.news_producer import NewsProducer
from agent.live.order_routing import check_venue
from agent.live.resume import ResumePoint
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
    config: Config, clock: Clock, memory: ResumePoint, rng: random.Random, predictor: Predictor | None = None
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
