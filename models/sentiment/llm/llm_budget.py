"""Limits of requests, tokens and cost in the last hour."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from agent.config.llm import LlmBudget

HOUR: Final = 3_600.0
_MILLION: Final = 1e6


class Spending(msgspec.Struct):
    """One request: its tokens, estimated until `HourBudget.settle` is called."""

    at: float
    tokens_in: int
    tokens_out: int
    cost: float
    in_hour: bool = True


class HourBudget:
    """Sliding hour: at each moment, the requests of the last hour stay within each limit. Thread-safe.

    The estimated tokens of a request are reserved before it is sent, so that requests sent at the same time
    don't exceed a limit together. `timer` returns seconds of a monotonic clock.
    """

    def __init__(self, limits: LlmBudget, timer: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._timer = timer
        self._spent: deque[Spending] = deque()
        self._tokens = 0
        self._cost = 0.0
        self._lock = threading.Lock()
        self.total_in = 0
        self.total_out = 0
        self.total_cost = 0.0
        """Tokens and cost since the start; a request under way counts with its estimate."""

    def reserve(self, tokens_in: int, tokens_out: int) -> Spending | str:
        """Reserve a request with its estimated tokens; return why not if a limit would be exceeded."""
        cost = self._cost_of(tokens_in, tokens_out)
        with self._lock:
            now = self._timer()
            self._forget(now)
            if reason := self._exceeded(tokens_in + tokens_out, cost):
                return reason
            spending = Spending(now, tokens_in, tokens_out, cost)
            self._spent.append(spending)
            self._add(tokens_in, tokens_out, cost)
            return spending

    def settle(self, spending: Spending, tokens_in: int | None, tokens_out: int | None) -> None:
        """Replace an estimate by the server's counts; None keeps the estimate."""
        with self._lock:
            found_in = spending.tokens_in if tokens_in is None else tokens_in
            found_out = spending.tokens_out if tokens_out is None else tokens_out
            cost = self._cost_of(found_in, found_out)
            more = found_in - spending.tokens_in, found_out - spending.tokens_out, cost - spending.cost
            # a request that left the hour meanwhile counts in the totals only
            self._add(*more, in_hour=spending.in_hour)
            spending.tokens_in, spending.tokens_out, spending.cost = found_in, found_out, cost

    def _cost_of(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self._limits.price_in + tokens_out * self._limits.price_out) / _MILLION

    def _add(self, tokens_in: int, tokens_out: int, cost: float, *, in_hour: bool = True) -> None:
        self.total_in += tokens_in
        self.total_out += tokens_out
        self.total_cost += cost
        if in_hour:
            self._tokens += tokens_in + tokens_out
            self._cost += cost

    def _forget(self, now: float) -> None:
        while self._spent and self._spent[0].at <= now - HOUR:
            old = self._spent.popleft()
            old.in_hour = False
            self._tokens -= old.tokens_in + old.tokens_out
            self._cost = self._cost - old.cost if self._spent else 0.0  # without rests of rounding

    def _exceeded(self, tokens: int, cost: float) -> str:
        limits = self._limits
        if limits.requests and len(self._spent) >= limits.requests:
            return f"budget of {limits.requests:,} requests an hour is spent"
        if limits.tokens and self._tokens + tokens > limits.tokens:
            return f"budget of {limits.tokens:,} tokens an hour is spent"
        if limits.cost and self._cost + cost > limits.cost:
            return f"budget of {limits.cost:g} an hour is spent"
        return ""
