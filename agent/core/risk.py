"""Risk limits: checks every order, and moves the account between ACTIVE, REDUCING and HALTED.

Cancels and orders that only reduce a position pass in every state. Equity is checked once a bar period.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from math import inf
from typing import Final, Protocol

from agent.core.durations import format_duration
from agent.core.events import DAY_MS, MINUTE_MS, RiskEvent, RiskState
from agent.core.settings import RiskConfig

KILL = "kill"
"""Rule of a kill; resuming from it requires `RESUME_FROM_KILL` as confirmation."""

RESUME_FROM_KILL = "resume from kill"

STALE = "stale data"
"""Rule of a symbol whose data have stopped or returned."""

CLOCK = "clock"
"""Rule of an alarm about a source of time."""

PRICE_BAND = "price band"
"""Rule of an alarm about a price that the market-data feed withholds."""

MODEL_DRIFT = "model drift"
"""Rule of an alarm about headlines that differ from the sentiment model's training texts."""

TWIN = "twin"
"""Rule of a note that a venue's fills cost more or less than the paper model allows, or no longer do."""

WARM_UP = "warm-up"
"""Rule that opens no position while history is read."""

SHORT_HISTORY = "short history"
"""Rule of a note that fewer bars were at hand for the warm-up than the strategy needs."""

SLEEVE = "sleeve"
"""Rule of a note that a sleeve was added or removed, or that a command for one can't be followed."""

NOTES = (SLEEVE, STALE, CLOCK, PRICE_BAND, MODEL_DRIFT, TWIN, SHORT_HISTORY)
"""Rules of risk events that neither change the state nor refuse an order."""

FLATTEN = "flatten"
"""Rule of positions being closed: targets ignored meanwhile, and positions that can't be closed."""

OLDER_RECORD = "older record"
"""Rule of a run whose record is older than the venue's history; an operator has to resume."""

TAKEN_ID = "taken id"
"""Rule of an order whose client order id belongs to another order at the venue."""

STRATEGY = "strategy"
"""Rule that halts a live run whose strategy raised an error."""

_MANUAL = "command"

_ACTIVE: Final = RiskState.ACTIVE
_REDUCING: Final = RiskState.REDUCING
_HALTED: Final = RiskState.HALTED

_BY_STATE: Final = {state: f"state {state.value}" for state in (RiskState.REDUCING, RiskState.HALTED)}
"""Rules of refusals by the state."""


class AccountLimits(Protocol):
    """The limits of an account that several sleeves share, as the risk manager of one sleeve sees them."""

    @property
    def active(self) -> bool:
        """True if the account may open positions."""
        ...

    def allows(self, now: int, symbol: str, change: float) -> bool:
        """Return whether the account allows an order that passes the sleeve's own limits.

        `change` is the signed value of the order, in account currency.
        """
        ...


class RiskLimits:
    """The limits of `[risk]`, which compiled code reads faster than from a section of the configuration."""

    def __init__(self, config: RiskConfig) -> None:
        self.max_position: float = config.max_position
        self.max_leverage: float = config.max_leverage
        self.max_order: float = config.max_order
        self.max_daily_loss: float = config.max_daily_loss
        self.max_drawdown: float = config.max_drawdown
        self.max_orders_per_minute: int = config.max_orders_per_minute
        self.stale_after: int = config.stale_after  # ms
        self.on_stale: str = config.on_stale
        self.max_abstain_rate: float = config.max_abstain_rate


