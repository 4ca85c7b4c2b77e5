"""What can go wrong, named by what a person has to do about it.

TapewireError                exit code 1: the work failed
├─ DataError                 a file or a stream holds what it must not: mend the data
├─ StoreError                the database can't be read or written: free space, rights, migrations
│  └─ StoreUnavailable       not now, perhaps later: the running agent halts, and tries again for `store.patience`
├─ ReconciliationError       the ledger does not add up: stop trading, report a bug
├─ VenueError                the exchange or a feed refused or failed: retry later, unless it is one of these
│  ├─ RequestRefused         never granted: mend the symbol or the parameter
│  ├─ FetchError             a feed's server refused or failed: it is asked again after a wait
│  ├─ StreamLost, HandshakeRefused   a WebSocket ended or wasn't opened: connect again after a wait
│  └─ PortError              a request about orders; its classes state what is known: OutcomeUnknown, Refused (never again),
│     │                      RateLimited and ClockSkewError (again, later)
│     └─ AuthenticationError         mend the keys or their permissions: nothing works with these
├─ StrategyError             a strategy's own code failed: mend the strategy
├─ ModelError                a model folder is missing, damaged, or for another base: name another one
├─ NotRunning                no agent is running: start one
├─ NoAnswer                  an agent that doesn't respond: it hangs, or is stopped
├─ UsageError                exit code 2: mend the command line
│  └─ ConfigError            exit code 2: mend the configuration
└─ SafetyError               exit code 3: refused so that nobody is harmed
   └─ LeakageError           a model would be judged on data it was trained on
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from agent.core.masking import mask


class TapewireError(Exception):
    """The root: `message` says what was wrong and where, `hint` what would be right. Secrets of URLs in them are masked."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = mask(message)
        self.hint = mask(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class DataError(TapewireError):
    """Input data that cannot be used as it is."""


class StoreError(TapewireError):
    """The database could not be opened, read or written."""


class StoreUnavailable(StoreError):
    """The disk is full, somebody else is writing, the file is read-only or gone: it may pass."""


class ReconciliationError(TapewireError):
    """Cash, positions, fees and funding do not add up."""


class VenueError(TapewireError):
    """An exchange or a feed refused a request or did not answer."""


class NotRunning(TapewireError):
    """Nobody listens where the agent would."""


class NoAnswer(TapewireError):
    """The agent accepts no connection, or answers nothing in time."""


class StrategyError(TapewireError):
    """A strategy's own code failed."""


class ModelError(TapewireError):
    """A model or adapter that cannot be loaded or does not fit."""


class UsageError(TapewireError):
    """Wrong arguments on the command line."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration that is not valid."""


class SafetyError(TapewireError):
    """Refused for safety."""

    exit_code = 3


class LeakageError(SafetyError):
    """A backtest's window begins before the model's `trained_until`."""


def error_from_exit_code(exit_code: int, message: str, hint: str = "") -> TapewireError:
    """The error that another process reports with the exit code that it means."""
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
    """The error that ended all tasks of a group; the others only went down with it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def brief(error: Exception) -> str:
    """Its kind and the beginning of its words: libraries such as ccxt quote a whole answer."""
    return f"{type(error).__name__}: {mask(str(error))[:200]}"
