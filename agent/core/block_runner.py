"""Runs an engine over columns of bars: the same decisions as bar by bar, with less work.

A bar at which something may happen is handled as `Engine.handle` does, without an event object unless an
order or the strategy needs it. Bars in which nothing can happen are passed over in chunks: no order and no
limit is within reach of the prices, no bar is missing, and the strategy isn't called. The account's samples
are computed from the columns, as neither cash nor positions change between two bookings.
"""

from __future__ import annotations

import operator
from math import inf, isnan
from typing import Any, Final

import numpy as np

from agent.core.bar_block import CHUNK, BarBlock, BarSpan, FeaturesAhead, PriceRanges
from agent.core.engine import Engine
from agent.core.errors import StrategyError
from agent.core.exchange import MatchingExchange
from agent.core.features import FeatureTracker
from agent.core.market import InstrumentState
from agent.core.strategy import Strategy

_SLACK: Final = 1e-9
"""Share of the account's gross value by which a bound of equity may be wrong: its sum is rounded."""

_SPANS: Final = (32, 1_024)
"""Fewest and most bars that `Strategy.quiet_bars` receives at once."""

_MOST_CALLS: Final = 64
"""Most calls of `on_kline`, one bar after another, before the next call of `quiet_bars`."""


class _Segment:
    """Bar periods between two bookings, the first of which ends at `ts` (UTC ms)."""

    __slots__ = ("cash", "sizes", "ts", "version")

    def __init__(self, ts: int, version: int, cash: float, sizes: list[float]) -> None:
        self.ts: int = ts
        self.version: int = version
        self.cash: float = cash
        self.sizes = sizes  # by symbol, in the portfolio's order


class _Held:
    """A position while bars are passed over, the range of its last known marks, and its orders' reach."""

    __slots__ = ("above", "below", "high", "low", "maintenance", "ranges", "size")

    def __init__(
        self,
        size: float,
        mark: float,
        maintenance: float,
        ranges: PriceRanges | None,
        reach: tuple[float, float],
    ) -> None:
        self.size: float = size
        self.low: float = mark
        self.high: float = mark
        self.maintenance: float = maintenance
        self.ranges = ranges  # None if the block has no bar of the symbol
        self.below: float = reach[0]
        self.above: float = reach[1]


