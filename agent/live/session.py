"""Selects the run that the agent records: the last unfinished one, or a new one."""

from __future__ import annotations

import platform
import secrets
import time
from typing import Final

import numpy as np
import structlog

from agent import __version__
from agent.config import Config, parse
from agent.core.engine import CORE, CORE_REVISION
from agent.core.errors import ConfigError
from agent.core.fusion_inputs import Predictor
from agent.core.instruments import with_first_rules, with_rules_of
from agent.replay.backtest import new_run_id
from agent.replay.open_engine import name_of, params_of, sources_of
from agent.replay.strategy_versions import StrategyVersions
from agent.store.database import Database
from agent.store.journal import find_archive
from agent.store.queries import list_runs
from agent.store.runs import FUSION_VERSION, Run, RunKind, RunStatus
from agent.system.addresses import is_loopback

_log: Final = structlog.get_logger(__name__)


def new_incarnation() -> str:
    """Return a random id of this life; it is unique even if a restored store has lost earlier lives."""
    return secrets.token_hex(16)


def find_resumable(
    config: Config, database: Database, *, predictor: Predictor | None = None
) -> tuple[Run, Config] | None:
    """Return the live run to resume, and the configuration with the run's trading rules; None if there isn't
    one.

    It is the last run that is neither complete nor archived, if its configuration, venue and fusion model
    lead to the same decisions as the current ones. The venue's rules are not fetched again: other rules would
    change decisions in the middle of a run.
    """
    last = _last_unfinished(database)
    if last is None:
        return None
    changed, config = _compare(last, config)
    if last.versions.get(FUSION_VERSION) != _fusion(predictor).get(FUSION_VERSION):
        changed.append("the fusion model")
    if changed:
        _log.warning("a new run begins", unfinished=last.id, changed=", ".join(changed))
        return None
    return last, config


def load_first_strategy(config: Config, database: Database) -> bool:
    """If a strategy's file has changed since the run to resume began, or is gone, load the run's source.

    Until this process ends, that source stands for the file. Returns whether one was loaded.
    """
    names = [one.name.partition(":")[0] for one in config.strategies().values()]
    if not any(name.endswith(".py") for name in names):
        return False
    last = _last_unfinished(database)
    if last is None or _compare(last, config)[0]:
        return False
    versions = StrategyVersions(database, last, config.live.folder, own=True)
    changed = versions.load_changed()
    for name in changed:
        _log.warning(
            "the strategy's file has changed: the run goes on with the source that it began with",
            strategy=name,
            to_change="tapewire strategy use",
        )
    return bool(changed)


def _last_unfinished(database: Database) -> Run | None:
    """Return the last live run that is neither complete nor archived."""
    live = (run for run in list_runs(database) if run.kind is RunKind.LIVE)
    unfinished = (run for run in live if run.status is not RunStatus.COMPLETE)
    return next((run for run in unfinished if find_archive(database, run.id) is None), None)


def _compare(last: Run, config: Config) -> tuple[list[str], Config]:
    """Return what has changed since `last`, and the configuration with the trading rules of that run."""
    try:
        before = parse(last.config, where=f"run {last.id}")
    except ConfigError as error:
        return [error.message], config
    before = before if CORE in last.versions else with_first_rules(before)
    config = with_rules_of(before, config)
    return _changes(before, config), config


def open_run(
    config: Config, database: Database, *, new: bool = False, predictor: Predictor | None = None
) -> tuple[Run, bool]:
    """Return the run to record and whether it is resumed: the `find_resumable` one, unless `new` begins
    another.
    """
    if not new and (found := find_resumable(config, database, predictor=predictor)):
        return found[0], True
    run = Run(
        id=new_run_id(),
        kind=RunKind.LIVE,
        started_at=time.time_ns() // 1_000_000,
        strategy=name_of(config),
        params=params_of(config),
        config=config.persisted(),
        version=__version__,
        versions={
            CORE: CORE_REVISION,
            "python": platform.python_version(),
            "numpy": np.__version__,
            **_fusion(predictor),
            **sources_of(config),
        },
        stamps=("FILLS AT THE SIGNAL BAR'S OWN CLOSE",) if config.paper.fill == "close" else (),
    )
    return run, False


def _fusion(predictor: Predictor | None) -> dict[str, str]:
    return {} if predictor is None else {FUSION_VERSION: predictor.fingerprint}


def _changes(before: Config, config: Config) -> list[str]:
    """Name the sections whose change affects decisions."""
    old, new = before.deterministic_subset(), config.deterministic_subset()
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if _venue(before.bybit.endpoint) != _venue(config.bybit.endpoint):
        changed.append("bybit.endpoint")
    earlier, current = before.execution.testnet.venue, config.execution.testnet.venue
    if config.execution.mode == "testnet" and _venue(earlier) != _venue(current):
        changed.append("execution.testnet.venue")
    return changed


def _venue(address: str) -> str:
    """Return an address that identifies the venue; a sandbox is the same one on any port."""
    return "sandbox" if is_loopback(address) else address
