"""Public WebSocket: pushes klines, trades, tickers and order books as the market moves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import msgspec

from agent.sandbox.channel import ClientChannel
from agent.sandbox.faults import FaultInjector
from agent.sandbox.listed_instruments import CATEGORIES, Instruments
from agent.sandbox.market_json import book_data, kline_push, ticker, trade_push
from agent.sandbox.replay_market import PublicTrade, Quote, ReplayMarket
from agent.sandbox.replay_series import INTERVALS, bar_end, bar_starts, duration

_MAX_SPOT_ARGS: Final = 10
_MAX_ARG_CHARACTERS: Final = 21_000
_DEPTHS: Final = ("1", "50", "200", "1000")
Json = dict[str, Any]


class PublicStreams:
    """Topics and their subscribers by category.

    `now` returns the venue's time (UTC ms). `ack_delay` is the delay in seconds between a request and its
    response. Clients depend on this delay: pybit registers its callback after sending the request.
    """

    def __init__(
        self,
        market: ReplayMarket,
        instruments: Instruments,
        faults: FaultInjector,
        now: Callable[[], int],
        *,
        funding_rate: Decimal,
        ack_delay: float,
    ) -> None:
        self._market = market
        self._instruments = instruments
        self._faults = faults
        self._now = now
        self._funding_rate = funding_rate
        self._ack_delay = ack_delay
        self._subscribers: dict[str, dict[str, dict[str, set[ClientChannel]]]] = {
            category: {symbol: defaultdict(set) for symbol in instruments.symbols} for category in CATEGORIES
        }
        self._tickers: dict[tuple[str, str], Json] = {}
        self._lost_bars: dict[str, int] = {}  # symbol -> index of the bar that a gap fault suppresses
        market.listeners.insert(0, self)  # a price is streamed before the executions that it leads to

    # -- requests -------------------------------------------------------------------------------------------

    def handle_message(self, category: str, channel: ClientChannel, message: Json) -> None:
        op, args = message.get("op"), message.get("args")
        topics = [str(arg) for arg in args] if isinstance(args, list) else []
        if op == "ping":
            self._respond(channel, message, "pong", category)
        elif op == "subscribe":
            if problem := self._find_problem(category, channel, topics):
                self._respond(channel, message, problem, category, success=False)
                return
            self._respond(channel, message, "subscribe" if category == "spot" else "", category)
            for topic in topics:
                self._subscribe(category, channel, topic)
        elif op == "unsubscribe":
            for topic in topics:
                self._unsubscribe(category, channel, topic)
            self._respond(channel, message, "", category)
        else:
            self._respond(channel, message, "error:invalid op", category, success=False)

    def disconnect(self, category: str, channel: ClientChannel) -> None:
        for topic in list(channel.topics):
            self._unsubscribe(category, channel, topic)

    def _respond(
        self, channel: ClientChannel, message: Json, text: str, category: str, *, success: bool = True
    ) -> None:
        response = {
            "success": success,
            "ret_msg": text,
            "conn_id": channel.id,
            "req_id": message.get("req_id", ""),
            "op": message.get("op", ""),
        }
        if category == "spot" and text == "pong" and "req_id" not in message:
            del response["req_id"]
        channel.send(
            response, "pong" if text == "pong" else "ack", delay=0.0 if text == "pong" else self._ack_delay
        )

    def _find_problem(self, category: str, channel: ClientChannel, topics: list[str]) -> str:
        if category == "spot" and len(topics) > _MAX_SPOT_ARGS:
            return "args size >10"
        if not topics or sum(map(len, topics)) + sum(map(len, channel.topics)) > _MAX_ARG_CHARACTERS:
            return "error:args size exceeds the limit of a connection"
        for topic in topics:
            kind, _, symbol = topic.rpartition(".")
            if (
                category not in self._subscribers
                or symbol not in self._instruments.symbols
                or not _is_known(kind)
            ):
                return f"error:handler not found,topic:{topic}"
            if topic in channel.topics:
                return f"error:already subscribed,topic:{topic}"
        return ""

    def _subscribe(self, category: str, channel: ClientChannel, topic: str) -> None:
        kind, _, symbol = topic.rpartition(".")
        channel.topics.add(topic)
        self._subscribers[category][symbol][kind].add(channel)
        if kind == "tickers":
            row = self._ticker(category, symbol)
            channel.send(self._envelope(category, topic, "snapshot", row), topic, delay=self._ack_delay)
        elif kind.startswith("orderbook"):
            channel.send(self._book(category, topic, symbol, kind), topic, delay=self._ack_delay)

    def _unsubscribe(self, category: str, channel: ClientChannel, topic: str) -> None:
        kind, _, symbol = topic.rpartition(".")
        channel.topics.discard(topic)
        if symbol in self._instruments.symbols:
            self._subscribers[category][symbol][kind].discard(channel)

    # -- pushes ---------------------------------------------------------------------------------------------

    def on_trade(self, trade: PublicTrade) -> None:
        """Push everything that a new price changes."""
        symbol = trade.symbol
        quote = self._market.quotes[symbol]
        if quote.done == 1:
            self._update_gap(symbol, quote)
        for category, symbols in self._subscribers.items():
            for kind, channels in symbols[symbol].items():
                if not channels:
                    continue
                topic = f"{kind}.{symbol}"
                name, _, detail = kind.partition(".")
                if name == "kline":
                    self._push_kline(topic, detail, quote, trade.time, channels)
                elif name == "publicTrade":
                    if trade.size:
                        self._push(
                            topic,
                            self._envelope(category, topic, "snapshot", [trade_push(trade, category)]),
                            channels,
                        )
                elif name == "tickers":
                    self._push_ticker(category, topic, symbol, channels)
                else:
                    self._push(topic, self._book(category, topic, symbol, kind), channels)

    def on_close(self, symbol: str, index: int) -> None:
        """Push the candles that end with this bar, as confirmed."""
        quote = self._market.quotes[symbol]
        series = quote.series
        following = (
            int(series.start[index + 1])
            if index + 1 < len(series)
            else int(series.start[index]) + series.interval
        )
        for symbols in self._subscribers.values():
            for kind, channels in symbols[symbol].items():
                name, _, interval = kind.partition(".")
                if name != "kline" or not channels or duration(interval) < series.interval:
                    continue
                start = int(bar_starts(interval, series.start[index : index + 1])[0])
                if following >= bar_end(interval, start):
                    last_trade = quote.trades[0].time if quote.trades else self._market.time
                    self._push_kline(f"{kind}.{symbol}", interval, quote, last_trade, channels, confirm=True)

    def _update_gap(self, symbol: str, quote: Quote) -> None:
        self._lost_bars.pop(symbol, None)
        for fault in self._faults.draw(f"market/{symbol}", "gap"):
            self._lost_bars[symbol] = quote.index
            if fault.rest:
                quote.series.hidden.add(int(quote.series.start[quote.index]))

    def _push_kline(
        self,
        topic: str,
        interval: str,
        quote: Quote,
        time: int,
        channels: set[ClientChannel],
        *,
        confirm: bool = False,
    ) -> None:
        series = quote.series
        if duration(interval) < series.interval:
            return  # finer than the bars of the file
        if duration(interval) == series.interval and self._lost_bars.get(series.symbol) == quote.index:
            return
        bar = series.candle(interval, quote.index, quote.done)
        data = [kline_push(bar, interval, confirm=confirm, time=time)]
        self._push(topic, {"topic": topic, "type": "snapshot", "ts": self._now(), "data": data}, channels)

    def _push_ticker(self, category: str, topic: str, symbol: str, channels: set[ClientChannel]) -> None:
        before = self._tickers.get((category, symbol), {})
        row = self._ticker(category, symbol)
        if category == "spot":
            self._push(topic, self._envelope(category, topic, "snapshot", row), channels)
            return
        changed = {key: value for key, value in row.items() if before.get(key) != value}
        if changed:
            self._push(
                topic, self._envelope(category, topic, "delta", {"symbol": symbol, **changed}), channels
            )

    def _ticker(self, category: str, symbol: str) -> Json:
        row = ticker(
            self._instruments,
            self._market,
            category,
            symbol,
            self._funding_rate,
            spot_stream=category == "spot",
        )
        self._tickers[category, symbol] = row
        return row

    def _book(self, category: str, topic: str, symbol: str, kind: str) -> Json:
        quote = self._market.quotes[symbol]
        number = quote.trades[0].number if quote.trades else 1
        data = book_data(self._instruments, category, symbol, int(kind.partition(".")[2]), number)
        return {"topic": topic, "type": "snapshot", "ts": self._now(), "data": data, "cts": self._now()}

    def _envelope(self, category: str, topic: str, kind: str, data: object) -> Json:
        envelope = {"topic": topic, "type": kind, "ts": self._now(), "data": data}
        return envelope | ({"cs": self._now()} if topic.startswith("tickers") else {})

    @staticmethod
    def _push(topic: str, message: Json, channels: set[ClientChannel]) -> None:
        payload = msgspec.json.encode(message)
        for channel in channels:
            channel.send(payload, topic)


def _is_known(kind: str) -> bool:
    name, _, detail = kind.partition(".")
    return (
        kind in ("publicTrade", "tickers")
        or (name == "kline" and detail in INTERVALS)
        or (name == "orderbook" and detail in _DEPTHS)
    )
