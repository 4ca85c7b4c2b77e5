"""Which run the agent lives in: the last one that it left unfinished, or a new one."""

from __future__ import annotations

import platform
import secrets
import time
from typing import Final

import numpy as np
import structlog

from agent import __version__
from agent.backtest import new_run_id
from agent.config import Config, parse
from agent.engine import CORE, CORE_REVISION
from agent.errors import ConfigError
from agent.feeds.addresses import is_loopback
from agent.fusion import VERSION
from agent.instruments import with_first_rules
from agent.outlook import Predictor
from agent.store.database import Database
from agent.store.journal import find_archive
from agent.store.queries import list_runs
from agent.store.runs import Run, RunKind, RunStatus
from strategies import load_strategy, source_of

_log: Final = structlog.get_logger(__name__)


def new_incarnation() -> str:
    """What tells a life of a run from all others, also from those that a restored store has forgotten."""
    return secrets.token_hex(16)


def open_run(config: Config, database: Database, *, new: bool = False, predictor: Predictor | None = None) -> tuple[Run, bool]:
    """The run to record, and whether it is to be resumed.

    The last live run that is neither complete nor archived goes on where its configuration decides the same on the same venue
    with the same fusion model; `new` begins another.
    """
    fusion = {} if predictor is None else {VERSION: predictor.fingerprint}
    unfinished = (run for run in list_runs(database) if run.kind is RunKind.LIVE and run.status is not RunStatus.COMPLETE)
    last = None if new else next((run for run in unfinished if find_archive(database, run.id) is None), None)
    if last is not None:
        changed = _changes(config, last)
        changed += ["the fusion model"] if last.versions.get(VERSION) != fusion.get(VERSION) else []
        if not changed:
            return last, True
        _log.warning("a new run begins", unfinished=last.id, changed=", ".join(changed))
    strategy = load_strategy(config.strategy.name, config.strategy.params)
    run = Run(
        id=new_run_id(),
        kind=RunKind.LIVE,
        started_at=time.time_ns() // 1_000_000,
        strategy=config.strategy.name,
        params=strategy.params.model_dump(mode="json"),
        config=config.recorded(),
        version=__version__,
        versions={
            CORE: CORE_REVISION,
            "python": platform.python_version(),
            "numpy": np.__version__,
            **fusion,
            **source_of(config.strategy.name),
        },
        stamps=("FILLS AT THE SIGNAL BAR'S OWN CLOSE",) if config.paper.fill == "close" else (),
    )
    return run, False


def _changes(config: Config, run: Run) -> list[str]:
    """The sections that would decide otherwise than those that the run began with."""
    try:
        before = parse(run.config, where=f"run {run.id}")
    except ConfigError as error:
        return [error.message]
    if CORE not in run.versions:
        before = with_first_rules(before)
    old, new = before.decisive(), config.decisive()
    changed = [name for name in new if old[name] != new[name]]
    if _venue(before.bybit.endpoint) != _venue(config.bybit.endpoint):
        changed.append("bybit.endpoint")
    if config.execution.mode == "testnet" and _venue(before.execution.testnet.venue) != _venue(config.execution.testnet.venue):
        changed.append("execution.testnet.venue")
    return changed


def _venue(address: str) -> str:
    """A sandbox is the same one on any port."""
    return "sandbox" if is_loopback(address) else address
