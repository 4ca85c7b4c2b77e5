"""The venue's public side: what its bars truly are, its stream behind `websockets.connect`, and its history behind ccxt's raw endpoint."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

import ccxt.async_support as ccxt
import msgspec
from msgspec.structs import replace
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.http11 import Response

from agent.core.events import MINUTE_MS, Kline
from tests.simulation.prices import SYMBOLS, T0, running, utc, walk
from tests.simulation.weather import Blackout, Weather

MINUTE: Final = MINUTE_MS / 1000
LAG: Final = 0.3  # seconds from a bar's close until the stream has it, about
REST_LAG: Final = 1.9  # seconds from a bar's close until the history has it, at most; the agent allows two
BAN: Final = 600.0  # seconds of silence after HTTP 403
_PAST: Final = 2.0  # seconds
_PUSHES: Final = (0.01, 0.2, 0.6, 0.98)  # shares of a bar at which its running state is pushed


class Market:
    """One market, whoever is connected. Its time is the loop's: bar n of each symbol opens n minutes after `T0 - warm-up`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dice: random.Random,
        weather: Weather,
        history: int,
        faulty: int,
        quiet: int,
        say: Callable[[str], None],
    ) -> None:
        self.loop = loop
        self.dice = dice
        self.weather = weather
        self.say = say
        self.blackouts: list[Blackout] = []
        self.bars: dict[tuple[str, int], Kline] = {}
        self.withheld: set[tuple[str, int]] = set()
        self.spikes = dict.fromkeys(SYMBOLS, 0)  # so far
        self.banned_until = 0.0  # the agent keeps silent so long, seconds
        # until when the history has failed, seconds
        self.trouble: dict[str, float] = dict.fromkeys(SYMBOLS, -1e9)
        self._first = T0 - history * MINUTE_MS
        for symbol in SYMBOLS:
            for bar in walk(dice, symbol, history + faulty + quiet, start=self._first):
                self.bars[symbol, bar.start] = bar
                if T0 <= bar.start < T0 + faulty * MINUTE_MS and dice.random() < weather.withhold:
                    self.withheld.add((symbol, bar.start))

    def now(self) -> int:
        """The venue's clock, UTC ms."""
        return utc(self.loop.time())

    @property
    def dark(self) -> bool:
        """Whether nothing comes through."""
        return any(one.begin <= self.loop.time() < one.end for one in self.blackouts)

    def latency(self) -> float:
        """Seconds on the wire."""
        return 0.01 + 0.1 * self.dice.random() ** 3

    # -- stream ------------------------------------------------------------------------------------------------------

    async def connect(self, url: str, **options: Any) -> Socket:
        """As `websockets.connect`."""
        dice, weather = self.dice, self.weather
        await asyncio.sleep(self.latency())
        if self.dark:
            await asyncio.sleep(options["open_timeout"])
            raise TimeoutError
        if dice.random() < weather.refuse:
            self.say("connection refused")
            raise ConnectionRefusedError("refused")
        if dice.random() < weather.ban:
            self.say("handshake refused")
            code = dice.choice((403, 429, 503))
            if code == 403:
                self.banned_until = self.loop.time() + BAN
            raise InvalidStatus(Response(code, "no", Headers({"Retry-After": "5"} if code == 429 else {})))
        return Socket(self)

    # -- history -----------------------------------------------------------------------------------------------------

    async def page(self, params: dict[str, Any]) -> Any:
        """As ccxt's `publicGetV5MarketKline`."""
        dice, weather, symbol = self.dice, self.weather, params["symbol"]
        await self._reach(symbol)
        if dice.random() < weather.rest_slow:
            await asyncio.sleep(4 * dice.random())
        now = self.now()
        visible = now - round(1000 * REST_LAG * dice.random())
        rows = [
            [
                str(bar.start),
                *(str(v) for v in (bar.open, bar.high, bar.low, bar.close, bar.volume, bar.turnover)),
            ]
            for start in range(max(params["start"], self._first), min(params["end"], now) + 1, MINUTE_MS)
            if (bar := self.bars.get((symbol, start)))
            and (symbol, start) not in self.withheld
            and (bar.ts <= visible or bar.ts > now)
        ]
        answer = {"retCode": 0, "result": {"symbol": symbol, "list": rows[::-1]}, "time": now}
        await asyncio.sleep(self.latency())
        if dice.random() < weather.rest_corrupt:
            self.say(f"history of {symbol}: corrupt")
            self._remember(symbol)
            del answer[dice.choice(("result", "time"))]
        return answer

    async def time(self) -> Any:
        """As ccxt's `publicGetV5MarketTime`."""
        await self._reach("")
        now = self.now()
        await asyncio.sleep(self.latency())
        return {"retCode": 0, "result": {"timeSecond": str(now // 1000)}, "time": now}

    async def _reach(self, symbol: str) -> None:
        """A request is under way; raises what it meets. Without a symbol it is about the time."""
        await asyncio.sleep(self.latency())
        fault = self._fault()
        if fault is None:
            return
        concerned = [symbol] if symbol else []
        self.say(f"request for {symbol or 'the time'}: {fault}")
        for each in concerned:
            self._remember(each)
        if isinstance(fault, ccxt.RequestTimeout):
            await asyncio.sleep(10)
            for each in concerned:
                self._remember(each)
        elif isinstance(fault, ccxt.RateLimitExceeded):
            for each in SYMBOLS:  # the agent asks for nothing so long
                self._remember(each, BAN if "403" in str(fault) else 60)
            if "403" in str(fault):
                self.banned_until = self.loop.time() + BAN
        raise fault

    def _remember(self, symbol: str, lasts: float = 0.0) -> None:
        self.trouble[symbol] = max(self.trouble[symbol], self.loop.time() + lasts)

    def _fault(self) -> Exception | None:
        dice, weather = self.dice, self.weather
        faults: tuple[Exception, ...] = ()
        if self.dark or dice.random() < weather.rest_timeout:
            faults = (ccxt.RequestTimeout("bybit GET timed out"),)
        elif dice.random() < weather.rest_error:
            faults = (
                ccxt.ExchangeNotAvailable("bybit GET 503"),
                ccxt.NetworkError("reset"),
                ccxt.ExchangeError("10016"),
            )
        elif dice.random() < weather.rest_limit:
            words = ("bybit GET 403 Forbidden", 'bybit {"retCode":10006}', "bybit GET 429 Too Many")
            faults = tuple(ccxt.RateLimitExceeded(word) for word in words)
        return dice.choice(faults) if faults else None


class Rest:
    """What the product makes of `ccxt.bybit(…)`."""

    def __init__(self, market: Market) -> None:
        self.urls: dict[str, Any] = {}
        self.timeout_on_exit = 0
        self.publicGetV5MarketKline = market.page
        self.publicGetV5MarketTime = market.time

    async def close(self) -> None:
        """Nothing is open."""


class Socket:
    """One connection to the stream, as the client holds it; the venue's end is driven by timers."""

    def __init__(self, market: Market) -> None:
        self._market = market
        self._inbox: deque[bytes] = deque()
        self._lost: BaseException | None = None
        self._filled = asyncio.Event()
        self._topics: list[str] = []
        self._deaf = False
        self._last = 0.0  # when the last message arrives: one connection keeps its order

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lose()

    async def recv(self, *, decode: bool) -> bytes:
        """The next message."""
        while not self._inbox:
            if self._lost:
                raise self._lost
            self._filled.clear()
            await self._filled.wait()
        return self._inbox.popleft()

    async def send(self, message: str) -> None:
        """To the venue."""
        if self._lost:
            raise self._lost
        request = msgspec.json.decode(message)
        self._market.loop.call_later(self._market.latency(), self._hear, request)

    # -- the venue's end ---------------------------------------------------------------------------------------------

    def _hear(self, request: dict[str, Any]) -> None:
        if request["op"] == "ping":
            self._tell({"op": "ping", "ret_msg": "pong", "success": True}, self._market.loop.time())
            return
        self._topics += request["args"]
        acknowledgement = {"op": "subscribe", "success": True, "ret_msg": "", "req_id": request["req_id"]}
        self._tell(acknowledgement, self._market.loop.time())
        for topic in request["args"]:
            self._push_next(
                topic.removeprefix("kline.1."), self._market.now() - self._market.now() % MINUTE_MS
            )

    def _push_next(self, symbol: str, start: int) -> None:
        """The states of the bar that opens at `start`, then those of the next."""
        market = self._market
        bar = market.bars.get((symbol, start))
        if bar is None or self._lost:
            return
        opens = (start - T0) / 1000
        now = market.loop.time()
        for share in _PUSHES:
            # subscribed in the middle of a bar: what is past is not pushed
            if opens + MINUTE * share > now - _PAST:
                self._push_at(max(opens + MINUTE * share, now), running(bar, share))
        closes = opens + MINUTE + LAG * market.dice.random()
        self._push_at(closes, bar)
        market.loop.call_at(closes, self._push_next, symbol, start + MINUTE_MS)

    def _push_at(self, at: float, bar: Kline) -> None:
        self._market.loop.call_at(at, self._push, at, bar)

    def _push(self, at: float, bar: Kline) -> None:
        """What was due at `at`, however long the agent's process has stood still meanwhile."""
        market, dice, weather = self._market, self._market.dice, self._market.weather
        if self._lost or (bar.symbol, bar.start) in market.withheld:
            return
        if dice.random() < weather.lose_connection:
            market.say("connection lost")
            self._lose()
            return
        if dice.random() < weather.deaf:
            market.say("stream goes silent")
            self._deaf = True
        if self._deaf or dice.random() < weather.drop:
            market.say(f"dropped {bar.symbol} {'close' if bar.confirm else 'state'} of {bar.start}")
            return
        bar = self._disguise(bar)
        row = {
            "start": bar.start, "end": bar.start + MINUTE_MS - 1, "interval": "1", "open": str(bar.open), "close": str(bar.close),
            "high": str(bar.high), "low": str(bar.low), "volume": str(bar.volume), "turnover": str(bar.turnover), "confirm": bar.confirm,
            "timestamp": bar.ts,
        }  # fmt: skip
        message = {
            "topic": f"kline.1.{bar.symbol}",
            "type": "snapshot",
            "ts": max(bar.ts, utc(at) - 5),
            "data": [row],
        }
        copies = 2 if dice.random() < weather.duplicate else 1
        for _ in range(copies):
            late = 20 * dice.random() if dice.random() < weather.delay else 0.0
            self._tell(message, at + late, alone=dice.random() < weather.reorder)

    def _disguise(self, bar: Kline) -> Kline:
        """Now and then a state's last price is far off, a closed bar has a wick of nowhere, or is another one, of the future."""
        market = self._market
        dice, weather = market.dice, market.weather
        if dice.random() < weather.spike * (0.3 if bar.confirm else 1):
            # Never twice in a row near the same level: that would be a move
            market.spikes[bar.symbol] = number = market.spikes[bar.symbol] + 1
            factor = 1.3 ** (2 + number % 8)
            price = round(bar.close * (factor if number % 2 else 1 / factor), 1)
            market.say(f"spike of {bar.symbol} to {price}")
            high, low = max(bar.high, price), min(bar.low, price)
            return replace(bar, close=bar.close if bar.confirm else price, high=high, low=low)
        if bar.confirm and dice.random() < weather.ahead:
            later = dice.randrange(2, 50) * MINUTE_MS
            market.say(f"bar of {bar.symbol} {later} ms ahead")
            return replace(bar, start=bar.start + later, ts=bar.ts + later)
        return bar

    def _tell(self, message: Any, at: float, *, alone: bool = False) -> None:
        """Send it at `at`. Messages of a connection arrive in order, unless the venue itself sends one `alone`, past the others."""
        market = self._market
        encoded = msgspec.json.encode(message)
        if market.dark:
            return
        if market.dice.random() < market.weather.corrupt:
            market.say("message corrupt")
            cut = market.dice.randrange(len(encoded))
            # No digit is ever another one: what gets through TLS is broken off, or was never JSON
            encoded = encoded[:cut] + market.dice.choice((b"", b"\xff" + encoded[cut:]))
        arrives = at + market.latency()
        if not alone:
            arrives = self._last = max(arrives, self._last)
        market.loop.call_at(arrives, self._arrive, encoded)

    def _arrive(self, encoded: bytes) -> None:
        if self._lost is None:
            self._inbox.append(encoded)
            self._filled.set()

    def _lose(self) -> None:
        if self._lost is None:
            self._lost = ConnectionClosedError(None, None)
            self._filled.set()
