"""Other settings for an engine that has taken another one's state.

`restore` loads all attributes of a state, among them those that only repeat the configuration. Two fresh
engines, one with the old settings and one with the new, differ in exactly those; `adopt_settings` gives them
their new values.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from math import inf
from typing import Any, Final

from agent.core.sleeves import engines_of
from agent.core.strategy import Strategy
from agent.core.trading_engine import TradingEngine
from agent.replay.engine_state import spec_of
from agent.replay.object_codec import Spec

_PLAIN: Final = (int, float, str, bytes, Decimal, Enum, type(None), frozenset, tuple)


def adopt_settings(target: TradingEngine, before: TradingEngine, after: TradingEngine) -> list[str]:
    """Give `target` each plain attribute in which the fresh engines `before` and `after` differ.

    All three have the same sleeves and symbols; strategies are left as they are. Returns the names of the
    attributes.
    """
    changed: list[str] = []
    engines = engines_of(target).values()
    _adopt(target, before, after, "", changed, set(), spec_of([one.strategy for one in engines]))
    for risk in (target.risk, *(one.risk for one in engines)):
        risk.floor = inf  # follows from the limits and the account so far: computed at the next bar
    return changed


def _adopt(
    target: Any, before: Any, after: Any, path: str, changed: list[str], seen: set[int], spec: Spec
) -> None:
    if id(before) in seen or type(target) is not type(before) or type(before) is not type(after):
        return
    seen.add(id(before))
    if isinstance(before, Mapping):
        for key in before:
            if key in target and key in after:
                _adopt(target[key], before[key], after[key], f"{path}[{key}]", changed, seen, spec)
        return
    if isinstance(before, Strategy) or not spec.allows(type(before).__module__):
        return
    for name in spec.attributes(before):
        old, new = getattr(before, name, None), getattr(after, name, None)
        if isinstance(old, _PLAIN):
            if isinstance(new, _PLAIN) and repr(old) != repr(new):
                setattr(target, name, new)
                changed.append(f"{path}.{name}".removeprefix("."))
        else:
            own = getattr(target, name, None)
            _adopt(own, old, new, f"{path}.{name}", changed, seen, spec)
