"""The last gate before any order, and the state of the account: ACTIVE, REDUCING or HALTED.

Cancels and orders that only reduce a position pass in every state. Equity is looked at once a bar period.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from math import inf

from agent.core.durations import format_duration
from agent.core.events import DAY_MS, MINUTE_MS, RiskEvent, RiskState
from agent.core.settings import RiskConfig

KILL = "kill"
"""The rule that a kill halts by; only `RESUME_FROM_KILL` as confirmation resumes from it."""

RESUME_FROM_KILL = "resume from kill"

STALE = "stale data"
"""The rule of a symbol's data that have stopped, or are back."""

CLOCK = "clock"
"""The rule of an alarm about a source of time."""

PRICE_BAND = "price band"
"""The rule of an alarm about a price that is withheld."""

NOTES = (STALE, CLOCK, PRICE_BAND)
"""Rules of risk events that neither change the state nor refuse an order."""

FLATTEN = "flatten"
"""The rule of positions that are being closed: why targets are ignored meanwhile, and that one can't be closed."""

OLDER_RECORD = "older record"
"""The rule of a run whose record is older than the venue's history: a person has to resume."""

TAKEN_ID = "taken id"
"""The rule of an order whose client id another order has at the venue."""

STRATEGY = "strategy"
"""The rule that halts a live run whose strategy raised an error."""

_MANUAL = "command"


