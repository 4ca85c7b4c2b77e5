"""Exceptions, each with the exit code of the command line.

TapewireError                exit code 1: the work failed
├─ DataError                 a file or stream has invalid content: correct the data
├─ StoreError                the database can't be read or written: check space, permissions, migrations
│  └─ StoreUnavailable       perhaps temporary: the running agent halts and retries for `store.patience`
├─ ReconciliationError       the ledger does not add up: stop trading and report a bug
├─ VenueError                an exchange or feed refused or failed: retry later, except for these
│  ├─ RequestRejected        permanent: correct the symbol or parameter
│  ├─ FetchError             a feed's server refused or failed: it is fetched again after a wait
│  ├─ StreamLost, HandshakeRejected  a WebSocket closed or wasn't opened: reconnected after a wait
│  └─ PortError              a request about orders failed: OutcomeUnknown, OrderRejected (permanent),
│     │                      RateLimited, ClockSkewError (retried later)
│     └─ AuthenticationError         correct the API keys or their permissions
├─ StrategyError             a strategy's own code failed: correct the strategy
├─ ModelError                a model folder is missing, damaged, or does not fit: name another one
├─ NotRunning                no agent is running: start one
├─ NoAnswer                  the agent does not respond: it hangs or is suspended
├─ UsageError                exit code 2: correct the command line
│  └─ ConfigError            exit code 2: correct the configuration
└─ SafetyError               exit code 3: refused for safety
   └─ LeakageError           a model would be evaluated on data that it was trained on
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from agent.core.masking import mask


class TapewireError(Exception):
    """Base class: `message` states the problem, `hint` how to correct it. Secrets in both are masked."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = mask(message)
        self.hint = mask(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class DataError(TapewireError):
    """Input data that can't be used as it is."""


class StoreError(TapewireError):
    """The database could not be opened, read or written."""


class StoreUnavailable(StoreError):
    """The disk is full, the database is locked, or the file is read-only or gone: perhaps temporary."""


class ReconciliationError(TapewireError):
    """Cash, positions, fees and funding do not add up."""


class VenueError(TapewireError):
    """An exchange or a feed refused a request or did not respond."""


class NotRunning(TapewireError):
    """No agent listens on the control socket."""


class NoAnswer(TapewireError):
    """The agent accepts no connection, or does not respond in time."""


class StrategyError(TapewireError):
    """A strategy's own code failed."""


class ModelError(TapewireError):
    """A model or adapter that can't be loaded or does not fit."""


class UsageError(TapewireError):
    """Invalid arguments on the command line."""

    exit_code = 2


class ConfigError(UsageError):
    """An invalid configuration."""


class SafetyError(TapewireError):
    """Refused for safety."""

    exit_code = 3


class LeakageError(SafetyError):
    """A backtest's window begins before the model's `trained_until`."""


def error_from_exit_code(exit_code: int, message: str, hint: str = "") -> TapewireError:
    """Return the error that stands for another process's exit code."""
    return {2: UsageError, 3: SafetyError}.get(exit_code, TapewireError)(message, hint=hint)


def did_you_mean(name: str, known: Iterable[str], then: str = "", *, prefix: str = "", most: int = 1) -> str:
    """Return a hint such as "did you mean fast? it has fast, slow".

    Args:
        name: The unknown name.
        known: The names that exist.
        then: Text after the suggestion, or alone if no known name is close.
        prefix: Written before each suggested name, such as the section of a key.
        most: How many names to suggest at most.
    """
    close = difflib.get_close_matches(name, list(known), n=most)
    suggestion = f"did you mean {' or '.join(prefix + one for one in close)}?" if close else ""
    return f"{suggestion} {then}".strip()


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a task group; the others are its consequences."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def brief(error: Exception) -> str:
    """Return the error's class and the first 200 characters of its message (ccxt quotes whole responses)."""
    return f"{type(error).__name__}: {mask(str(error))[:200]}"
