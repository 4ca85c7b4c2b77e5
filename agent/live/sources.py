"""Producers of a live run; each continues where the run's journal ends."""

from __future__ import annotations

import random
from collections.abc import Mapping

from agent.config import Config
from agent.core.errors import ConfigError
from agent.core.features import WARM_UP_BARS
from agent.core.fusion_inputs import Predictor
from agent.live.market_data.kline_producer import KlineProducer
from agent.live.news.news_producer import NewsProducer
from agent.live.order_routing import check_venue
from agent.live.resume import ResumePoint
from agent.replay.fusion_model import wants_headlines
from agent.replay.open_engine import check_sleeved, name_of
from agent.system.clock import Clock


def check_live_config(config: Config) -> None:
    """Raise ConfigError for a configuration that can't run live.

    Such as a market that Bybit doesn't have, orders and data of different markets, or headlines without a
    feed, or a twin of several strategies.
    """
    if config.market.category == "equity":
        raise ConfigError(
            "market.category is equity, and live data come from Bybit",
            hint="linear or spot; equities are replayed",
        )
    config.check_live()
    if config.sleeves:
        check_sleeved(config)
        if config.twin.enabled and config.execution.mode != "paper":
            raise ConfigError(
                "twin.enabled is true, and only a run of one strategy has a twin, not [[sleeves]]",
                hint="write twin.enabled = false",
            )
    check_venue(config)
    if wants_headlines(config) and not config.news.feeds:
        raise ConfigError(
            f"strategy {name_of(config)} or its model reads headlines, and news.feeds names no feed",
            hint="add [[news.feeds]]",
        )


def make_kline_producer(
    config: Config,
    clock: Clock,
    memory: ResumePoint,
    rng: random.Random,
    predictor: Predictor | None = None,
    *,
    warm_up: Mapping[str, int] | None = None,
) -> KlineProducer:
    """Make the producer of bars; with a fusion model, of enough history to warm its features up.

    `warm_up` are the bars by interval that the strategy needs.
    """
    market, bybit = config.market, config.bybit
    if predictor is not None:
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
        warm_up=warm_up,
        rng=rng,
    )


def make_news_producer(config: Config, clock: Clock, rng: random.Random) -> NewsProducer:
    """Make the producer of headlines from the configured feeds."""
    return NewsProducer(config.news, clock, rng=rng)