class RiskManager:
    """Limits of `[risk]`. `emit` receives every change of state and every refusal."""

    def __init__(self, config: RiskConfig, emit: Callable[[RiskEvent], None]) -> None:
        self._config = config
        self._emit = emit
        self.state = RiskState.ACTIVE
        self.rule = ""  # which limit brought us here
        self.detail = ""  # and how
        self.since = 0  # UTC ms
        self.warming = False  # history is being read: it may teach, but not open a position
        self.unreconciled = False  # a venue's account isn't known: what we hold isn't, either
        self.floor = -inf  # equity at or below which `on_equity` has something to decide
        self.ceiling = -inf  # equity above which the peak moves
        self.next_day = 0
        self._peak = 0.0
        self._day_open = 0.0
        self._sent: deque[int] = deque()
        self.stale: set[str] = set()  # symbols whose data have stopped, as far as a heartbeat has told
        self._drifted = False  # the ledger differed from the last account
        self.refusals: Counter[str] = Counter()  # orders refused, by rule
        self._refused: dict[str, str] = {}  # symbol -> rule of the last refusal; the same again is not news

    @property
    def halted(self) -> bool:
        """Nothing may be opened until a person resumes."""
        return self.state is RiskState.HALTED

    @property
    def killed(self) -> bool:
        """Halted by a kill."""
        return self.state is RiskState.HALTED and self.rule == KILL

    # -- state -------------------------------------------------------------------------------------------------------

    def on_equity(self, ts: int, equity: float) -> None:
        """Once a bar period: daily loss (since 00:00 UTC) and drawdown (from the peak)."""
        if ts >= self.next_day:
            self.next_day = ts - ts % DAY_MS + DAY_MS
            self._day_open = equity
            if self.state is RiskState.REDUCING and self.rule == "max_daily_loss":
                self._move(ts, RiskState.ACTIVE, "max_daily_loss", "a new day")
        if equity > self._peak:
            self._peak = equity
        config = self._config
        if equity <= self._peak * (1 - config.max_drawdown) and self.state is not RiskState.HALTED:
            self._move(
                ts,
                RiskState.HALTED,
                "max_drawdown",
                f"equity {equity:.2f} is {1 - equity / self._peak:.1%} below its peak",
            )
        elif equity <= self._day_open * (1 - config.max_daily_loss) and self.state is RiskState.ACTIVE:
            self._move(
                ts,
                RiskState.REDUCING,
                "max_daily_loss",
                f"equity {equity:.2f} is {1 - equity / self._day_open:.1%} below the day's start",
            )
        self.ceiling = self._peak
        self.floor = max(self._day_open * (1 - config.max_daily_loss), self._peak * (1 - config.max_drawdown))

    def on_abstain_rate(self, ts: int, rate: float) -> None:
        """After each scored headline: a model that abstains too often must not open positions."""
        if rate > self._config.max_abstain_rate:
            if self.state is RiskState.ACTIVE:
                self._move(
                    ts,
                    RiskState.REDUCING,
                    "max_abstain_rate",
                    f"the model abstained on {rate:.0%} of recent headlines",
                )
        elif self.state is RiskState.REDUCING and self.rule == "max_abstain_rate":
            self._move(ts, RiskState.ACTIVE, "max_abstain_rate", f"the abstain rate is back at {rate:.0%}")

    def on_drift(self, ts: int, drift: str) -> None:
        """After each look at a venue's account: a ledger that differs twice in a row is wrong. `drift` says how; empty: it doesn't."""
        if drift and self._drifted and self.state is RiskState.ACTIVE:
            self._move(ts, RiskState.REDUCING, "drift", drift)
        elif not drift and self.state is RiskState.REDUCING and self.rule == "drift":
            self._move(ts, RiskState.ACTIVE, "drift", "ledger and account agree again")
        self._drifted = bool(drift)

    def on_older_record(self, ts: int, detail: str) -> None:
        """The venue's history has what the record of this run has not: nothing is opened until a person resumes."""
        if self.state is RiskState.HALTED:
            self._emit(RiskEvent(ts, self.state, self.rule, f"{OLDER_RECORD}: {detail}"))
        else:
            self._move(ts, RiskState.REDUCING, OLDER_RECORD, detail)

    def is_stale(self, overdue: int) -> bool:
        """Whether a bar that is `overdue` ms is too late."""
        return overdue > self._config.stale_after

    def on_stale_check(self, ts: int, symbol: str, overdue: int) -> bool:
        """At a heartbeat: the symbol's next bar is `overdue` ms. Says once that its data are stale, and once that they are back.

        True where they have just gone stale.
        """
        if self.is_stale(overdue) is (symbol in self.stale):
            return False
        if symbol in self.stale:
            self.stale.remove(symbol)
            self._emit(RiskEvent(ts, self.state, STALE, "its data are back", symbol))
            return False
        self.stale.add(symbol)
        detail = f"the next bar is {format_duration(overdue)} overdue: {self._config.on_stale}"
        self._emit(RiskEvent(ts, self.state, STALE, detail, symbol))
        return True

    def command(self, ts: int, state: RiskState, by: str, *, confirm: str = "") -> None:
        """A person's word. Resuming also forgets the old peak, else a drawdown would halt again at once.

        A pause or a halt never loosens a halt, and after a kill `confirm` must say what it is that is resumed from.
        """
        if self.state is RiskState.HALTED:
            if state is not RiskState.ACTIVE:
                return
            if self.rule == KILL and confirm != RESUME_FROM_KILL:
                self._emit(RiskEvent(ts, self.state, KILL, f"resume by {by} without its confirmation"))
                return
        if state is RiskState.ACTIVE:
            self._peak = self._day_open = 0.0
            self.next_day = 0
        self.floor = inf  # look at the next equity, whatever it is
        self._move(ts, state, _MANUAL, by)

    def kill(self, ts: int, detail: str) -> None:
        """HALTED from any state, until a person resumes and confirms."""
        self.floor = inf
        self._move(ts, RiskState.HALTED, KILL, detail)

    def on_strategy_error(self, ts: int, detail: str) -> None:
        """HALTED until a person resumes; a kill stays a kill."""
        if self.state is RiskState.HALTED:
            self._emit(RiskEvent(ts, self.state, STRATEGY, detail))
        else:
            self.floor = inf  # look at the next equity, whatever it is
            self._move(ts, RiskState.HALTED, STRATEGY, detail)

    def note(self, ts: int, rule: str, detail: str, symbol: str = "") -> None:
        """Record an alarm that changes no state."""
        self._emit(RiskEvent(ts, self.state, rule, detail, symbol))

    def _move(self, ts: int, state: RiskState, rule: str, detail: str) -> None:
        self.state, self.rule, self.detail, self.since = state, rule, detail, ts
        self._emit(RiskEvent(ts, state, rule, detail))

    # -- orders ------------------------------------------------------------------------------------------------------

    def allows(
        self,
        now: int,
        symbol: str,
        *,
        reduces: bool,
        notional: float,
        position_after: float,
        gross_after: float,
        equity: float,
        data_age: int,
    ) -> bool:
        """Whether an order may go out; a refusal is recorded with its rule, once until something changes.

        `notional` of the order, `position_after` and `gross_after` (notional of the symbol and of all, were it filled) and `equity`
        are in account currency; `data_age` is how long the symbol's next bar is overdue, in ms.
        """
        if reduces:
            return True
        config = self._config
        sent = self._sent
        while sent and sent[0] <= now - MINUTE_MS:
            sent.popleft()
        slack = 1 + 1e-9
        if self.warming:
            rule, detail = "warm-up", "what is being read is history"
        elif self.unreconciled:
            rule, detail = "unreconciled", "the venue's account is not known yet"
        elif self.state is not RiskState.ACTIVE:
            rule, detail = f"state {self.state.value}", self.rule
        elif equity <= 0:
            rule, detail = "equity", f"{equity:.2f}"
        elif self.is_stale(data_age):
            rule, detail = "stale_after", f"the next bar is {format_duration(data_age)} overdue"
        elif len(sent) >= config.max_orders_per_minute:
            rule, detail = "max_orders_per_minute", f"{len(sent)} in the last minute"
        elif notional > config.max_order * equity * slack:
            rule, detail = "max_order", f"{notional:.2f} is {notional / equity:.2f} x equity"
        elif position_after > config.max_position * equity * slack:
            rule, detail = "max_position", f"{position_after:.2f} is {position_after / equity:.2f} x equity"
        elif gross_after > config.max_leverage * equity * slack:
            rule, detail = "max_leverage", f"{gross_after:.2f} is {gross_after / equity:.2f} x equity"
        else:
            sent.append(now)
            self._refused.pop(symbol, None)
            return True
        self.refusals[f"{rule} ({detail})" if rule.startswith("state ") else rule] += 1
        if self._refused.get(symbol) != rule:
            self._refused[symbol] = rule
            self._emit(RiskEvent(now, self.state, rule, detail, symbol))
        return False
