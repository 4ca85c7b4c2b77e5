"""A strategy whose targets are noted, with the callback that set them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from agent.core.strategy import Strategy
from agent.core.target import Target

_CALLBACKS: Final = (
    *("on_start", "on_kline", "on_bar", "on_news", "on_sentiment", "on_signal", "on_signal_expired"),
    *("on_prediction", "on_fill"),
)


class NotedTarget(NamedTuple):
    """A target, the callback that set it, and the number of the event in which it was set."""

    target: Target
    callback: str
    event_seq: int


class TargetLog:
    """The last target of each symbol. `event_seq` is set to the number of the event before it is handled."""

    def __init__(self) -> None:
        self.event_seq = 0
        self.callback = ""
        self.last: dict[str, NotedTarget] = {}

    def note(self, target: Target) -> None:
        """Note a target that has just been set."""
        self.last[target.symbol] = NotedTarget(target, self.callback, self.event_seq)


def observed(strategy: Strategy, log: TargetLog) -> Strategy:
    """Return a new strategy of the same class and parameters, which decides the same and fills `log`."""
    kind = type(strategy)
    namespace: dict[str, Any] = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "target": _noting_target(kind, log),
    }
    for name in _CALLBACKS:
        if getattr(kind, name) is not getattr(Strategy, name):  # the engine calls what a class overrides
            namespace[name] = _noting_callback(getattr(kind, name), name, log)
    noting: type[Strategy] = type(kind.__name__, (kind,), namespace)
    return noting(strategy.params)


def _noting_target(kind: type[Strategy], log: TargetLog) -> Callable[..., None]:
    def target(self: Strategy, *args: Any, **kwargs: Any) -> None:
        kind.target(self, *args, **kwargs)
        log.note(self.targets[-1])

    return target


def _noting_callback(callback: Callable[..., None], name: str, log: TargetLog) -> Callable[..., None]:
    def call(self: Strategy, *args: Any) -> None:
        before, log.callback = log.callback, name
        try:
            callback(self, *args)
        finally:
            log.callback = before

    return call