class RiskManager:
    """Applies the limits of `[risk]`. `emit` receives every change of state and every refusal."""

    def __init__(self, config: RiskConfig, emit: Callable[[RiskEvent], None]) -> None:
        self._config = RiskLimits(config)
        self._emit = emit
        self.state = _ACTIVE
        self.rule = ""  # the limit or command that led to this state
        self.detail = ""
        self.since = 0  # UTC ms
        self.warming_up = False  # history is being read: it fills the features but opens no position
        self.reconciled = True  # False until the ledger has been compared with the venue's account
        self.floor = -inf  # equity at or below which `on_equity` must be called
        self.ceiling = -inf  # equity above which `on_equity` must be called, because the peak moves
        self.next_day = 0
        self._peak = 0.0
        self._day_open = 0.0
        self._sent: deque[int] = deque()
        self.stale: set[str] = set()  # symbols whose data had stopped at the last heartbeat
        self._drifted = False  # True if the ledger differed from the last account snapshot
        self.refusals: Counter[str] = Counter()  # refused orders, by rule
        self.account: AccountLimits | None = None  # of a sleeve: the limits of the whole account
        self._refused: dict[str, str] = {}  # symbol -> rule of its last refusal; repetitions are not recorded

    @property
    def halted(self) -> bool:
        """True if nothing may be opened until an operator resumes."""
        return self.state is _HALTED

    @property
    def killed(self) -> bool:
        """True if a kill has halted the account."""
        return self.state is _HALTED and self.rule == KILL

    @property
    def ready(self) -> bool:
        """True if history has been read and the venue's account is known; before that nothing is opened."""
        return self.reconciled and not self.warming_up

    # -- state ------------------------------------------------------------------------------------------

    def set_warming_up(self, warming_up: bool) -> None:
        """Enter or leave the warm-up, in which history is read and nothing is opened."""
        self.warming_up = warming_up

    def set_reconciled(self, reconciled: bool) -> None:
        """Note whether the ledger agrees with the venue's account; nothing is opened until it does."""
        self.reconciled = reconciled

    def on_equity(self, ts: int, equity: float) -> None:
        """Check the daily loss (since 00:00 UTC) and the drawdown (from the peak)."""
        if ts >= self.next_day:
            self.next_day = ts - ts % DAY_MS + DAY_MS
            self._day_open = equity
            if self.state is _REDUCING and self.rule == "max_daily_loss":
                self._move(ts, _ACTIVE, "max_daily_loss", "a new day")
        if equity > self._peak:
            self._peak = equity
        config = self._config
        lowest = self._peak * (1 - config.max_drawdown)
        lowest_of_day = self._day_open * (1 - config.max_daily_loss)
        if equity <= lowest and self.state is not _HALTED:
            self._move(
                ts,
                _HALTED,
                "max_drawdown",
                _fall(equity, self._peak, "its peak"),
            )
        elif equity <= lowest_of_day and self.state is _ACTIVE:
            self._move(
                ts,
                _REDUCING,
                "max_daily_loss",
                _fall(equity, self._day_open, "the day's start"),
            )
        self.ceiling = self._peak
        # What a limit would lead to may have happened already
        if self.state is _HALTED:
            self.floor = -inf
        else:
            self.floor = max(lowest_of_day, lowest) if self.state is _ACTIVE else lowest

    def on_transfer(self, amount: float) -> None:
        """Discount a deposit (negative: a withdrawal): it is neither profit nor loss.

        The peak and the day's first equity move by the amount, unless no equity is known: at the start and
        after a resume.
        """
        if self.next_day:
            self._peak += amount
            self._day_open += amount
            self.floor = inf  # check the next equity in any case

    def on_abstain_rate(self, ts: int, rate: float) -> None:
        """Allow only reductions while the model abstains too often."""
        if rate > self._config.max_abstain_rate:
            if self.state is _ACTIVE:
                self._move(
                    ts,
                    _REDUCING,
                    "max_abstain_rate",
                    f"the model abstained on {rate:.0%} of recent headlines",
                )
        elif self.state is _REDUCING and self.rule == "max_abstain_rate":
            self._move(ts, _ACTIVE, "max_abstain_rate", f"the abstain rate is back at {rate:.0%}")

    def on_drift(self, ts: int, drift: str) -> None:
        """Allow only reductions after two account snapshots in a row with a drift; "" clears it."""
        if drift and self._drifted and self.state is _ACTIVE:
            self._move(ts, _REDUCING, "drift", drift)
        elif not drift and self.state is _REDUCING and self.rule == "drift":
            self._move(ts, _ACTIVE, "drift", "ledger and account agree again")
        self._drifted = bool(drift)

    def on_older_record(self, ts: int, detail: str) -> None:
        """Allow only reductions until an operator resumes: the venue's history has more than the record."""
        if self.state is _HALTED:
            self._emit(RiskEvent(ts, self.state, self.rule, f"{OLDER_RECORD}: {detail}"))
        else:
            self._move(ts, _REDUCING, OLDER_RECORD, detail)

    def is_stale(self, overdue: int) -> bool:
        """Return whether a symbol's data are stale if its next bar is `overdue` ms late."""
        return overdue > self._config.stale_after

    def on_stale_check(self, ts: int, symbol: str, overdue: int) -> bool:
        """Check at a heartbeat whether a symbol's data have stopped or returned; return True if they have
        just stopped.

        Each change is recorded once. `overdue` is by how many ms the symbol's next bar is late.
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
        """Set the state that an operator demands.

        Resuming resets the peak, because otherwise a drawdown would halt again at once. A pause or halt never
        loosens a halt. After a kill, resuming requires `RESUME_FROM_KILL` as `confirm`.
        """
        if self.state is _HALTED:
            if state is not _ACTIVE:
                return
            if self.rule == KILL and confirm != RESUME_FROM_KILL:
                self._emit(RiskEvent(ts, self.state, KILL, f"resume by {by} without its confirmation"))
                return
        if state is _ACTIVE:
            self._peak = self._day_open = 0.0
            self.next_day = 0
        self._move(ts, state, _MANUAL, by)

    def kill(self, ts: int, detail: str) -> None:
        """Halt, from any state, until an operator resumes with a confirmation."""
        self._move(ts, _HALTED, KILL, detail)

    def on_strategy_error(self, ts: int, detail: str) -> None:
        """Halt until an operator resumes. An existing halt keeps its rule."""
        if self.state is _HALTED:
            self._emit(RiskEvent(ts, self.state, STRATEGY, detail))
        else:
            self._move(ts, _HALTED, STRATEGY, detail)

    def note(self, ts: int, rule: str, detail: str, symbol: str = "") -> None:
        """Record an alarm that changes no state."""
        self._emit(RiskEvent(ts, self.state, rule, detail, symbol))

    def _move(self, ts: int, state: RiskState, rule: str, detail: str) -> None:
        self.state, self.rule, self.detail, self.since = state, rule, detail, ts
        self.floor = inf  # check the next equity in any case: which limits count depends on the state
        self._emit(RiskEvent(ts, state, rule, detail))

    # -- orders -----------------------------------------------------------------------------------------

    def largest_position(self, equity: float, others: float, held: float) -> float:
        """Return the largest value of a symbol's position that the limits allow; it may be negative.

        `others` is the gross value of the other symbols' positions, `held` the value of the position held on
        the side of the new one, all in account currency.
        """
        config = self._config
        limits = (
            config.max_position * equity,
            config.max_leverage * equity - others,
            config.max_order * equity + held,
        )
        return min(limits)

    def recent_orders(self, now: int) -> int:
        """Return the number of orders that were allowed in the last minute, without reductions."""
        return sum(at > now - MINUTE_MS for at in self._sent)

    def refuses_again(self, symbol: str) -> bool:
        """Return whether an order that opens a position in `symbol` would be refused by the state, as the
        last one was.
        """
        refused = self._refused.get(symbol)
        return refused is not None and refused == _BY_STATE.get(self.state) and self.ready

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
        change: float = 0.0,
    ) -> bool:
        """Return whether an order may be submitted; record the rule of a refusal unless it repeats the
        symbol's last one.

        Args:
            reduces: True if the order only shrinks the position; such orders always pass.
            notional: value of the order, in account currency.
            position_after: value of the symbol's position if the order fills.
            gross_after: value of all positions if the order fills.
            equity: in account currency.
            data_age: by how many ms the symbol's next bar is overdue.
            change: signed value of the order, for the account of a sleeve.
        """
        if reduces:
            return True
        config = self._config
        sent = self._sent
        while sent and sent[0] <= now - MINUTE_MS:
            sent.popleft()
        slack = 1 + 1e-9
        if self.warming_up:
            rule, detail = WARM_UP, "what is being read is history"
        elif not self.reconciled:
            rule, detail = "unreconciled", "the venue's account is not known yet"
        elif self.state is not _ACTIVE:
            rule, detail = _BY_STATE[self.state], self.rule
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
        elif self.account is not None and not self.account.allows(now, symbol, change):
            return False  # the account has recorded why
        else:
            sent.append(now)
            self._refused.pop(symbol, None)
            return True
        self.refusals[f"{rule} ({detail})" if rule.startswith("state ") else rule] += 1
        if self._refused.get(symbol) != rule:
            self._refused[symbol] = rule
            self._emit(RiskEvent(now, self.state, rule, detail, symbol))
        return False


def _fall(equity: float, before: float, when: str) -> str:
    """Return in words how far equity has fallen; a share is told only of a positive value."""
    if before > 0:
        return f"equity {equity:.2f} is {1 - equity / before:.1%} below {when}"
    return f"equity {equity:.2f}; {when} is {before:.2f}"
