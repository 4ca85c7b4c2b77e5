"""The kline producer: every closed bar of every series once and in order, whatever becomes of the
connections.

After each connect, and wherever a bar turns out to be missing, the series' stream is held back while the REST
history is asked; what neither has becomes a `Gap`. Bars that are still open go on as marks.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Final, Never

import msgspec
import structlog

from agent.config.bybit import CONNECT_WINDOW, REQUEST_WINDOW, interval_code
from agent.config.live import BybitConfig
from agent.core.errors import VenueError
from agent.live.interfaces.producer import Emit
from agent.live.market_data.backfill import KlineHistory
from agent.live.market_data.connection_shard import Shard
from agent.live.market_data.kline_health import KlineHealth
from agent.live.market_data.kline_series import Series
from agent.live.market_data.price_band import PriceBand
from agent.live.market_data.public_stream import split
from agent.system.backoff import Budget
from agent.system.clock import Clock
from agent.system.clock_discipline import DisciplinedClock

_SOON: Final = 2.0  # seconds between two measurements while the sources of time disagree
_log: Final = structlog.get_logger(__name__)


class KlineProducer:
    """Klines of `symbols` at `intervals` (ms) in a category, `linear` or `spot`.

    `last` says, for (symbol, interval), the start of the last closed bar that is known already (UTC ms): its
    successors are fetched. Without it, `config.warmup_bars` bars of history come first. `closes` has its
    close, from which the price band goes on. `rng` spreads reconnections.
    """

    name = "bybit"

    def __init__(
        self,
        config: BybitConfig,
        category: str,
        symbols: Sequence[str],
        intervals: Sequence[int],
        clock: Clock,
        *,
        last: Mapping[tuple[str, int], int] | None = None,
        closes: Mapping[tuple[str, int], float] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        known, prices = last or {}, closes or {}
        self._config = config
        self._category = category
        self._clock = clock
        self._rng = rng or random.Random()
        self._series = {
            f"kline.{interval_code(interval)}.{symbol}": Series(
                symbol,
                interval,
                known.get((symbol, interval)),
                band=PriceBand(config.max_jump, config.confirm_jump, prices.get((symbol, interval))),
            )
            for interval in dict.fromkeys(intervals)
            for symbol in dict.fromkeys(symbols)
        }
        self._health = KlineHealth(self.name)
        self._connects = Budget(config.max_connects, CONNECT_WINDOW)
        self._requests = Budget(config.max_requests, REQUEST_WINDOW)
        self._shards: list[Shard] = []

    @property
    def health(self) -> KlineHealth:
        """A snapshot."""
        health = msgspec.structs.replace(self._health, rejected=set(self._health.rejected))
        series = self._series.values()
        health.duplicates = sum(one.duplicates for one in series)
        health.stale = sum(one.stale for one in series)
        if any(shard.state != "live" for shard in self._shards):
            health.state = next(shard.state for shard in self._shards if shard.state != "live")
        elif self._shards:
            held = any(not one.live for topic, one in self._series.items() if topic not in health.rejected)
            health.state = "catching up" if held else "live"
        return health

    async def run(self, emit: Emit) -> None:
        """Emit `Kline` and `Gap` until cancelled. Raises only what `emit` raises."""
        parts = split(list(self._series), self._config.args_characters)
        async with KlineHistory(self._config, self._category, self._clock, self._requests) as history:
            try:
                async with asyncio.TaskGroup() as tasks:
                    if isinstance(self._clock, DisciplinedClock):
                        tasks.create_task(self._keep_time(self._clock, history))
                    for topics in parts:
                        series = {topic: self._series[topic] for topic in topics}
                        shard = Shard(
                            series,
                            self._config,
                            self._category,
                            self._clock,
                            history,
                            self._health,
                            emit,
                            self._rng,
                        )
                        self._shards.append(shard)
                        tasks.create_task(shard.run(self._connects))
            finally:
                self._shards.clear()

    async def _keep_time(self, clock: DisciplinedClock, history: KlineHistory) -> Never:
        """Measure the venue's time now and then, and often while the sources of time disagree."""
        while True:
            try:
                async with asyncio.timeout(self._config.rest_timeout / 1000):
                    await history.measure()
            except (VenueError, TimeoutError) as error:
                _log.info("the venue's time is not measured", reason=str(error) or "no answer in time")
            await asyncio.sleep(_SOON if clock.check().trouble else self._config.clock_every / 1000)
