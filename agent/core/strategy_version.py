"""Versions of a run's strategy: what the command `use-strategy` states, and the decision that follows it.

The arguments of the command are texts:

- strategy: built-in name, path of a file (`/home/me/mine.py`), or `package.module:Class`;
- class: name of the class;
- sha256: of its source, by which a file's source is stored; empty for a built-in strategy;
- params: JSON object of all parameters, including defaults;
- flatten: "true" if positions are closed, otherwise they are kept;
- needs: JSON object of the bars that it needs by interval;
- sleeve: whose strategy it is, in a run with sleeves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from msgspec import UNSET

from agent.core.errors import StrategyError
from agent.core.events import Command, StrategyChange
from agent.core.strategy import Strategy

USE_STRATEGY: Final = "use-strategy"
"""Action of the command."""

StrategyLoader = Callable[[Mapping[str, str]], Strategy]
"""Creates the strategy that the arguments of a command `use-strategy` describe. Must always create the same
one."""


def no_loader(args: Mapping[str, str]) -> Strategy:
    """Refuse: this engine was made for one strategy. Raises StrategyError."""
    raise StrategyError(
        f"the journal changes the strategy to {args.get('strategy')}, which can't be loaded here"
    )


def label_of(strategy: str, class_name: str) -> str:
    """Return a short name: `mine.py:Mine` of a file, otherwise the strategy's own."""
    if not strategy.endswith(".py"):
        return strategy
    name = strategy.rpartition("/")[2]
    return f"{name}:{class_name}" if class_name else name


def bars_needed(args: Mapping[str, str]) -> dict[str, str]:
    """Return how many bars by interval the strategy of a command `use-strategy` needs, as texts."""
    return dict(msgspec.json.decode(args.get("needs", "{}"), type=dict[str, str]))


def change_of(command: Command, now: int) -> StrategyChange:
    """Return the decision that records a command `use-strategy`."""
    args = command.args
    return StrategyChange(
        now,
        args.get("strategy", ""),
        args.get("class", ""),
        args.get("sha256", ""),
        args.get("params", "{}"),
        args.get("flatten") == "true",
        command.by,
        args.get("sleeve", UNSET),
    )
