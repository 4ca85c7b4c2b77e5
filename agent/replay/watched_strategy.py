"""Notes the targets of a strategy, and the callback that set each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from agent.core.strategy import Strategy
from agent.core.target import Target

_CALLBACKS: Final = (
    *("on_kline", "on_bar", "on_news", "on_sentiment", "on_signal", "on_signal_expired", "on_prediction"),
    "on_fill",
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
        # An engine without a guard binds `on_kline` when it is made, so this one can't be watched
        self.callback = "on_kline"
        self.last: dict[str, NotedTarget] = {}

    def note(self, target: Target) -> None:
        """Note a target that has just been set."""
        self.last[target.symbol] = NotedTarget(target, self.callback, self.event_seq)


def watch(strategy: Strategy, log: TargetLog) -> None:
    """Let `log` note the targets of a strategy from now on; the strategy decides as before."""
    own = vars(strategy)
    own["target"] = _noting_target(strategy, log)
    for name in _CALLBACKS:
        own[name] = _noting_callback(getattr(strategy, name), name, log)


def _noting_target(strategy: Strategy, log: TargetLog) -> Callable[..., None]:
    original = strategy.target

    def target(*args: Any, **kwargs: Any) -> None:
        before = len(strategy.targets)
        original(*args, **kwargs)
        for set_now in strategy.targets[before:]:
            log.note(set_now)

    return target


def _noting_callback(callback: Callable[..., None], name: str, log: TargetLog) -> Callable[..., None]:
    def call(*args: Any) -> None:
        before, log.callback = log.callback, name
        try:
            callback(*args)
        finally:
            log.callback = before

    return call
