"""The faults of `tests.support.mutation`: where, what text becomes what, and the tests that must notice."""

from __future__ import annotations

from typing import Final, NamedTuple


class Mutation(NamedTuple):
    """`old` occurs exactly once in `file`, and becomes `new`."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MONEY: Final = ("tests/core/test_engine_money.py",)
CORE: Final = (
    "tests/core/test_engine_money.py",
    "tests/core/test_risk.py",
    "tests/core/test_fills.py",
    "tests/core/test_stale.py",
    "tests/core/test_kill.py",
    "tests/core/test_engine.py",
)
VENUE: Final = ("tests/core/test_venue.py",)
RECORD: Final = (
    "tests/store/test_journal.py",
    "tests/store/test_recorder.py",
    "tests/store/test_comparison_sink.py",
    "tests/store/test_chain.py",
)
LATE: Final = ("tests/live/gateway/test_gateway.py::test_an_order_that_reduces_a_position_never_expires",)
GATEWAY: Final = ("tests/live/gateway/test_gateway.py",)
SLEEVES: Final = ("tests/core/test_sleeves.py",)

VENUE_SLEEVES: Final = ("tests/core/test_venue_sleeves.py",)

CHANGE: Final = ("tests/core/test_strategy_change.py",)

MEANS: Final = ("tests/core/test_rolling_mean.py",)
BLOCKS: Final = ("tests/core/test_block_runner.py",)

MUTATIONS: Final = (
    Mutation(
        "limits-of-the-account-are-passed-over",
        "agent/core/block_runner.py",
        "        if least - slack <= risk.floor or most + slack > risk.ceiling:\n",
        "        if most + slack > risk.ceiling:\n",
        BLOCKS,
    ),
    Mutation(
        "orders-are-passed-over",
        "agent/core/block_runner.py",
        "                if ranges.low[chunk] <= one.below or ranges.high[chunk] >= one.above:\n",
        "                if ranges.low[chunk] <= one.below:\n",
        BLOCKS,
    ),
    Mutation(
        "signals-that-expire-are-passed-over",
        "agent/core/block_runner.py",
        "            due = engine.signals.next_expiry\n",
        "            pass\n",
        BLOCKS,
    ),
    Mutation(
        "a-bar-that-the-strategy-wants-is-passed-over",
        "agent/core/block_runner.py",
        "                upto = block.row_of(number, begin + quiet)\n",
        "                upto = block.row_of(number, begin + quiet) + 1\n",
        BLOCKS,
    ),
    Mutation(
        "features-ahead-go-on-after-a-gap",
        "agent/core/bar_block.py",
        " or first < self._first or self._next - first != seen:\n",
        " or first < self._first:\n",
        BLOCKS,
    ),
    Mutation(
        "the-means-are-not-told-of-passed-bars",
        "agent/core/rolling_mean.py",
        "            self.push(bars.last_end, close)\n",
        "            self._bars += 1\n",
        MEANS,
    ),
    Mutation(
        "means-of-other-bars-are-taken-over",
        "agent/core/rolling_mean.py",
        "if self._seen == self._bars and _are_equal(self._ahead, closes):",
        "if self._seen == self._bars:",
        MEANS,
    ),
    Mutation(
        "samples-keep-the-cash-of-the-block's-begin",
        "agent/core/block_runner.py",
        "        if not segments or segments[-1].version != portfolio.version:\n",
        "        if not segments:\n",
        BLOCKS,
    ),
    Mutation(
        "bars-passed-over-have-no-volume",
        "agent/core/paper.py",
        "            self._note_volume(symbol, starts[number], volumes[number])\n",
        "            self._taken[symbol] = (starts[number], 0.0)\n",
        BLOCKS,
    ),
    Mutation(
        "entries-survive-a-change-of-strategy",
        "agent/core/engine.py",
        '        self._cancel_entries("strategy replaced")\n',
        "",
        CHANGE,
    ),
    Mutation(
        "an-error-is-forgotten-at-a-change-of-strategy",
        "agent/core/engine.py",
        "            self.guard.inherit(failure)\n",
        "            self.guard.resume()\n",
        CHANGE,
    ),
    Mutation(
        "bars-kept-for-a-strategy-are-lost-at-a-restart",
        "agent/core/engine.py",
        "        if self._collecting:\n            self._call_on_kline",
        "        if self._collecting and not self._past:\n            self._call_on_kline",
        CHANGE,
    ),
    Mutation(
        "the-bar-in-progress-begins-at-the-change",
        "agent/core/bar_history.py",
        "                    self._folds[name] = earlier._folds[taken.name]\n",
        "                    self._folds[name] = _Fold()\n",
        CHANGE,
    ),
    Mutation(
        "shorts-pay-funding",
        "agent/core/paper.py",
        "mark, -position.qty * mark * rate\n",
        "mark, -abs(position.qty) * mark * rate\n",
        MONEY,
    ),
    Mutation(
        "liquidation-looks-at-the-close",
        "agent/core/engine.py",
        "worst_long, worst_short, first = low, high, opened",
        "worst_long, worst_short, first = close, close, opened",
        MONEY,
    ),
    Mutation(
        "a-touched-trigger-rests",
        "agent/core/orders.py",
        "return high >= self.trigger if self.rises else low <= self.trigger",
        "return high > self.trigger if self.rises else low < self.trigger",
        MONEY,
    ),
    Mutation(
        "daily-loss-from-the-high",
        "agent/core/risk.py",
        "        if equity > self._peak:\n            self._peak = equity\n",
        "        if equity > self._peak:\n            self._peak = equity\n"
        "        self._day_open = max(self._day_open, equity)\n",
        MONEY,
    ),
    Mutation(
        "reductions-expire",
        "agent/live/gateway/order_tracker.py",
        "return not order.order.reduce_only and self._now()",
        "return self._now()",
        LATE,
    ),
    # -- the core
    Mutation(
        "the-high-of-the-first-day-only",
        "agent/core/risk.py",
        "            self._peak = self._day_open = 0.0\n            self.next_day = 0",
        "            self._day_open = 0.0\n            self.next_day = 0",
        CORE,
    ),
    Mutation(
        "a-halt-keeps-its-entries",
        "agent/core/engine.py",
        '        if self.risk.halted:\n            self._cancel_entries("halted")\n        if self.guard',
        "        if self.guard",
        MONEY,
    ),
    Mutation(
        "gross-counts-shorts-negative",
        "agent/core/engine.py",
        "gross += value if value > 0 else -value",
        "gross += value",
        MONEY,
    ),
    Mutation(
        "gross-leaves-the-own-position-in",
        "agent/core/target_orders.py",
        "gross_after = self._portfolio.gross_notional() - abs(position.size) * price + after",
        "gross_after = self._portfolio.gross_notional() + after",
        MONEY,
    ),
    Mutation(
        "time-runs-backwards",
        "agent/core/engine.py",
        "        if now > self.market.now:\n            self.market.now = now\n\n    def _expire_signals",
        "        self.market.now = now\n\n    def _expire_signals",
        MONEY,
    ),
    Mutation(
        "a-gap-keeps-the-features",
        "agent/core/engine.py",
        '            self.counts["gaps"] += 1\n            state.start_anew()\n'
        "            state.next_start = gap.end",
        '            self.counts["gaps"] += 1\n            state.next_start = gap.end',
        MONEY,
    ),
    Mutation(
        "open-bars-decide",
        "agent/core/engine.py",
        "        if not confirm:",
        "        if not confirm and now < 0:",
        MONEY,
    ),
    Mutation(
        "stale-at-the-limit",
        "agent/core/risk.py",
        "return overdue > self._config.stale_after",
        "return overdue >= self._config.stale_after",
        CORE,
    ),
    Mutation(
        "orders-a-minute-one-more",
        "agent/core/risk.py",
        "len(sent) >= config.max_orders_per_minute",
        "len(sent) > config.max_orders_per_minute",
        CORE,
    ),
    Mutation(
        "kill-resumes-unconfirmed",
        "agent/core/risk.py",
        "if self.rule == KILL and confirm != RESUME_FROM_KILL:",
        "if self.rule == KILL and not confirm and False:",
        CORE,
    ),
    Mutation(
        "a-new-day-does-not-resume",
        "agent/core/risk.py",
        'if self.state is _REDUCING and self.rule == "max_daily_loss":',
        "if False:",
        CORE,
    ),
    # -- several strategies in one account
    Mutation(
        "crosses-fill-the-larger-quantity",
        "agent/core/internal_crosses.py",
        "qty = min(buyer.most_at",
        "qty = max(buyer.most_at",
        SLEEVES,
    ),
    Mutation(
        "crosses-trade-in-the-account",
        "agent/core/sleeves.py",
        "if decision.kind is not FillKind.INTERNAL:",
        "if True:",
        SLEEVES,
    ),
    Mutation(
        "sleeves-have-a-volume-each",
        "agent/core/sleeve_roster.py",
        "exchange.share_volume(other)",
        "pass",
        SLEEVES,
    ),
    Mutation(
        "the-account-has-no-limits",
        "agent/core/risk.py",
        "elif self.account is not None and not self.account.allows(now, symbol, change):",
        "elif False:",
        SLEEVES,
    ),
    Mutation(
        "reduce-only-orders-cross-whole",
        "agent/core/paper.py",
        "wanted = min(wanted, rules.round_qty(opposite))",
        "wanted = working.remaining",
        SLEEVES,
    ),
    Mutation(
        "removed-sleeves-keep-their-cash",
        "agent/core/sleeve_roster.py",
        "self.unassigned.transfer(sleeve.engine.portfolio.cash)",
        "pass",
        SLEEVES,
    ),
    Mutation(
        "what-exceeds-a-sleeve-s-position-stays",
        "agent/core/sleeve_venue.py",
        "            if excess:\n",
        "            if excess < 0:\n",
        VENUE_SLEEVES,
    ),
    Mutation(
        "crossed-orders-leave-whole",
        "agent/core/sleeve_venue.py",
        "ts=now, qty=rest)",
        "ts=now)",
        VENUE_SLEEVES,
    ),
    Mutation(
        "funding-is-for-the-positions-of-now",
        "agent/core/sleeve_venue.py",
        "held = {name: self._held(name, s.symbol, s.ts)",
        "held = {name: self._held(name, s.symbol)",
        VENUE_SLEEVES,
    ),
    Mutation(
        "the-kill-switch-s-fills-are-of-no-sleeve",
        "agent/core/sleeve_venue.py",
        " or fill.order_id.startswith(EMERGENCY_PREFIX)",
        "",
        VENUE_SLEEVES,
    ),
    # -- the paper exchange
    Mutation(
        "liquidation-fee-is-free", "agent/core/paper.py", " + qty * met * self._liquidation_fee", "", CORE
    ),
    Mutation(
        "liquidation-ignores-the-gap",
        "agent/core/paper.py",
        "price = min(price, first) if position.size > 0 else max(price, first)",
        "price = float(price)",
        CORE,
    ),
    Mutation(
        "latency-is-forgotten",
        "agent/core/paper.py",
        "WorkingOrder(order, now + self._latency, best=mark)",
        "WorkingOrder(order, now, best=mark)",
        CORE,
    ),
    Mutation("post-only-takes", "agent/core/paper.py", "if order.tif is _POST_ONLY:", "if False:", CORE),
    Mutation(
        "volume-is-not-shared",
        "agent/core/paper.py",
        "self._taken[symbol] = (bar, taken + units)",
        "self._taken[symbol] = (bar, taken)",
        MONEY,
    ),
    Mutation(
        "both-sides-of-an-oco-fill",
        "agent/core/paper.py",
        "        if order.oco and working.share is None:\n            group",
        "        if order.oco and working.share is None and False:\n            group",
        MONEY,
    ),
    Mutation(
        "reduce-only-turns-the-position",
        "agent/core/paper.py",
        "            wanted = min(wanted, opposite)\n            if not wanted:\n"
        '                reason = "reduce-only',
        '            if not opposite:\n                reason = "reduce-only',
        CORE,
    ),
    Mutation(
        "takers-get-half-the-spread",
        "agent/core/paper.py",
        "worse = price * self._rules.half_spread +",
        "worse = price * 0.5 * self._rules.half_spread +",
        CORE,
    ),
    Mutation(
        "affordable-ignores-other-positions",
        "agent/core/margin.py",
        "carried = (equity * self.leverage[instrument.symbol] - others) / price",
        "carried = equity * self.leverage[instrument.symbol] / price",
        MONEY,
    ),
    Mutation(
        "others-need-no-margin",
        "agent/core/margin.py",
        "- q * position.mark - others) / (rate",
        "- q * position.mark) / (rate",
        MONEY,
    ),
    Mutation(
        "shorts-realise-the-wrong-way",
        "agent/core/portfolio.py",
        "if was_long else -closed * price) - released",
        "if was_long else closed * price) - released",
        CORE,
    ),
    Mutation(
        "fees-are-not-paid-in-cash",
        "agent/core/portfolio.py",
        "self.cash -= value + fee",
        "self.cash -= value",
        CORE,
    ),
    # -- a venue
    Mutation(
        "fills-are-booked-twice",
        "agent/core/venue.py",
        "if fill.id in self.fill_ids or fill.symbol",
        "if fill.symbol",
        VENUE,
    ),
    Mutation(
        "settlements-are-booked-twice",
        "agent/core/venue.py",
        "if settlement.id in self.fill_ids or settlement.symbol",
        "if settlement.symbol",
        VENUE,
    ),
    Mutation(
        "cancels-are-asked-twice",
        "agent/core/venue.py",
        "if not sent.cancelling and not sent.ended:",
        "if not sent.ended:",
        VENUE,
    ),
    Mutation(
        "a-refused-stop-leaves-the-position",
        "agent/core/venue.py",
        "not (reached or refused.is_stop)",
        "not reached",
        VENUE,
    ),
    # -- the record
    Mutation(
        "the-chain-forgets-its-past",
        "agent/store/chain.py",
        "self.digest + event_seq.to_bytes",
        "event_seq.to_bytes",
        RECORD,
    ),
    Mutation(
        "a-retry-writes-twice",
        "agent/store/journal.py",
        "if again and last_event_seq(self._database, run_id) == ahead.seq:",
        "if again and False:",
        RECORD,
    ),
    Mutation(
        "a-missing-event-is-skipped",
        "agent/store/journal.py",
        "if row.seq != expected:",
        "if row.seq < expected:",
        RECORD,
    ),
    Mutation(
        "verify-ignores-the-chain-head",
        "agent/store/comparison_sink.py",
        "stated, found = (self._run.events, self._run.chain_head), (self.event_seq, self._chain.head)",
        "stated, found = (self._run.events, 0), (self.event_seq, 0)",
        RECORD,
    ),
    Mutation(
        "a-missing-last-decision-is-identical",
        "agent/store/comparison_sink.py",
        "        if self.divergence is None and self._expected:\n",
        "        if self.divergence is None and self._expected and False:\n",
        RECORD,
    ),
    # -- the gateway
    Mutation(
        "foreign-trades-are-adopted",
        "agent/live/gateway/reconciler.py",
        '            if self._foreign == "adopt":\n',
        "            if True:\n",
        GATEWAY,
    ),
    Mutation(
        "an-amendment-is-forgotten",
        "agent/live/gateway/in_flight_order.py",
        "            self.new_qty = self.new_qty if amend.qty is None else amend.qty\n",
        "",
        GATEWAY,
    ),
)
