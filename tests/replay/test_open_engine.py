"""The engine of a run: strategies that a journal adds are imported only if they are the recorded ones."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import SafetyError
from agent.core.events import MINUTE_MS, Command, RiskEvent
from agent.core.sinks import ListSink, NullSink
from agent.core.sleeves import SleevedEngine
from agent.core.trading_engine import TradingEngine
from agent.replay.open_engine import open_engine, reopen_engine, sources_of
from agent.replay.strategy_versions import StrategyVersions
from agent.store.database import open_database
from agent.store.runs import Run, RunKind
from agent.store.strategy_sources import save_source, trust_source
from strategies import SOURCE_SHA256, source_of
from tests.support.market import T0
from tests.support.sleeves import sleeve, sleeved_config

MINE = """
from tapewire import Strategy

class Mine(Strategy):
    pass
"""


def add(engine: SleevedEngine, path: Path, **source: str) -> None:
    definition = f'{{"name": "late", "strategy": "{path}", "share": "0.2"}}'
    now = T0 + MINUTE_MS
    engine.handle(
        Command("add-sleeve", now, now, {"sleeve": "late", "definition": definition, **source}, "t")
    )


def opened(**more: Any) -> tuple[SleevedEngine, ListSink]:
    sink = ListSink()
    engine = open_engine(
        sleeved_config(sleeve("x", 0.5) | {"strategy": "buy_and_hold"}), sink, run_id="r", **more
    )
    assert isinstance(engine, SleevedEngine)
    return engine, sink


@pytest.mark.parametrize("change", ["the file", "the record"])
def test_an_added_strategy_that_has_changed_is_not_imported(tmp_path: Path, change: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    source = source_of(str(path))
    engine, _ = opened()
    add(engine, path, **source)
    assert "late" in engine.sleeves
    if change == "the file":
        path.write_text(MINE + f"open({str(tmp_path / 'imported')!r}, 'w').close()\n")
    else:
        source = source | {SOURCE_SHA256: ""}
    engine, sink = opened()
    add(engine, path, **source)
    assert list(engine.sleeves) == ["x"]
    (note,) = [one for one in sink.decisions if isinstance(one, RiskEvent)]
    assert note.detail.startswith(f"late was not added: strategy '{path}' of this run is not imported")
    assert not (tmp_path / "imported").exists()
    engine, _ = opened(trusted=True)
    add(engine, path, **source)
    assert "late" in engine.sleeves


def test_the_sources_of_all_sleeves_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    config = sleeved_config(
        sleeve("x", 0.5) | {"strategy": "sma_cross"}, sleeve("y", 0.5) | {"strategy": str(path)}
    )
    run = Run(
        *("r", RunKind.BACKTEST, 0, "x: sma_cross, y: mine"),
        config=config.persisted(),
        versions=sources_of(config),
    )
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as database:

        def reopen(folder: Path, **more: bool) -> TradingEngine:
            versions = StrategyVersions(database, run, folder, **more)
            return reopen_engine(config, NullSink(), run, versions)

        reopen(tmp_path)
        path.write_text(MINE + "\n")
        with pytest.raises(SafetyError, match="has changed since the run"):
            reopen(tmp_path)
        reopen(tmp_path, trust=True)
        save_source(database, MINE.encode())
        with pytest.raises(SafetyError, match="has changed since the run"):
            reopen(tmp_path)  # this machine has not run the stored source
        trust_source(tmp_path, MINE.encode())
        reopen(tmp_path)