class BlockRunner:
    """Handles the bars of blocks for an engine on paper; other events go to `engine.handle`, between them.

    Call `finish` in place of the engine's. All bars must come in blocks, and a period's bars in one block.
    Raises ValueError if the engine trades at a venue.
    """

    def __init__(self, engine: Engine) -> None:
        if engine._matching is None:
            raise ValueError("blocks of bars are for an engine on paper")
        self._engine: Engine = engine
        self._matching: MatchingExchange = engine._matching
        self._interval: int = engine._settings.interval
        self.row: int = 0
        """Row of the bar that is being handled, for the number of its event."""
        self.stepped: int = 0
        """Bars that were not passed over."""
        self._block: BarBlock | None = None
        self._begin_ms: int = 0  # end of the block's first bar, UTC ms
        self._states: list[InstrumentState | None] = []  # by the block's number of the symbol
        self._every: list[InstrumentState] = list(engine.states.values())
        self._symbols: list[str] = sorted(engine.states)
        self._marks: list[float] = []  # before the block, by symbol
        self._segments: list[_Segment] = []
        self._dropped: list[int] = []  # rows that the engine doesn't use
        self._step_to: int = 0  # row up to which there is no use in trying to pass over bars
        self._due: int = -1  # when something is due (UTC ms) at the row `_due_row`
        self._due_row: int = 0
        self._ahead: list[FeaturesAhead] = []  # by the block's number of the symbol
        self._strategy: Strategy | None = None  # the one that the following are about
        self._lets_pass: bool = False  # True if `quiet_bars` says at which bars `on_kline` is called
        self._keeps_state: bool = False  # True if `pass_over` receives the other bars
        self._span: int = _SPANS[0]  # bars for the next call of `quiet_bars`
        self._wanted: int = -1  # row of the next bar for `on_kline`
        self._calls: int = 1  # of `on_kline`, before the next call of `quiet_bars`

    def handle(self, block: BarBlock, first: int, last: int) -> None:
        """Handle the bars `first` to `last` - 1 of a block. Blocks and their parts come in total order."""
        if block is not self._block:
            self._end_block()
            self._begin_block(block)
        if self._engine.strategy is not self._strategy:
            self._begin_strategy(block)
        at, may_pass = first, self._may_pass()
        while at < last:
            upto = self._pass(block, at, last) if may_pass else at
            if upto > at:
                at = upto
                continue
            at = self._step(block, at, min(last, max(at + 1, self._step_to)) if may_pass else last)
            may_pass = self._may_pass()

    def finish(self) -> None:
        """Pass on the last samples, and finish the engine. Raises as `Engine.finish`."""
        self._end_block()
        self._engine.finish()

    # -- one bar after another ----------------------------------------------------------------------------

    def _step(self, block: BarBlock, at: int, last: int) -> int:
        """Handle the bars `at` to `last` - 1 one by one, or fewer if others may be passed over; return
        the row after them.
        """
        engine, states, lets_pass = self._engine, self._states, self._lets_pass
        klines = block.klines() if engine._wants_klines and not lets_pass else []
        busy = not klines and not self._may_pass()
        for row in range(at, last):
            self.row = row
            self.stepped += 1
            state = states[block.number_at(row)]
            start, end = block.starts[row], block.ends[row]
            if state is None or not self._begin_bar(state, block, row, start, end):
                self._drop(row, state)
                continue
            kline = klines[row] if klines else block.kline(row) if lets_pass else None
            opened, high, low = block.opens[row], block.highs[row], block.lows[row]
            close, volume = block.closes[row], block.volumes[row]
            engine.on_closed_bar(state, kline, block, row, start, end, end, opened, high, low, close, volume)
            if busy and self._may_pass():
                return row + 1
        return last

    def _begin_bar(self, state: InstrumentState, block: BarBlock, row: int, start: int, end: int) -> bool:
        """Close the period before a bar if it begins one; return False if the engine doesn't use the bar."""
        engine = self._engine
        if block.interval != state.interval:
            engine.counts["klines of other intervals"] += 1
            return False
        if start != state.next_start and not engine._fits(state, block.kline(row)):
            return False
        if end > engine._period:
            self._close_period()
            engine._period = end
        return True

    def _drop(self, row: int, state: InstrumentState | None) -> None:
        """Note a row that the engine doesn't use."""
        if state is None:
            self._engine.counts["klines of other symbols"] += 1
        self._dropped.append(row)

    def _close_period(self) -> None:
        """Note what the sample of the period before the present bar is made of, and check the account."""
        engine = self._engine
        if engine._period < self._begin_ms:  # of an earlier block, or the first
            if engine._period:
                engine._close_period()
            return
        self._note_segment()
        engine.check_period()

    def _note_segment(self) -> None:
        """Begin a segment at the present period if there have been bookings since the last one began."""
        portfolio, segments = self._engine.portfolio, self._segments
        if not segments or segments[-1].version != portfolio.version:
            sizes = [portfolio.positions[symbol].size for symbol in self._symbols]
            segments.append(_Segment(self._engine._period, portfolio.version, portfolio.cash_float, sizes))

    # -- many bars at once --------------------------------------------------------------------------------

    def _may_pass(self) -> bool:
        """Return whether bars at which no limit is reached would change nothing but marks and features."""
        engine = self._engine
        if engine._wants_klines and not self._lets_pass:
            return False
        if engine._targets or self._matching.held_funding:
            return False
        if engine.flattener.pursuits:
            return False
        for state in self._every:
            if state.history is not None or state.fusion_inputs is not None:
                return False
            if state.book and (not state.position.size or isnan(self._reach(state)[0])):
                return False
        return True

    def _reach(self, state: InstrumentState) -> tuple[float, float]:
        """Return the prices between which the symbol's orders wait; see `MatchingExchange.reach`."""
        symbol = state.instrument.symbol
        return self._matching.reach(symbol, state.next_start) if state.book else (-inf, inf)

    def _pass(self, block: BarBlock, at: int, last: int) -> int:
        """Pass over bars from `at` on in which nothing can happen; return the row after them."""
        engine = self._engine
        self._step_to = at + 1
        if at == self._wanted:
            return at
        first_end = block.ends[at]
        if first_end > engine._period:
            if block.starts[at] != engine.states[block.symbol(at)].next_start:
                return at
            self.row = at
            self._close_period()
            engine._period = first_end
            if not self._may_pass():
                return at
        lets_pass = self._lets_pass
        upto = self._quiet_until(block, at, min(last, at + self._span) if lets_pass else last)
        if lets_pass and upto > at:
            upto = self._let_pass(block, at, upto)
        if upto == at:
            return at
        for number, state in enumerate(self._states):
            row, last_row = block.span(number, at, upto)
            if state is None or row < at:
                continue
            position = state.position
            if not state.book:
                position.mark = block.closes[row]
            if position.size and engine._margined:
                # kept from the first bar after a booking on: another bar's mark gives other last digits
                self._matching.liquidation_price(position)
            if state.book:
                self._matching.pass_bars(block.symbols[number], *block.volumes_of(number, at, upto))
            state.last_start = block.starts[last_row]
            state.next_start = block.ends[last_row]
            position.mark = block.closes[last_row]
        if engine._reads_features:
            self._add_features(block, at, upto)
        if lets_pass:
            engine.market.subject = block.symbol(upto - 1)
        if lets_pass and self._keeps_state:
            for number in range(len(self._states)):
                begin, end = block.bounds(number, at, upto)
                if begin < end:
                    engine.strategy.pass_over(self._span_of(block, number, begin, end))
        last_end = block.ends[upto - 1]
        if last_end > first_end:
            self._note_segment()
            engine._period = last_end
        engine.market.now = max(engine.market.now, last_end)
        return upto

    def _let_pass(self, block: BarBlock, at: int, upto: int) -> int:
        """Return the row after those of the bars `at` to `upto` - 1 that the strategy lets pass."""
        most = upto
        for number in range(len(self._states)):
            begin, end = block.bounds(number, at, upto)
            if begin == end:
                continue
            quiet = self._count_quiet(self._span_of(block, number, begin, end))
            if begin + quiet < end:
                upto = block.row_of(number, begin + quiet)
        if upto == at:  # `quiet_bars` costs time at every bar if the strategy acts at every bar
            self._calls = min(2 * self._calls, _MOST_CALLS)
            self._step_to = at + self._calls
            if self._calls == _MOST_CALLS:
                block.klines()  # all at once take less time
        else:
            self._calls = 1
        if upto < most:
            self._wanted = upto
            self._span = max(_SPANS[0], upto - at)
        else:
            self._span = min(_SPANS[1], 2 * self._span)
        return upto

    def _count_quiet(self, span: BarSpan) -> int:
        """Return the strategy's number of quiet bars. Raises StrategyError if it is no such number."""
        strategy: Any = self._engine.strategy
        found = strategy.quiet_bars(span, self._engine.market)
        try:
            quiet: int = operator.index(found)  # numpy's integers too
        except TypeError:
            quiet = -1
        if not 0 <= quiet <= len(span):
            raise StrategyError(
                f"{type(strategy).__name__}.quiet_bars returned {found!r}",
                hint=f"return how many of the {len(span)} bars may pass, as an integer from 0 to {len(span)}",
            )
        return quiet

    def _span_of(self, block: BarBlock, number: int, begin: int, end: int) -> BarSpan:
        """Return a symbol's bars, given by their indices among its own."""
        ahead = self._ahead[number] if self._engine._reads_features else None
        return BarSpan(block, number, begin, end, ahead)

    def _add_features(self, block: BarBlock, at: int, upto: int) -> None:
        if len(self._states) == 1 and self._ahead and self._ahead[0].advance(at, upto):
            return
        for row in range(at, upto):
            state = self._states[block.number_at(row)]
            if state is not None:
                block.add_to(state.tracker, row)

    def _quiet_until(self, block: BarBlock, at: int, last: int) -> int:
        """Return the row from `at` on before which no bar is missing, nothing expires, no day begins and no
        limit can be reached: of the account, or a liquidation price.
        """
        engine = self._engine
        risk, portfolio = engine.risk, engine.portfolio
        if None in self._states or block.interval != self._interval:
            return at
        due = engine.exchange.next_expiry
        if engine.signals.next_expiry < due:
            due = engine.signals.next_expiry
        if risk.next_day < due:
            due = risk.next_day
        cash = portfolio.cash_float
        held = self._held(block)
        if not held and (cash > risk.ceiling or cash <= risk.floor):
            return at
        gapless = block.gapless()
        if due != self._due:
            self._due, self._due_row = due, int(block.end.searchsorted(due))
        last = min(last, self._due_row)
        row = at
        while row < last:
            chunk = row // CHUNK
            if not gapless[chunk] or (held and not self._within_limits(held, chunk, cash)):
                self._step_to = (chunk + 1) * CHUNK
                break
            row = min((chunk + 1) * CHUNK, last)
        return row

    def _held(self, block: BarBlock) -> list[_Held]:
        """Return the open positions."""
        engine, ranges = self._engine, block.ranges()
        held = []
        for position in engine.portfolio.open:
            own = ranges[block.symbols.index(position.symbol)] if position.symbol in block.symbols else None
            state = engine.states[position.symbol]
            rate = state.instrument.maintenance
            reach = self._reach(state)
            held.append(_Held(position.size, position.mark, rate, own, reach))
        return held

    def _within_limits(self, held: list[_Held], chunk: int, cash: float) -> bool:
        """Return whether no price within a chunk reaches a limit of the account, whatever the others do."""
        risk = self._engine.risk
        least = most = worst = cash
        gross, needed = abs(cash), 0.0
        for one in held:
            size, low, high = one.size, one.low, one.high
            traded_low, traded_high = low, high
            ranges = one.ranges
            if ranges is not None and ranges.low[chunk] < inf:
                # the first bars of a chunk may come before the symbol's own: then its last marks count
                close_low, close_high = ranges.close_low[chunk], ranges.close_high[chunk]
                one.low, one.high = close_low, close_high
                low, high = min(low, close_low), max(high, close_high)
                traded_low, traded_high = min(low, ranges.low[chunk]), max(high, ranges.high[chunk])
                if ranges.low[chunk] <= one.below or ranges.high[chunk] >= one.above:
                    return False
            if size > 0.0:
                least += size * low
                most += size * high
                worst += size * traded_low
            else:
                least += size * high
                most += size * low
                worst += size * traded_high
            gross += abs(size) * traded_high
            needed += abs(size) * traded_high * one.maintenance
        slack = gross * _SLACK
        if least - slack <= risk.floor or most + slack > risk.ceiling:
            return False
        # If equity exceeds the maintenance margin at the worst prices, none of them is a liquidation price
        return not self._engine._margined or worst - needed > slack

    # -- samples ------------------------------------------------------------------------------------------

    def _begin_block(self, block: BarBlock) -> None:
        engine = self._engine
        self._block, self._begin_ms, self._due = block, block.ends[0], -1
        self._states = [engine.states.get(symbol) for symbol in block.symbols]
        self._strategy = None
        self._marks = [engine.portfolio.positions[symbol].mark for symbol in self._symbols]

    def _begin_strategy(self, block: BarBlock) -> None:
        """Note what the strategy does with the bars of a block."""
        engine = self._engine
        strategy = self._strategy = engine.strategy
        keeps_bars = any(
            state.history is not None or state.fusion_inputs is not None for state in engine.states.values()
        )
        self._lets_pass = engine._wants_klines and engine._lets_pass and not keeps_bars
        self._keeps_state = strategy.overrides("pass_over")
        self._wanted = -1
        self._ahead = []
        if self._lets_pass and engine._reads_features:
            self._ahead = [
                FeaturesAhead(block, number, FeatureTracker() if state is None else state.tracker)
                for number, state in enumerate(self._states)
            ]

    def _end_block(self) -> None:
        """Pass on the samples of the block's periods, except the last one, which has not been checked yet."""
        block, segments, dropped = self._block, self._segments, self._dropped
        self._segments, self._dropped = [], []
        if block is None or not segments:
            return
        engine = self._engine
        rows: Any = np.delete(np.arange(len(block)), dropped) if dropped else slice(None)
        ends = block.end[rows]
        closes: Any  # the period's last bars
        if block.numbers is None:
            closes = slice(*ends.searchsorted((segments[0].ts, engine._period)).tolist())
        else:
            closes = np.append(ends[1:] != ends[:-1], True)
            closes &= (ends >= segments[0].ts) & (ends < engine._period)
        ts = ends[closes]
        begins = ts.searchsorted(np.array([one.ts for one in segments]))
        lengths = np.diff(begins, append=len(ts))
        cash = np.array([one.cash for one in segments]).repeat(lengths)
        equity, exposure = cash.copy(), np.zeros(len(ts))
        for index, symbol in enumerate(self._symbols):
            sizes = np.array([one.sizes[index] for one in segments])
            if not sizes.any():
                continue
            size = sizes.repeat(lengths)
            value = np.where(size == 0.0, 0.0, size * self._marks_of(block, index, symbol, rows, closes))
            equity += value
            exposure += np.abs(value)
        engine.flush_samples()
        columns: Any = ts, equity, cash, exposure
        engine._sink.equity(*columns)

    def _marks_of(self, block: BarBlock, index: int, symbol: str, rows: Any, closes: Any) -> Any:
        """Return the symbol's mark at the end of each period."""
        if block.numbers is None:
            close = block.close[rows][closes]
            return close if block.symbols[0] == symbol else np.full(len(close), self._marks[index])
        number = block.symbols.index(symbol) if symbol in block.symbols else -1
        own = np.where(block.numbers[rows] == number, np.arange(len(block))[rows], -1)
        latest = np.maximum.accumulate(own)[closes]
        return np.where(latest < 0, self._marks[index], block.close[np.maximum(latest, 0)])
