"""The series of one connection: connected again and again, completed from the history, and given out."""

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
from agent.live.market_data.backfill import KlineHistory, RequestRefused
from agent.live.market_data.kline_health import KlineHealth
from agent.live.market_data.kline_series import Series
from agent.live.market_data.public_stream import HandshakeRefused, Stream, StreamLost
from agent.system.backoff import Budget, Reconnection, delays
from agent.system.clock import Clock, iso, speed_of
from agent.system.clock_discipline import DisciplinedClock
from agent.system.untrusted import JSON_DECODE_ERRORS

_log: Final = structlog.get_logger(__name__)
_WORKERS: Final = 8  # histories asked for at a time; what limits them is the budget of requests
_REPEAT: Final = 60.0  # seconds between two alarms about one symbol
_STANDSTILL: Final = 1.0  # seconds past a deadline, which mean that the process stood still
_SKEW: Final = -1_000  # ms; a message from so far in the future means a wrong clock


class Shard:
    """One connection's `series`, by topic. `health` is shared with the other connections."""

    def __init__(
        self,
        series: Mapping[str, Series],
        config: BybitConfig,
        category: str,
        clock: Clock,
        history: KlineHistory,
        health: KlineHealth,
        emit: Emit,
        rng: random.Random,
    ) -> None:
        self.state: State = "connecting"
        self._series = series
        self._config = config
        self._discipline = clock if isinstance(clock, DisciplinedClock) else None
        self._ahead = round(config.max_ahead * speed_of(clock))
        self._alarmed: dict[str, float] = {}  # symbol -> when, of the event loop's clock
        self._url = f"{endpoint(config.endpoint).stream}/v5/public/{category}"
        self._clock = clock
        self._history = history
        self._health = health
        self._emit = emit
        self._rng = rng
        # stream and history take turns in giving out, or their bars would interleave
        self._turn = asyncio.Lock()
        self._wanted: asyncio.Queue[Series] = asyncio.Queue()
        self._asked: set[Series] = set()

    async def run(self, connects: Budget) -> Never:
        """Keep connected, within the budget of connects that all shards share. Raises only what `emit`
        raises.
        """
        loop = asyncio.get_running_loop()
        reconnection = Reconnection(self._config.reconnect, self._rng)
        while True:
            await connects.take()
            self.state = "connecting"
            for series in self._series.values():
                series.suspend()
            self._wanted = asyncio.Queue()
            self._asked.clear()
            stream = Stream(
                self._url,
                list(self._series),
                self._config,
                self._clock,
                self._health,
                self._on_data,
                self._on_ready,
            )
            try:
                await stream.run(self._audit, *[self._work] * _WORKERS)
            except HandshakeRefused as error:
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
            self._want(self._series[topic])

    async def _on_data(self, frame: Frame) -> None:
        series = self._series.get(frame.topic)
        if series is None:
            self._health.unknown += 1
            _log.info("topic unknown", topic=frame.topic)
            return
        if self._discipline is not None:
            self._discipline.add_stamp(frame.ts)
        now = self._clock.now()
        latest = now + self._ahead
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
            await self._judge(series, to_kline(row, series.symbol, series.interval, ts, now))
        if frame.ts <= latest:
            self._measure(now - frame.ts)
        if not series.live:
            self._want(series)

    async def _judge(self, series: Series, bar: Kline) -> None:
        """Offer the bar to its series, unless its price has to be confirmed first."""
        known = series.last is not None and bar.start <= series.last
        if known or (series.band.admits_bar(bar) if bar.confirm else series.band.admits(bar)):
            await self._give(series.offer(bar))
            return
        self._health.withheld += 1
        if bar.confirm:
            series.doubt(bar.start)
        if not series.band.known:
            return
        loop, what = asyncio.get_running_loop(), f"{'bar' if bar.confirm else 'price'} outside the band"
        if loop.time() - self._alarmed.get(series.symbol, -_REPEAT) < _REPEAT:
            return
        self._alarmed[series.symbol] = loop.time()
        detail = (
            f"{what}: low {bar.low:g}, high {bar.high:g}, last {bar.close:g}; withheld until it is confirmed"
        )
        _log.warning("price withheld", symbol=series.symbol, detail=detail)
        now = self._clock.now()
        self._health.failed(f"{series.symbol}: {detail}", now)
        alarm = {"rule": PRICE_BAND, "detail": detail, "symbol": series.symbol}
        await deliver(self._emit, Command("alarm", now, now, alarm, self._health.name))

    def _measure(self, lag: int) -> None:
        if lag < _SKEW <= self._health.lag:
            _log.warning("clock behind the venue's", ms=-lag)
        self._health.lag = lag

    async def _give(self, events: Iterator[Kline | Gap]) -> None:
        async with self._turn:
            for event in events:
                if isinstance(event, Gap):
                    self._health.gaps += 1
                    self._health.missing += (event.end - event.start) // event.interval
                    _log.warning("gap", symbol=event.symbol, start=iso(event.start), end=iso(event.end))
                await deliver(self._emit, event)

    # -- history --------------------------------------------------------------------------------------

    def _want(self, series: Series) -> None:
        if series not in self._asked:
            self._asked.add(series)
            self._wanted.put_nowait(series)

    async def _work(self) -> Never:
        while True:
            series = await self._wanted.get()
            if not series.live:
                await self._complete(series)
            self._asked.discard(series)

    async def _complete(self, series: Series) -> None:
        """Fetch what is missing, again and again until nothing is or time is up; then go on without it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.backfill_timeout / 1000
        for wait in delays(self._config.retry, self._rng):
            try:
                async with asyncio.timeout_at(deadline):
                    history = await self._history.bars(series.symbol, series.interval, self._since(series))
            except (VenueError, TimeoutError) as error:
                reason = str(error) or f"no history of {series.symbol} in {self._config.backfill_timeout} ms"
                self._health.failed(reason, self._clock.now())
                _log.warning("history failed", symbol=series.symbol, reason=reason)
                if isinstance(error, RequestRefused):
                    break
            else:
                new = [bar for bar in history.bars if series.last is None or bar.start > series.last]
                bars = series.band.confirm(new)
                self._health.corrupt += history.unsound + len(new) - len(bars)
                self._health.backfilled += len(bars)
                await self._give(series.fill(bars, history.proven))
                if series.live:
                    return
            if loop.time() > deadline + _STANDSTILL:  # no time to try in
                deadline = loop.time() + self._config.backfill_timeout / 1000
            if loop.time() + wait > deadline:
                break
            await asyncio.sleep(wait)
        _log.warning("history given up", symbol=series.symbol)
        await self._give(series.give_up())

    def _since(self, series: Series) -> int:
        """Where to ask from: the last closed bar, inclusive; before the first one, far enough back to
        warm up.
        """
        now = self._clock.now()
        current = now - now % series.interval
        if series.last is None:
            return max(0, current - self._config.warmup_bars * series.interval)
        return max(series.last, current - self._config.max_backfill * series.interval)

    async def _audit(self) -> Never:
        """Look for closes that never came: a lost message, or a market so quiet that none was sent."""
        before: dict[str, int | None] = {}
        while True:
            await asyncio.sleep(self._config.audit_interval / 1000)
            now = self._clock.now() - self._config.settle
            for topic, series in self._series.items():
                stuck = series.live and series.overdue(now) and before.get(topic) == series.last
                if stuck and topic not in self._health.rejected:
                    series.suspend()
                    self._want(series)
            before = {topic: series.last for topic, series in self._series.items()}
