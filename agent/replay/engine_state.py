"""The core's state as data: everything that affects its next decisions.

`capture` saves it, `restore` loads it into a fresh engine, which then decides like one that has handled all
events up to that point. `fingerprint` identifies the program for which this holds.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
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
from agent.core.errors import TapewireError
from agent.core.events import Order, OrderType, Side
from agent.core.flatten import Pursuit
from agent.core.fusion_inputs import FusionInputs
from agent.core.orders import WorkingOrder
from agent.core.rolling_mean import MeanCross, RollingMean
from agent.core.sleeves import SleevedEngine, engines_of
from agent.core.strategy import Strategy
from agent.core.trading_engine import TradingEngine
from agent.core.venue import SentOrder
from agent.replay.object_codec import Spec, StateError, Unencodable, decode_into, encode
from strategies import imported_source

VERSION_PART: Final = "strategy"
"""Name of a snapshot's part that says which strategy decides."""

_FORMAT: Final = 1
_SHELL: Final = ("live/resume.py", "data/text.py")  # parts of the shell whose state is in a snapshot

_MODULES: Final = ("agent.core.", "strategies.")

_ENGINE_WIRING: Final = (
    *("strategy", "_sink", "_matching", "_venue", "_run_id", "_equity_block"),
    *("_call_on_kline", "_callbacks", "_fields_of", "_kline", "_handlers"),
    *("_loader", "_contain_errors", "_settings", "_forward", "_reads_features", "_lets_pass"),
)
_ROSTER_WIRING: Final = (
    *("_config", "_load", "_sink", "_receive", "_portfolio", "_risk", "_states"),
    *("_run_id", "_predictor", "_block", "_loader"),
)
WIRING: Final[dict[str, tuple[str, ...]]] = {
    "agent.core.engine:Engine": _ENGINE_WIRING,
    "agent.core.exchange:Exchange": ("_instruments", "_emit", "_new_id"),
    "agent.core.paper:PaperExchange": ("margin", "_rules"),
    "agent.core.flatten:Flattener": ("_emit", "_new_id"),
    "agent.core.target_orders:TargetOrders": ("_emit", "_new_id", "_band"),
    "agent.core.features:FeatureTracker": ("_make", "_kind", "_due"),
    "agent.core.market:InstrumentState": ("instrument", "view"),
    "agent.core.market:MarketView": ("serves_features",),
    "agent.core.fusion_inputs:FusionInputs": ("predictor", "_reading"),
    "agent.core.risk:RiskManager": ("_config", "_emit", "account"),
    "agent.core.sleeves:SleevedEngine": ("sleeves", "flattener", "configured", "_config", "_sink", "_block"),
    "agent.core.sleeve_roster:SleeveRoster": _ROSTER_WIRING,
    "agent.core.sleeve_venue:SleeveExchange": ("_rules",),
    "agent.core.sleeve_reports:VenueReports": (
        *("_venue", "_sleeves", "_states", "_risk", "_portfolio", "_emit"),
    ),
    "agent.core.sleeve:Sleeve": ("settings", "source"),
    "agent.core.account_parts:SharedSymbol": ("books",),
    "agent.core.strategy_guard:StrategyGuard": ("_inner", "params", "targets", "ta", "_plotter"),
    "agent.core.signals:SignalEngine": ("_mapper",),
    "agent.core.deduplication:HeadlineDeduplicator": ("_by_word",),
    "agent.core.strategy:Strategy": ("params", "ta", "_plotter", "_on_notice"),
    "agent.core.plots:PlotRecorder": ("_emit",),
    "agent.core.bar_history:BarSeries": ("_views", "_writers"),
    "agent.core.rolling_mean:RollingMean": ("_before", "_sum_before", "_error_before"),
    "agent.core.rolling_mean:MeanCross": ("_fast_ahead", "_slow_ahead", "_seen", "_ahead"),
}
"""Attributes that aren't state: configuration, callables, and values that `_REBUILD` derives."""

