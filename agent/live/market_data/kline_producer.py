"""Kline producer: emits each closed bar of each series once and in order, even if connections are lost.

After each connect, and if a bar is missing, the series is held back while the REST history is fetched. Bars
that neither source has become a `Gap`. Bars that are still open are emitted as marks.
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
from agent.core.events import PastBars
from agent.live.interfaces.producer import Emit
from agent.live.market_data.backfill import FetchedBars, KlineHistory
from agent.live.market_data.bybit_stream import KlineHealth, split_topics
from agent.live.market_data.connection_shard import ConnectionShard
from agent.live.market_data.kline_series import KlineSeries
from agent.live.market_data.price_band import PriceBand
from agent.live.market_data.warm_up_plan import WarmUpPlan
from agent.system.backoff import Budget
from agent.system.clock import Clock
from agent.system.clock_discipline import DisciplinedClock

_TROUBLE_INTERVAL: Final = 2.0  # seconds between two measurements while the time sources disagree
_PAST_ROWS: Final = 5_000  # bars of one event
_PAST_INTERVAL: Final = 0.2  # seconds between two requests for a bar that the history does not have yet
_log: Final = structlog.get_logger(__name__)


class KlineProducer:
    """Klines of `symbols` at `intervals` (ms) in a category, `linear` or `spot`.

    `last` maps (symbol, interval) to the start of the last closed bar that is already known (UTC ms); the
    bars after it are fetched. Without it, `config.warmup_bars` bars of history come first, or the bars by
    interval in `warm_up` if these are more. `closes` holds the close of that bar, the first reference of the
    price band. `rng` spreads reconnections.
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
        warm_up: Mapping[str, int] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        known, prices = last or {}, closes or {}
        self._config = config
        self._category = category
        self._clock = clock
        self._rng = rng or random.Random()
        self._series = {
            f"kline.{interval_code(interval)}.{symbol}": KlineSeries(
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
        self._warm_up = WarmUpPlan(config.warmup_bars, warm_up or {})
        self._shards: list[ConnectionShard] = []

    @property
    def health(self) -> KlineHealth:
        """A snapshot."""
        health = msgspec.structs.replace(self._health, rejected=set(self._health.rejected))
        health.duplicates = sum(series.duplicates for series in self._series.values())
        health.stale = sum(series.stale for series in self._series.values())
        if any(shard.state != "live" for shard in self._shards):
            health.state = next(shard.state for shard in self._shards if shard.state != "live")
        elif self._shards:
            accepted = [series for topic, series in self._series.items() if topic not in health.rejected]
            health.state = "live" if all(series.live for series in accepted) else "catching up"
        return health

    async def run(self, emit: Emit) -> None:
        """Emit `Kline` and `Gap` until cancelled. Raises only what `emit` raises."""
        config, clock = self._config, self._clock
        async with KlineHistory(config, self._category, clock, self._requests) as history:
            try:
                async with asyncio.TaskGroup() as tasks:
                    if isinstance(clock, DisciplinedClock):
                        tasks.create_task(self._sync_clock(clock, history))
                    for topics in split_topics(list(self._series), config.args_characters):
                        series = {topic: self._series[topic] for topic in topics}
                        shard = ConnectionShard(
                            series,
                            config,
                            self._category,
                            clock,
                            history,
                            self._health,
                            emit,
                            self._rng,
                            self._warm_up,
                        )
                        self._shards.append(shard)
                        tasks.create_task(shard.run(self._connects))
            finally:
                self._shards.clear()

    async def read_past(
        self, needed: Mapping[str, int], known: Mapping[str, int], *, as_at_start: bool = False
    ) -> list[PastBars]:
        """Read the bars that a strategy needs, `needed` by interval, as at the start of a run.

        Only the symbols in `known` are read. Their bars of the run's interval end with the one that starts
        there (UTC ms), or later. With `as_at_start` at least the bars are read that begin each run, whatever
        the strategy needs. Raises VenueError, and TimeoutError after `backfill_timeout`.
        """
        plan, read = WarmUpPlan(self._config.warmup_bars if as_at_start else 0, needed), list[PastBars]()
        async with (
            asyncio.timeout(self._config.backfill_timeout / 1000),
            KlineHistory(self._config, self._category, self._clock, self._requests) as history,
        ):
            for series in self._series.values():
                if series.symbol not in known:
                    continue
                now, base = self._clock.now(), series.interval
                for interval, start in plan.higher(now, base).items():
                    read += self._past_bars(
                        series.symbol, interval, await history.fetch(series.symbol, interval, start)
                    )
                begin = plan.start(now - now % base, base)
                while True:
                    found = await history.fetch(series.symbol, base, begin)
                    if found.bars and found.bars[-1].start >= known[series.symbol]:
                        break
                    await asyncio.sleep(_PAST_INTERVAL)  # the venue is still writing the last bar
                read += self._past_bars(series.symbol, base, found)
        return read

    def _past_bars(self, symbol: str, interval: int, found: FetchedBars) -> list[PastBars]:
        self._health.corrupt += found.unsound
        now = self._clock.now()
        rows = [(bar.start, bar.open, bar.high, bar.low, bar.close, bar.volume) for bar in found.bars]
        return [
            PastBars(symbol, interval, now, now, tuple(rows[first : first + _PAST_ROWS]))
            for first in range(0, len(rows), _PAST_ROWS)
        ]

    async def _sync_clock(self, clock: DisciplinedClock, history: KlineHistory) -> Never:
        """Measure the venue's time periodically, and more often while the time sources disagree."""
        while True:
            try:
                async with asyncio.timeout(self._config.rest_timeout / 1000):
                    await history.sync_clock()
            except (VenueError, TimeoutError) as error:
                _log.info("venue time not measured", reason=str(error) or "timeout")
            await asyncio.sleep(
                _TROUBLE_INTERVAL if clock.check().trouble else self._config.clock_every / 1000
            )
