"""Requests repeated until a headline's deadline, unless the server is down or the budget is spent."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Final, Literal

from agent.system.backoff import BackoffConfig, delays
from models.sentiment.llm.llm_budget import HourBudget
from models.sentiment.llm.llm_client import Completion, LlmClient, LlmError, TooManyRequests
from models.sentiment.llm.llm_prompt import Prompt

Cause = Literal["deadline", "error", "outage", "rate limit", "budget", "invalid", "no words"]
"""Why a model gave no answer: the keys of its counters."""

BACKOFF: Final = BackoffConfig(first=100, ceiling=2_000)
"""Waits between the tries of a request."""

FAILURES: Final = 5
"""Failed tries in a row after which the server counts as down."""

FIRST_REST: Final = 5.0
LONGEST_REST: Final = 60.0
"""Seconds in which a server that is down isn't asked: doubled after each failed trial."""

_CLOSED: Final = "the scorer is closed"


class Unanswered(Exception):
    """A headline has no answer of the model. `cause` is counted, `reason` is one line for people."""

    def __init__(self, cause: Cause, reason: str) -> None:
        super().__init__(reason)
        self.cause: Cause = cause
        self.reason = reason


class OutageBreaker:
    """Circuit breaker (Nygard 2007): a server that is down costs the first headlines their time, not each.

    After `FAILURES` failed tries in a row, no request is sent for a while, then one, whose result decides.
    Thread-safe. `timer` returns seconds of a monotonic clock.
    """

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._lock = threading.Lock()
        self._failures = 0
        self._rest = FIRST_REST
        self._until = 0.0
        self._trial = False
        self._last = ""

    def blocked(self) -> str:
        """Return why no request may be sent now; "" if one may. After a rest it lets one through."""
        with self._lock:
            if self._failures < FAILURES:
                return ""
            now = self._timer()
            if now < self._until:
                return f"not asked after {FAILURES} failures in a row: {self._last}"
            self._until = now + self._rest  # for all others, until the result of this one is known
            self._trial = True
            return ""

    @property
    def down(self) -> str:
        """The last error if the server counts as down, else ""."""
        with self._lock:
            return self._last if self._failures >= FAILURES else ""

    def succeeded(self) -> None:
        """Count a response, of whatever content."""
        with self._lock:
            self._failures, self._rest, self._trial = 0, FIRST_REST, False

    def failed(self, reason: str) -> None:
        """Count a failed try."""
        with self._lock:
            self._failures += 1
            self._last = reason
            if self._trial:
                self._trial = False
                self._rest = min(2 * self._rest, LONGEST_REST)
            elif self._failures != FAILURES:  # a request that was under way when the server went down
                return
            self._until = self._timer() + self._rest


class RetryingClient:
    """Client that repeats failed requests, with at most `concurrency` requests under way. Thread-safe."""

    def __init__(
        self, client: LlmClient, budget: HourBudget, concurrency: int, rng: random.Random | None = None
    ) -> None:
        self.client = client
        self.budget = budget
        self.breaker = OutageBreaker()
        self.retried = 0
        """Requests that were repeated."""
        self.last_error = ""
        self._slots = threading.BoundedSemaphore(concurrency)
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._quiet_until = 0.0
        self._rng = rng or random.Random()

    def ask(self, prompt: Prompt, headline: str, seed: int, ends: float) -> Completion:
        """Return a completion before `ends`, in seconds of the monotonic clock.

        Raises Unanswered, and the errors of the client's module that don't concern the transport: NotOffered
        and InvalidResponse.
        """
        last: LlmError | None = None
        if self._closed.is_set():
            raise Unanswered("error", _CLOSED)
        for wait in delays(BACKOFF, self._rng):
            if last is not None:
                self._wait_before_retry(last, wait, ends)
            if blocked := self.breaker.blocked():
                raise Unanswered("outage", blocked)
            self._wait_while_quiet(ends)
            try:
                return self._try(prompt, headline, seed, ends, last)
            except LlmError as error:
                if self._closed.is_set():
                    raise Unanswered("error", _CLOSED) from None
                self.last_error = error.message
                if error.is_failure:
                    self.breaker.failed(error.message)
                elif not error.retried:
                    self.breaker.succeeded()
                if not error.retried and error.is_failure:
                    raise Unanswered("error", error.message) from None
                if not error.retried:
                    raise
                last = error
        raise AssertionError("the waits have no end")

    def close(self) -> None:
        """End waits between tries and requests under way. Later requests are not sent."""
        self._closed.set()
        self.client.close()

    def _try(
        self, prompt: Prompt, headline: str, seed: int, ends: float, last: LlmError | None
    ) -> Completion:
        if not self._slots.acquire(timeout=max(ends - time.monotonic(), 0.0)):
            raise Unanswered("deadline", "no request was free before the deadline")
        try:
            left = ends - time.monotonic()
            if left <= 0:
                raise self._given_up(last)
            spending = self.budget.reserve(*self.client.estimate(prompt, headline))
            if isinstance(spending, str):
                raise Unanswered("budget", spending)
            try:
                completion = self.client.complete(prompt, headline, seed, left)
            except LlmError as error:
                if not error.spends:
                    self.budget.settle(spending, 0, 0)
                raise
            self.budget.settle(spending, completion.tokens_in, completion.tokens_out)
            self.breaker.succeeded()
            return completion
        finally:
            self._slots.release()

    def _wait_before_retry(self, last: LlmError, wait: float, ends: float) -> None:
        if isinstance(last, TooManyRequests):
            wait = wait if last.wait is None else last.wait
            with self._lock:  # for all requests, not for this one alone
                self._quiet_until = max(self._quiet_until, time.monotonic() + wait)
        if time.monotonic() + wait >= ends:
            raise self._given_up(last)
        with self._lock:
            self.retried += 1
        if self._closed.wait(wait):
            raise Unanswered("error", _CLOSED)

    def _given_up(self, last: LlmError | None) -> Unanswered:
        if last is None:
            return Unanswered("deadline", "the deadline passed before a request")
        if not isinstance(last, TooManyRequests):
            return Unanswered("deadline", last.message)
        self.breaker.failed(last.message)  # once for a request; a limit alone doesn't count
        return Unanswered("rate limit", last.message)

    def _wait_while_quiet(self, ends: float) -> None:
        wait = self._quiet_until - time.monotonic()
        if wait <= 0:
            return
        if time.monotonic() + wait >= ends:
            raise Unanswered("rate limit", self.last_error)
        if self._closed.wait(wait):
            raise Unanswered("error", _CLOSED)