_FIRST: Final[dict[str, tuple[str, ...]]] = {
    "agent.core.engine:Engine": ("portfolio", "exchange", "_targets"),
    "agent.core.sleeves:SleevedEngine": ("portfolio", "roster"),
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


def _route_bars(engine: Engine) -> None:
    """Choose what a closed bar calls."""
    engine.route_bars()


_REBUILD: Final[dict[str, Callable[[Any], None]]] = {
    "agent.core.engine:Engine": _route_bars,
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


def spec_of(strategies_of_run: Iterable[Strategy]) -> Spec:
    """Return which objects and attributes are the state of an engine with these strategies."""
    packages = {type(one).__module__.partition(".")[0] for one in strategies_of_run}
    modules = (*_MODULES, *(f"{package}." for package in sorted(packages)))
    return Spec(modules, wiring=WIRING, first=_FIRST, rebuild=_REBUILD, blank=_BLANK)


def _saves_itself(strategy: Strategy) -> bool:
    """Return whether the strategy has a `snapshot` method of its own."""
    return type(strategy).snapshot is not Strategy.snapshot


def _saved(strategy: Strategy) -> Any:
    """Return what is saved of a strategy: itself, or what its own `snapshot` returns."""
    if not _saves_itself(strategy):
        return strategy
    try:
        return strategy.snapshot()
    except Exception as error:
        cause = f"not saved: snapshot() raised {type(error).__name__}: {error}"
        raise Unencodable(cause, "strategy") from error


def capture(engine: TradingEngine) -> bytes:
    """Return the state of `engine` and its strategies between two events.

    Raises Unencodable that names the attribute which can't be saved.
    """
    running = [one.strategy for one in engines_of(engine).values()]
    if isinstance(engine, SleevedEngine):
        owns = [_saves_itself(one) for one in running]
        state = encode([engine, owns, *(_saved(one) for one in running)], spec_of(running))
        return msgspec.msgpack.encode((engine.roster.definitions(), state))
    (strategy,) = running
    return encode([engine, _saves_itself(strategy), _saved(strategy)], spec_of(running))


def with_sleeve_settings(state: bytes, settings: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Return the state of an engine with sleeves, of which those in `settings` have other settings."""
    definitions, rest = msgspec.msgpack.decode(state, type=tuple[list[dict[str, Any]], bytes])
    for item in definitions:
        item["settings"] |= settings.get(item["settings"]["name"], {})
    return msgspec.msgpack.encode((definitions, rest))


def version_part(engine: TradingEngine) -> bytes:
    """Return which strategies decide, as `restore` needs it: the state itself contains no code."""
    if isinstance(engine, SleevedEngine):
        versions = {name: one.version for name, one in engines_of(engine).items() if one.version}
        return msgspec.msgpack.encode(versions)
    return msgspec.msgpack.encode(engine.version)


def restore(engine: TradingEngine, data: bytes, version: bytes = b"") -> None:
    """Load the state in `data` into a fresh `engine`. After a StateError the engine must be discarded.

    `version` is the `version_part` of the engine that was captured; empty for the run's first strategies.
    Raises StoreError and SafetyError if a strategy can't be loaded.
    """
    if isinstance(engine, Engine):
        _adopt_version(engine, msgspec.msgpack.decode(version, type=dict[str, str]) if version else {})
    if isinstance(engine, SleevedEngine):
        try:
            definitions, data = msgspec.msgpack.decode(data, type=tuple[list[dict[str, Any]], bytes])
            engine.roster.adopt(definitions)
        except (msgspec.MsgspecError, TapewireError, LookupError, ValueError) as error:
            raise StateError(f"its sleeves can't be made again: {error}") from error
        if version:
            for name, changed in msgspec.msgpack.decode(version, type=dict[str, dict[str, str]]).items():
                _adopt_version(engine.sleeves[name].engine, changed)
    running = [one.strategy for one in engines_of(engine).values()]
    roots = [None if _saves_itself(one) else one for one in running]
    parts = decode_into(data, [engine, None, *roots], spec_of(running))
    for strategy, part in zip(running, parts[2:], strict=True):
        if _saves_itself(strategy):
            try:
                strategy.restore(part)
            except Exception as error:
                raise StateError(
                    f"restore() of the strategy raised {type(error).__name__}: {error}"
                ) from error


def _adopt_version(engine: Engine, version: dict[str, str]) -> None:
    """Let `engine` use the strategy of an earlier `use-strategy`, unless `version` is empty."""
    if not version:
        return
    try:
        engine.adopt(version)
    except TapewireError:
        raise
    except Exception as error:
        raise StateError(f"on_start() of the strategy raised {type(error).__name__}: {error}") from error


def state_digest(core: bytes, chain: bytes, decisions: int) -> str:
    """Hash `capture`'s result, the head of the decisions' chain, and their number."""
    return blake2b(core + chain + decisions.to_bytes(8, "big"), digest_size=16).hexdigest()


def fingerprint(config: Config, *strategies_of_run: Strategy) -> str:
    """Return the identity of the program that a state belongs to.

    It covers the version, the sources of core and strategies, and `Config.deterministic_subset`.
    """
    seen = blake2b(digest_size=16)
    seen.update(f"{_FORMAT} {agent.__version__} ".encode())
    seen.update(msgspec.json.encode(config.deterministic_subset(), order="deterministic"))
    seen.update(_sources())
    for package in sorted({type(one).__module__.partition(".")[0] for one in strategies_of_run}):
        if package in ("agent", "strategies"):
            continue
        loaded = [module for name, module in sys.modules.items() if f"{name}.".startswith(f"{package}.")]
        files = {file: imported_source(one) for one in loaded if (file := getattr(one, "__file__", None))}
        for file in sorted(files):
            seen.update(_source(Path(file), files[file]))
    return seen.hexdigest()


@lru_cache(maxsize=1)
def _sources() -> bytes:
    root = Path(agent.__file__).parent
    files = [*(root / "core").glob("*.py"), *Path(strategies.__file__).parent.glob("*.py")]
    files += [root / part for part in _SHELL]
    return b"".join(_source(file) for file in sorted(files))


def _source(file: Path, text: bytes | None = None) -> bytes:
    """Hash the name and the text of a file; the text that it has now unless `text` is given."""
    try:
        text = file.read_bytes() if text is None else text
        return blake2b(file.name.encode() + b"\0" + text, digest_size=16).digest()
    except OSError:
        return b""
