"""The core's state as data: everything that affects its next decisions. `capture` saves it, `restore` loads it into a fresh engine.

A restored engine decides like one that has handled all events up to that moment; `fingerprint` identifies the program for which
that holds.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import msgspec

import agent
from agent.codec import Spec, StateError, Unencodable, encode, fill
from agent.config import Config
from agent.engine import Engine
from agent.events import Order, OrderType, Side
from agent.execution.book import WorkingOrder
from agent.execution.venue import SentOrder
from agent.flatten import Pursuit
from agent.outlook import Outlook
from agent.stories import StoryIndex
from strategies.base import Strategy

_FORMAT: Final = 1

_MODULES: Final = (
    "agent.engine", "agent.events", "agent.execution.book", "agent.execution.exchange", "agent.execution.paper",
    "agent.execution.venue", "agent.features", "agent.flatten", "agent.market", "agent.outlook", "agent.portfolio", "agent.risk",
    "agent.signals", "agent.sizing", "agent.stories", "agent.strategy_guard", "agent.textstate", "agent.votes", "strategies.",
)  # fmt: skip

WIRING: Final[dict[str, tuple[str, ...]]] = {
    "agent.engine:Engine": (
        "strategy", "_sink", "_config", "_run_id", "_equity_block", "_tell_kline", "_told", "_fields_of", "_kline", "_handlers",
    ),
    "agent.execution.exchange:Exchange": ("_instruments", "_emit", "_new_id"),
    "agent.execution.paper:PaperExchange": ("margin", "_rules"),
    "agent.flatten:Flattener": ("_emit", "_new_id"),
    "agent.features:FeatureTracker": ("_make", "_kind"),
    "agent.market:Tape": ("instrument",),
    "agent.outlook:Outlook": ("predictor", "_reading"),
    "agent.risk:RiskManager": ("_config", "_emit"),
    "agent.strategy_guard:StrategyGuard": ("_inner", "params", "targets"),
    "agent.signals:SignalEngine": ("_mapper",),
    "agent.stories:StoryIndex": ("_with",),
    "strategies.base:Strategy": ("params",),
}  # fmt: skip
"""Attributes that aren't state: configuration and callables that a fresh engine has, and what `_REBUILD` derives from the rest."""

_FIRST: Final[dict[str, tuple[str, ...]]] = {
    "agent.engine:Engine": ("portfolio", "exchange", "_targets"),
    "agent.execution.exchange:Exchange": ("_portfolio", "books"),
    "agent.portfolio:Portfolio": ("positions",),
}


def _read_again(outlook: Outlook) -> None:
    """Recompute the model's reading of the text so far, a pure function of it."""
    outlook._reading = outlook.predictor.read(outlook.text.mean) if outlook.text.count else None


def _index(stories: StoryIndex) -> None:
    """Rebuild the inverted index over the stories."""
    stories._with = {}
    for story in stories._stories:
        for key in story.keys:
            stories._with.setdefault(key, deque()).append(story)


_REBUILD: Final[dict[str, Callable[[Any], None]]] = {"agent.outlook:Outlook": _read_again, "agent.stories:StoryIndex": _index}

_ANY: Final = Order("", "", 0, Side.BUY, OrderType.MARKET, Decimal(1))
_BLANK: Final = {
    "agent.execution.book:WorkingOrder": lambda: WorkingOrder(_ANY, 0),
    "agent.execution.venue:SentOrder": lambda: SentOrder(_ANY, 0, 0.0),
    "agent.flatten:Pursuit": lambda: Pursuit(0, ""),
}


def _spec(strategy: Strategy) -> Spec:
    package = type(strategy).__module__.partition(".")[0]
    return Spec((*_MODULES, f"{package}."), wiring=WIRING, first=_FIRST, rebuild=_REBUILD, blank=_BLANK)


def capture(engine: Engine) -> bytes:
    """The state of `engine` and its strategy between two events. Raises Unencodable with the attribute that can't be saved."""
    strategy = engine.strategy
    own = type(strategy).snapshot is not Strategy.snapshot
    try:
        mine = strategy.snapshot() if own else strategy
    except Exception as error:
        raise Unencodable(f"not given: snapshot() raised {type(error).__name__}: {error}", "strategy") from error
    return encode([engine, own, mine], _spec(strategy))


def restore(engine: Engine, data: bytes) -> None:
    """Bring a fresh `engine` to the state in `data`. Raises StateError, after which the engine must be discarded."""
    strategy = engine.strategy
    own = type(strategy).snapshot is not Strategy.snapshot
    parts = fill(data, [engine, None, None if own else strategy], _spec(strategy))
    if own:
        try:
            strategy.restore(parts[2])
        except Exception as error:
            raise StateError(f"restore() of the strategy raised {type(error).__name__}: {error}") from error


def state_digest(core: bytes, chain: bytes, decisions: int) -> str:
    """Identify a state by what `capture` returned, the head of the decisions' chain, and their number."""
    return blake2b(core + chain + decisions.to_bytes(8, "big"), digest_size=16).hexdigest()


def fingerprint(config: Config, strategy: Strategy) -> str:
    """Identify the program that a state belongs to by its version, its sources, the strategy's sources, and what it decides by."""
    seen = blake2b(digest_size=16)
    seen.update(f"{_FORMAT} {agent.__version__} ".encode())
    seen.update(msgspec.json.encode(config.decisive(), order="deterministic"))
    seen.update(_sources())
    package = type(strategy).__module__.partition(".")[0]
    if package not in ("agent", "strategies"):
        files = {
            getattr(module, "__file__", None)
            for name, module in list(sys.modules.items())
            if f"{name}.".startswith(f"{package}.")
        }
        for file in sorted(filter(None, files)):
            seen.update(_source(Path(file)))
    return seen.hexdigest()


@lru_cache(maxsize=1)
def _sources() -> bytes:
    root = Path(agent.__file__).parent
    strategies = Path(sys.modules[Strategy.__module__].__file__ or "").parent
    files = [*root.glob("*.py"), *(root / "execution").glob("*.py"), *strategies.glob("*.py")]
    files += [root / "live" / "memory.py", root / "feeds" / "text.py"]  # the rim's part
    return b"".join(_source(file) for file in sorted(files))


def _source(file: Path) -> bytes:
    try:
        return blake2b(file.name.encode() + b"\0" + file.read_bytes(), digest_size=16).digest()
    except OSError:
        return b""
