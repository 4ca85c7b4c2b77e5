"""The core's state as data: everything that affects its next decisions.

`capture` saves it, `restore` loads it into a fresh engine, which then decides like one that has handled all
events up to that point. `fingerprint` identifies the program for which this holds.
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
import strategies
from agent.config import Config
from agent.core.bar_history import BarSeries
from agent.core.deduplication import HeadlineDeduplicator
from agent.core.engine import Engine
from agent.core.events import Order, OrderType, Side
from agent.core.flatten import Pursuit
from agent.core.fusion_inputs import FusionInputs
from agent.core.orders import WorkingOrder
from agent.core.rolling_mean import MeanCross, RollingMean
from agent.core.strategy import Strategy
from agent.core.venue import SentOrder
from agent.replay.object_codec import Spec, StateError, Unencodable, decode_into, encode

_FORMAT: Final = 1
_SHELL: Final = ("live/resume.py", "data/text.py")  # parts of the shell whose state is in a snapshot

_MODULES: Final = ("agent.core.", "strategies.")

_ENGINE_WIRING: Final = (
    *("strategy", "_sink", "_matching", "_venue", "_band", "_run_id", "_equity_block"),
    *("_call_on_kline", "_callbacks", "_fields_of", "_kline", "_handlers"),
)
WIRING: Final[dict[str, tuple[str, ...]]] = {
    "agent.core.engine:Engine": _ENGINE_WIRING,
    "agent.core.exchange:Exchange": ("_instruments", "_emit", "_new_id"),
    "agent.core.paper:PaperExchange": ("margin", "_rules"),
    "agent.core.flatten:Flattener": ("_emit", "_new_id"),
    "agent.core.features:FeatureTracker": ("_make", "_kind"),
    "agent.core.market:InstrumentState": ("instrument", "view"),
    "agent.core.fusion_inputs:FusionInputs": ("predictor", "_reading"),
    "agent.core.risk:RiskManager": ("_config", "_emit"),
    "agent.core.strategy_guard:StrategyGuard": ("_inner", "params", "targets", "ta", "_plotter"),
    "agent.core.signals:SignalEngine": ("_mapper",),
    "agent.core.deduplication:HeadlineDeduplicator": ("_by_word",),
    "agent.core.strategy:Strategy": ("params", "ta", "_plotter", "_on_notice"),
    "agent.core.plots:PlotRecorder": ("_emit",),
    "agent.core.bar_history:BarSeries": ("_views", "_writers"),
}
"""Attributes that aren't state: configuration, callables, and values that `_REBUILD` derives."""

_FIRST: Final[dict[str, tuple[str, ...]]] = {
    "agent.core.engine:Engine": ("portfolio", "exchange", "_targets"),
    "agent.core.exchange:Exchange": ("_portfolio", "books"),
    "agent.core.portfolio:Portfolio": ("positions",),
}


def _rebuild_reading(inputs: FusionInputs) -> None:
    """Recompute the model's reading of the text so far, which is a pure function of it."""
    inputs._reading = inputs.predictor.read(inputs.text.mean) if inputs.text.count else None


def _rebuild_index(stories: HeadlineDeduplicator) -> None:
    """Rebuild the inverted index over the stories."""
    stories._by_word = {}
    for story in stories._stories:
        for key in story.keys:
            stories._by_word.setdefault(key, deque()).append(story)


def _attach_columns(series: BarSeries) -> None:
    """Make the views of a history's buffer."""
    series.attach()


_REBUILD: Final[dict[str, Callable[[Any], None]]] = {
    "agent.core.bar_history:BarSeries": _attach_columns,
    "agent.core.fusion_inputs:FusionInputs": _rebuild_reading,
    "agent.core.deduplication:HeadlineDeduplicator": _rebuild_index,
}

_BLANK_ORDER: Final = Order("", "", 0, Side.BUY, OrderType.MARKET, Decimal(1))
_BLANK: Final = {
    "agent.core.orders:WorkingOrder": lambda: WorkingOrder(_BLANK_ORDER, 0),
    "agent.core.venue:SentOrder": lambda: SentOrder(_BLANK_ORDER, 0, 0.0),
    "agent.core.flatten:Pursuit": lambda: Pursuit(0, ""),
    "agent.core.rolling_mean:RollingMean": lambda: RollingMean(1),
    "agent.core.rolling_mean:MeanCross": lambda: MeanCross(1, 2),
}


def _spec(strategy: Strategy) -> Spec:
    package = type(strategy).__module__.partition(".")[0]
    return Spec((*_MODULES, f"{package}."), wiring=WIRING, first=_FIRST, rebuild=_REBUILD, blank=_BLANK)


def capture(engine: Engine) -> bytes:
    """Return the state of `engine` and its strategy between two events.

    Raises Unencodable that names the attribute which can't be saved.
    """
    strategy = engine.strategy
    own = type(strategy).snapshot is not Strategy.snapshot
    try:
        saved = strategy.snapshot() if own else strategy
    except Exception as error:
        cause = f"not saved: snapshot() raised {type(error).__name__}: {error}"
        raise Unencodable(cause, "strategy") from error
    return encode([engine, own, saved], _spec(strategy))


def restore(engine: Engine, data: bytes) -> None:
    """Load the state in `data` into a fresh `engine`. After a StateError the engine must be discarded."""
    strategy = engine.strategy
    own = type(strategy).snapshot is not Strategy.snapshot
    parts = decode_into(data, [engine, None, None if own else strategy], _spec(strategy))
    if own:
        try:
            strategy.restore(parts[2])
        except Exception as error:
            raise StateError(f"restore() of the strategy raised {type(error).__name__}: {error}") from error


def state_digest(core: bytes, chain: bytes, decisions: int) -> str:
    """Hash `capture`'s result, the head of the decisions' chain, and their number."""
    return blake2b(core + chain + decisions.to_bytes(8, "big"), digest_size=16).hexdigest()


def fingerprint(config: Config, strategy: Strategy) -> str:
    """Return the identity of the program that a state belongs to.

    It covers the version, the sources of core and strategy, and `Config.deterministic_subset`.
    """
    seen = blake2b(digest_size=16)
    seen.update(f"{_FORMAT} {agent.__version__} ".encode())
    seen.update(msgspec.json.encode(config.deterministic_subset(), order="deterministic"))
    seen.update(_sources())
    package = type(strategy).__module__.partition(".")[0]
    if package not in ("agent", "strategies"):
        loaded = [module for name, module in sys.modules.items() if f"{name}.".startswith(f"{package}.")]
        files = {getattr(module, "__file__", None) for module in loaded}
        for file in sorted(filter(None, files)):
            seen.update(_source(Path(file)))
    return seen.hexdigest()


@lru_cache(maxsize=1)
def _sources() -> bytes:
    root = Path(agent.__file__).parent
    files = [*(root / "core").glob("*.py"), *Path(strategies.__file__).parent.glob("*.py")]
    files += [root / part for part in _SHELL]
    return b"".join(_source(file) for file in sorted(files))


def _source(file: Path) -> bytes:
    try:
        return blake2b(file.name.encode() + b"\0" + file.read_bytes(), digest_size=16).digest()
    except OSError:
        return b""
