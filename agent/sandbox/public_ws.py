"""The public WebSocket: klines, trades, tickers and books, pushed as the market moves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import msgspec

from agent.sandbox.channel import Channel
from agent.sandbox.faults import Faults
from agent.sandbox.intervals import INTERVALS, bar_end, bar_starts, duration
from agent.sandbox.listing import CATEGORIES, Listing
from agent.sandbox.market import Market, Quote, Trade
from agent.sandbox.shapes_market import book_data, kline_push, ticker, trade_push

_MOST_SPOT_ARGS: Final = 10
_MOST_ARG_CHARACTERS: Final = 21_000
_DEPTHS: Final = ("1", "50", "200", "1000")
Json = dict[str, Any]


class PublicStreams:
    """Topics and who listens to them, by category. `now` is the venue's time, `ack_delay` seconds from a request to its answer.

    The delay is what real clients count on: pybit registers its callback after it has sent.
    """

    def __init__(
        self,
        market: Market,
        listing: Listing,
        faults: Faults,
        now: Callable[[], int],
        *,
        funding_rate: Decimal,
        ack_delay: float,
    ) -> None:
        self._market = market
        self._listing = listing
        self._faults = faults
        self._now = now
        self._funding_rate = funding_rate
        self._ack_delay = ack_delay
        self._listeners: dict[str, dict[str, dict[str, set[Channel]]]] = {
            category: {symbol: defaultdict(set) for symbol in listing.symbols} for category in CATEGORIES
        }
        self._tickers: dict[tuple[str, str], Json] = {}
        self._lost_bars: dict[str, int] = {}  # symbol -> index of the bar that a gap swallows
        market.listeners.append(self)

    # -- requests ----------------------------------------------------------------------------------------------------

    def receive(self, category: str, channel: Channel, message: Json) -> None:
        """Answer one request."""
        op, args = message.get("op"), message.get("args")
        topics = [str(arg) for arg in args] if isinstance(args, list) else []
        if op == "ping":
            self._answer(channel, message, "pong", category)
        elif op == "subscribe":
            if flaw := self._flaw(category, channel, topics):
                self._answer(channel, message, flaw, category, success=False)
                return
            self._answer(channel, message, "subscribe" if category == "spot" else "", category)
            for topic in topics:
                self._join(category, channel, topic)
        elif op == "unsubscribe":
            for topic in topics:
                self._leave(category, channel, topic)
            self._answer(channel, message, "", category)
        else:
            self._answer(channel, message, "error:invalid op", category, success=False)

    def forget(self, category: str, channel: Channel) -> None:
        """A client has gone."""
        for topic in list(channel.topics):
            self._leave(category, channel, topic)

    def _answer(
        self, channel: Channel, message: Json, text: str, category: str, *, success: bool = True
    ) -> None:
        answer = {
            "success": success,
            "ret_msg": text,
            "conn_id": channel.id,
            "req_id": message.get("req_id", ""),
            "op": message.get("op", ""),
        }
        if category == "spot" and text == "pong" and "req_id" not in message:
            del answer["req_id"]
        channel.send(
            answer, "pong" if text == "pong" else "ack", delay=0.0 if text == "pong" else self._ack_delay
        )

    def _flaw(self, category: str, channel: Channel, topics: list[str]) -> str:
        if category == "spot" and len(topics) > _MOST_SPOT_ARGS:
            return "args size >10"
        if not topics or sum(map(len, topics)) + sum(map(len, channel.topics)) > _MOST_ARG_CHARACTERS:
            return "error:args size exceeds the limit of a connection"
        for topic in topics:
            kind, _, symbol = topic.rpartition(".")
            if category not in self._listeners or symbol not in self._listing.symbols or not _known(kind):
                return f"error:handler not found,topic:{topic}"
            if topic in channel.topics:
                return f"error:already subscribed,topic:{topic}"
        return ""

    def _join(self, category: str, channel: Channel, topic: str) -> None:
        kind, _, symbol = topic.rpartition(".")
        channel.topics.add(topic)
        self._listeners[category][symbol][kind].add(channel)
        if kind == "tickers":
            shape = self._ticker(category, symbol)
            channel.send(self._envelope(category, topic, "snapshot", shape), topic, delay=self._ack_delay)
        elif kind.startswith("orderbook"):
            channel.send(self._book(category, topic, symbol, kind), topic, delay=self._ack_delay)

    def _leave(self, category: str, channel: Channel, topic: str) -> None:
        kind, _, symbol = topic.rpartition(".")
        channel.topics.discard(topic)
        if symbol in self._listing.symbols:
            self._listeners[category][symbol][kind].discard(channel)

    # -- pushes ------------------------------------------------------------------------------------------------------

    def on_trade(self, trade: Trade) -> None:
        """Push what a new price changes."""
        symbol = trade.symbol
        quote = self._market.quotes[symbol]
        if quote.done == 1:
            self._roll_gap(symbol, quote)
        for category, symbols in self._listeners.items():
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
        """Push the candles that end with a bar, confirmed."""
        quote = self._market.quotes[symbol]
        tape = quote.tape
        following = (
            int(tape.start[index + 1]) if index + 1 < len(tape) else int(tape.start[index]) + tape.interval
        )
        for symbols in self._listeners.values():
            for kind, channels in symbols[symbol].items():
                name, _, interval = kind.partition(".")
                if name != "kline" or not channels or duration(interval) < tape.interval:
                    continue
                start = int(bar_starts(interval, tape.start[index : index + 1])[0])
                if following >= bar_end(interval, start):
                    last_trade = quote.trades[0].time if quote.trades else self._market.time
                    self._push_kline(f"{kind}.{symbol}", interval, quote, last_trade, channels, confirm=True)

    def _roll_gap(self, symbol: str, quote: Quote) -> None:
        self._lost_bars.pop(symbol, None)
        for fault in self._faults.strike(f"market/{symbol}", "gap"):
            self._lost_bars[symbol] = quote.index
            if fault.rest:
                quote.tape.hidden.add(int(quote.tape.start[quote.index]))

    def _push_kline(
        self,
        topic: str,
        interval: str,
        quote: Quote,
        time: int,
        channels: set[Channel],
        *,
        confirm: bool = False,
    ) -> None:
        tape = quote.tape
        if duration(interval) < tape.interval:
            return  # the file knows nothing that fine
        if duration(interval) == tape.interval and self._lost_bars.get(tape.symbol) == quote.index:
            return
        bar = tape.candle(interval, quote.index, quote.done)
        data = [kline_push(bar, interval, confirm=confirm, time=time)]
        self._push(topic, {"topic": topic, "type": "snapshot", "ts": self._now(), "data": data}, channels)

    def _push_ticker(self, category: str, topic: str, symbol: str, channels: set[Channel]) -> None:
        before = self._tickers.get((category, symbol), {})
        shape = self._ticker(category, symbol)
        if category == "spot":
            self._push(topic, self._envelope(category, topic, "snapshot", shape), channels)
            return
        changed = {key: value for key, value in shape.items() if before.get(key) != value}
        if changed:
            self._push(
                topic, self._envelope(category, topic, "delta", {"symbol": symbol, **changed}), channels
            )

    def _ticker(self, category: str, symbol: str) -> Json:
        shape = ticker(
            self._listing, self._market, category, symbol, self._funding_rate, spot_stream=category == "spot"
        )
        self._tickers[category, symbol] = shape
        return shape

    def _book(self, category: str, topic: str, symbol: str, kind: str) -> Json:
        quote = self._market.quotes[symbol]
        number = quote.trades[0].number if quote.trades else 1
        data = book_data(self._listing, category, symbol, int(kind.partition(".")[2]), number)
        return {"topic": topic, "type": "snapshot", "ts": self._now(), "data": data, "cts": self._now()}

    def _envelope(self, category: str, topic: str, kind: str, data: object) -> Json:
        envelope = {"topic": topic, "type": kind, "ts": self._now(), "data": data}
        return envelope | ({"cs": self._now()} if topic.startswith("tickers") else {})

    @staticmethod
    def _push(topic: str, message: Json, channels: set[Channel]) -> None:
        payload = msgspec.json.encode(message)
        for channel in channels:
            channel.send(payload, topic)


def _known(kind: str) -> bool:
    name, _, detail = kind.partition(".")
    return (
        kind in ("publicTrade", "tickers")
        or (name == "kline" and detail in INTERVALS)
        or (name == "orderbook" and detail in _DEPTHS)
    )
