"""Kill points between the steps of the journal, the core and the recorder.

They wrap methods of the product in the process to be killed; the product doesn't know them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final

import msgspec
from sqlalchemy import Connection

from agent.live.pipeline import Pipeline
from agent.store import database as database_module
from agent.store.database import Database, Insert
from agent.store.journal import Journal
from agent.store.recorder import Recorder

SCHEMA: Final = "schema made, not committed"
BEGUN: Final = "run begun"
FOLDING: Final = "folding an event"
FOLDED: Final = "folded, not recorded"
ARRIVED: Final = "arrived, not journalled"
WRITTEN: Final = "in the journal's transaction"
SAFE: Final = "journalled, not handled"
HANDLED: Final = "handled, not recorded"
RECORDING: Final = "in the recorder's transaction"
RECORDED: Final = "recorded"
ENDING: Final = "at the end, not committed"

POINTS: Final = {
    SCHEMA: 1,
    BEGUN: 1,
    FOLDING: 40,
    FOLDED: 1,
    ARRIVED: 15,
    WRITTEN: 15,
    SAFE: 15,
    HANDLED: 30,
    RECORDING: 15,
    RECORDED: 15,
    ENDING: 1,
}
"""Point -> maximum of passes before the kill."""


class KillMoment(msgspec.Struct, frozen=True):
    """When SIGKILL is sent: at the `nth` pass of a point, or `after` this number of seconds."""

    point: str = ""
    nth: int = 0
    after: float = 0.0

    def __str__(self) -> str:
        return f"{self.point}, pass {self.nth}" if self.point else f"after {1000 * self.after:.1f} ms"


def install(
    moment: KillMoment, kill: Callable[[], Any] = lambda: os.kill(os.getpid(), signal.SIGKILL)
) -> None:
    """Kill this process at `moment`, if it names a point."""
    left = moment.nth

    def reach(point: str) -> None:
        nonlocal left
        if point == moment.point:
            left -= 1
            if left == 0:
                kill()

    wrap_calls(database_module, "migrate", after=lambda *_: reach(SCHEMA))
    wrap_calls(Recorder, "__init__", after=lambda *_: reach(BEGUN))
    folding = False

    def fold(begins: bool) -> None:
        nonlocal folding
        folding = begins
        if not begins:
            reach(FOLDED)

    wrap_calls(Pipeline, "_fold", before=lambda *_: fold(True), after=lambda *_: fold(False))
    wrap_calls(Journal, "append", before=lambda *_: reach(ARRIVED), after=lambda *_: reach(SAFE))
    wrap_calls(Pipeline, "_handle", after=lambda *_: reach(FOLDING if folding else HANDLED))
    wrap_calls(Recorder, "flush", after=lambda *_: reach(RECORDED))
    wrap_calls(Recorder, "_insert", after=lambda *_: reach(RECORDING))
    wrap_calls(Recorder, "_end", before=lambda *_: reach(ENDING))

    @contextmanager
    def write(self: Database) -> Iterator[Connection]:
        with original(self) as connection:
            yield connection
            reach(WRITTEN)

    @contextmanager
    def batch(self: Database) -> Iterator[Insert]:
        with original_batch(self) as insert:
            yield insert
            if self.is_sqlite:  # otherwise it is a `write`
                reach(WRITTEN)

    original, original_batch = Database.write, Database.batch
    Database.write, Database.batch = write, batch  # type: ignore[method-assign]


def wrap_calls(
    owner: Any,
    name: str,
    *,
    before: Callable[..., None] | None = None,
    after: Callable[..., None] | None = None,
) -> None:
    """Call `before` and `after` with the arguments of a function whenever it is called."""
    original = getattr(owner, name)

    @wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before:
            before(*args)
        result = original(*args, **kwargs)
        if after:
            after(*args)
        return result

    setattr(owner, name, wrapped)
