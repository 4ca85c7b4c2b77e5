"""The series of one connection: reconnect, fill from the history what the stream lost, and emit."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Never

import structlog

from agent.config.bybit import endpoint
from agent.config.live import BybitConfig
from agent.core.errors import VenueError
from agent.core.events import Command, Gap, Kline
from agent.core.risk import PRICE_BAND
from agent.data.kline_messages import Frame, is_sound, read_rows, to_kline
from agent.live.interfaces.producer import Emit, State, deliver
from agent.live.market_data.backfill import KlineHistory, RequestRejected
from agent.live.market_data.bybit_stream import BybitStream, HandshakeRejected, KlineHealth, StreamLost
from agent.live.market_data.kline_series import KlineSeries
from agent.live.market_data.warm_up_plan import WarmUpPlan
from agent.system.backoff import Budget, Reconnection, delays
from agent.system.clock import Clock, iso, speed_of
from agent.system.clock_discipline import DisciplinedClock
from agent.system.untrusted import JSON_DECODE_ERRORS

_log: Final = structlog.get_logger(__name__)
_WORKERS: Final = 8  # histories fetched at a time; the request budget is the actual limit
_ALARM_INTERVAL: Final = 60.0  # seconds between two alarms about one symbol
_SUSPENDED: Final = 1.0  # seconds past a deadline that show that the process was suspended
_SKEW: Final = -1_000  # ms; a message from further in the future means that this clock is behind


class ConnectionShard:
    """`series` by topic, fed by one connection. `health` is shared by all connections.

    `warm_up` states which bars are read before the first one of a series; by default `config.warmup_bars`.
    """

    def __init__(
        self,
        series: Mapping[str, KlineSeries],
        config: BybitConfig,
        category: str,
        clock: Clock,
        history: KlineHistory,
        health: KlineHealth,
        emit: Emit,
        rng: random.Random,
        warm_up: WarmUpPlan | None = None,
    ) -> None:
        self.state: State = "connecting"
        self._series = series
        self._config = config
        self._discipline = clock if isinstance(clock, DisciplinedClock) else None
        self._max_ahead = round(config.max_ahead * speed_of(clock))
        self._last_alarm: dict[str, float] = {}  # by symbol; time of the event loop
        self._url = f"{endpoint(config.endpoint).stream}/v5/public/{category}"
        self._clock = clock
        self._history = history
        self._health = health
        self._emit = emit
        self._rng = rng
        self._warm_up = warm_up or WarmUpPlan(config.warmup_bars, {})
        self._higher_read: set[tuple[KlineSeries, int]] = set()  # series and higher interval
        self._emit_lock = asyncio.Lock()  # so that the bars of stream and history don't interleave
        self._backfill_queue: asyncio.Queue[KlineSeries] = asyncio.Queue()
        self._queued: set[KlineSeries] = set()

    async def run(self, connects: Budget) -> Never:
        """Connect, and reconnect whenever the connection is lost. Raises only what `emit` raises.

        `connects` limits the connection attempts of all shards together.
        """
        loop = asyncio.get_running_loop()
        reconnection = Reconnection(self._config.reconnect, self._rng)
        while True:
            await connects.take()
            self.state = "connecting"
            for series in self._series.values():
                series.suspend()
            self._backfill_queue = asyncio.Queue()
            self._queued.clear()
            stream = BybitStream(
                self._url,
                list(self._series),
                self._config,
                self._clock,
                self._health,
                self._on_data,
                self._on_ready,
            )
            try:
                await stream.run(self._watch_overdue, *[self._run_backfills] * _WORKERS)
            except HandshakeRejected as error:
                connects.close(loop.time() + error.wait)
                reason = error.message
            except StreamLost as error:
                reason = error.message
            lived = 0.0 if stream.opened_at is None else loop.time() - stream.opened_at
            wait = reconnection.after(lived)
            self.state = "waiting"
            self._health.reconnects += 1
            self._health.failed(reason, self._clock.now())
            _log.warning(
                "stream lost",
                url=self._url,
                reason=reason,
                lived_s=round(lived, 3),
                wait_s=round(max(wait, connects.delay(loop.time())), 3),
            )
            await asyncio.sleep(wait)

    def _on_ready(self, accepted: Sequence[str]) -> None:
        self.state = "live"
        _log.info("stream ready", url=self._url, topics=len(accepted))
        for topic in accepted:
            self._queue_backfill(self._series[topic])

    async def _on_data(self, frame: Frame) -> None:
        series = self._series.get(frame.topic)
        if series is None:
            self._health.unknown += 1
            _log.info("topic unknown", topic=frame.topic)
            return
        if self._discipline is not None:
            self._discipline.add_stamp(frame.ts)
        now = self._clock.now()
        latest = now + self._max_ahead
        try:
            rows = read_rows(frame.data)
        except JSON_DECODE_ERRORS as error:
            self._health.corrupt += 1
            _log.warning("message corrupt", topic=frame.topic, error=str(error))
            return
        if frame.ts > latest:
            self._health.ahead += 1
        ts = min(frame.ts, latest)
        for row in rows:
            if not is_sound(row, series.interval, ts) or (
                row.confirm and row.start + series.interval > latest
            ):
                self._health.corrupt += 1
                self._health.ahead += row.start + row.confirm * series.interval > latest
                _log.warning("bar unsound", topic=frame.topic, bar=row, ts=frame.ts)
                continue
            await self._check_price(series, to_kline(row, series.symbol, series.interval, ts, now))
        if frame.ts <= latest:
            self._update_lag(now - frame.ts)
        if not series.live:
            self._queue_backfill(series)

    async def _check_price(self, series: KlineSeries, bar: Kline) -> None:
        """Add the bar to its series, or withhold it and raise an alarm if its price must be confirmed
        first.
        """
        known = series.last is not None and bar.start <= series.last
        if known or (series.band.accepts_bar(bar) if bar.confirm else series.band.accepts_price(bar)):
            await self._emit_all(series.add(bar))
            return
        self._health.withheld += 1
        if bar.confirm:
            series.require_history(bar.start)
        if not series.band.has_price:
            return
        loop, what = asyncio.get_running_loop(), f"{'bar' if bar.confirm else 'price'} outside the band"
        if loop.time() - self._last_alarm.get(series.symbol, -_ALARM_INTERVAL) < _ALARM_INTERVAL:
            return
        self._last_alarm[series.symbol] = loop.time()
        prices = f"low {bar.low:g}, high {bar.high:g}, last {bar.close:g}"
        detail = f"{what}: {prices}; withheld until it is confirmed"
        _log.warning("price withheld", symbol=series.symbol, detail=detail)
        now = self._clock.now()
        self._health.failed(f"{series.symbol}: {detail}", now)
        alarm = {"rule": PRICE_BAND, "detail": detail, "symbol": series.symbol}
        await deliver(self._emit, Command("alarm", now, now, alarm, self._health.name))

    def _update_lag(self, lag: int) -> None:
        if lag < _SKEW <= self._health.lag:
            _log.warning("clock behind the venue's", ms=-lag)
        self._health.lag = lag

    async def _emit_all(self, events: Iterator[Kline | Gap]) -> None:
        async with self._emit_lock:
            for event in events:
                if isinstance(event, Gap):
                    self._health.gaps += 1
                    self._health.missing += (event.end - event.start) // event.interval
                    _log.warning("gap", symbol=event.symbol, start=iso(event.start), end=iso(event.end))
                await deliver(self._emit, event)

    # -- history --------------------------------------------------------------------------------------

    def _queue_backfill(self, series: KlineSeries) -> None:
        if series not in self._queued:
            self._queued.add(series)
            self._backfill_queue.put_nowait(series)

    async def _run_backfills(self) -> Never:
        while True:
            series = await self._backfill_queue.get()
            if not series.live:
                await self._backfill(series)
            self._queued.discard(series)

    async def _backfill(self, series: KlineSeries) -> None:
        """Fetch missing bars, with retries until `backfill_timeout`; then continue without them."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.backfill_timeout / 1000
        for wait in delays(self._config.retry, self._rng):
            try:
                async with asyncio.timeout_at(deadline):
                    await self._read_higher(series)
                    start = self._backfill_start(series)
                    history = await self._history.fetch(series.symbol, series.interval, start)
            except (VenueError, TimeoutError) as error:
                reason = str(error) or f"no history of {series.symbol} in {self._config.backfill_timeout} ms"
                self._health.failed(reason, self._clock.now())
                _log.warning("history failed", symbol=series.symbol, reason=reason)
                if isinstance(error, RequestRejected):
                    break
            else:
                new = [bar for bar in history.bars if series.last is None or bar.start > series.last]
                bars = series.band.confirm_bars(new)
                self._health.corrupt += history.unsound + len(new) - len(bars)
                self._health.backfilled += len(bars)
                await self._emit_all(series.add_history(bars, history.complete_until))
                if series.live:
                    return
            if loop.time() > deadline + _SUSPENDED:  # the time passed without a chance to retry
                deadline = loop.time() + self._config.backfill_timeout / 1000
            if loop.time() + wait > deadline:
                break
            await asyncio.sleep(wait)
        _log.warning("history given up", symbol=series.symbol)
        await self._emit_all(series.continue_without_history())

    async def _read_higher(self, series: KlineSeries) -> None:
        """Emit the bars of higher intervals that the warm-up reads directly, unless the series has begun.

        Raises as `KlineHistory.fetch`.
        """
        if series.last is not None:
            return
        now = self._clock.now()
        for interval, start in self._warm_up.higher(now, series.interval).items():
            if (series, interval) in self._higher_read:
                continue
            history = await self._history.fetch(series.symbol, interval, start)
            self._health.corrupt += history.unsound
            self._health.backfilled += len(history.bars)
            await self._emit_all(iter(history.bars))
            self._higher_read.add((series, interval))

    def _backfill_start(self, series: KlineSeries) -> int:
        """Return the start of the last closed bar, or of the first warm-up bar if none is known; UTC ms."""
        now = self._clock.now()
        current = now - now % series.interval
        if series.last is None:
            return self._warm_up.start(current, series.interval)
        return max(series.last, current - self._config.max_backfill * series.interval)

    async def _watch_overdue(self) -> Never:
        """Backfill series whose next close is overdue: its message was lost, or a quiet market sent none."""
        before: dict[str, int | None] = {}
        while True:
            await asyncio.sleep(self._config.audit_interval / 1000)
            now = self._clock.now() - self._config.settle
            for topic, series in self._series.items():
                stuck = series.live and series.is_overdue(now) and before.get(topic) == series.last
                if stuck and topic not in self._health.rejected:
                    series.suspend()
                    self._queue_backfill(series)
            before = {topic: series.last for topic, series in self._series.items()}
