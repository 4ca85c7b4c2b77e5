"""What a recorded run was folded from, to fold it again with other engines."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple

from agent.config import Config
from agent.core.engine import EQUITY_BLOCK, Engine
from agent.core.errors import UsageError
from agent.core.events import (
    AccountSnapshot,
    CashAdjustment,
    Event,
    Fill,
    FundingSettlement,
    News,
    OrderUpdate,
)
from agent.core.exchange import ExchangeFactory
from agent.core.fusion_inputs import Predictor
from agent.core.paper import PaperExchange
from agent.core.sinks import SleevedSink
from agent.core.strategy import Strategy
from agent.core.trading_engine import TradingEngine
from agent.core.venue import OPENING
from agent.replay.fusion_model import reopen_predictor
from agent.replay.open_engine import open_engine
from agent.replay.strategy_versions import StrategyVersions
from agent.replay.verify import inputs
from agent.store.database import Database
from agent.store.queries import read_rows
from agent.store.runs import Run, RunKind
from strategies import blaming, create_strategy, load_strategy

_VENUE_REPORTS: Final = (OrderUpdate, Fill, FundingSettlement, AccountSnapshot)


class RecordedInputs(NamedTuple):
    """What a run was folded from; `on_paper` is False for a run at a venue."""

    run: Run
    config: Config
    events: list[Event]
    exchange: ExchangeFactory
    predictor: Predictor | None
    versions: StrategyVersions
    on_paper: bool

    @property
    def measured_after(self) -> int:
        """Time (UTC ms) up to which a backtest only reads history; its metrics begin there. 0 without any."""
        window = self.run.config.get("window", {})
        return (window.get("start") or 0) if window.get("warmup") or window.get("warm_up") else 0

    def strategy(self, name: str = "", params: Mapping[str, Any] | None = None) -> Strategy:
        """Create the strategy with which the run began, or another one or with other parameters.

        Raises ConfigError for a name or a parameter that is not valid.
        """
        if name and name != self.run.strategy:
            return load_strategy(name, params)
        if params is None or params == self.run.params:
            return self.versions.first()
        return create_strategy(type(self.versions.first()), params, self.run.strategy)

    def open_engine(
        self,
        sink: SleevedSink,
        strategy: Strategy | None = None,
        config: Config | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> TradingEngine:
        """Return a fresh engine with the run's strategies and configuration, or with others.

        `params` are those of the sleeves' strategies by sleeve; `strategy` is for a run without sleeves.
        """
        live = self.run.kind is RunKind.LIVE  # an error of the strategy then stops the strategy
        config = config or self.config
        if config.sleeves:
            execution = config.execution.model_copy(update={"mode": "paper"})
            return open_engine(
                config.model_copy(update={"execution": execution}),
                sink,
                run_id=self.run.id,
                versions=self.versions,
                params=self.run.params if params is None else params,
                predictor=self.predictor,
                live=live,
            )
        strategy = strategy or self.versions.first()
        with blaming(strategy):
            return Engine(
                config,
                strategy,
                sink,
                run_id=self.run.id,
                exchange=self.exchange,
                predictor=self.predictor,
                equity_block=1 if live else EQUITY_BLOCK,
                contain_errors=live,
                loader=self.versions,
            )

    def headline(self, prefix: str) -> str:
        """Return the id of the headline that begins with `prefix`. Raises UsageError unless one does."""
        found = {event.id for event in self.events if isinstance(event, News) and event.id.startswith(prefix)}
        if len(found) == 1 or prefix in found:
            return prefix if prefix in found else found.pop()
        number = f"{len(found)} headlines" if found else "no headline"
        raise UsageError(
            f"run {self.run.id} has {number} with an id that begins with {prefix!r}",
            hint="tapewire stories shows the ids",
        )

    def event_at(self, at: int) -> int:
        """Return the number of the first event at `at` (UTC ms) or later. Raises UsageError without one."""
        number = next((n for n, event in enumerate(self.events, 1) if event.available_at >= at), None)
        if number is None:
            raise UsageError("the run ends before the time from which the change should hold")
        return number


def load_inputs(
    database: Database, run: Run, folder: Path | None = None, *, trust_strategy: bool = False
) -> RecordedInputs:
    """Read all inputs of a run; `folder` is `live.folder`. Raises as `verify`.

    Reports of a venue are left out, since other orders would have had other fills; the capital is the balance
    that the venue stated when the run began. The database stays in use.
    """
    versions = StrategyVersions(database, run, folder, trust=trust_strategy)
    config, events = inputs(database, run)
    if not config.sleeves:
        versions.first()  # which may be refused
    on_paper = config.execution.mode == "paper"
    if not on_paper:
        stated = [one for one in read_rows(database, run.id, CashAdjustment) if one.reason == OPENING]
        capital = config.account.initial_capital + sum((one.amount for one in stated), Decimal(0))
        account = config.account.model_copy(update={"initial_capital": capital})
        config = config.model_copy(update={"account": account})
    return RecordedInputs(
        run,
        config,
        [event for event in events if on_paper or not isinstance(event, _VENUE_REPORTS)],
        config.execution.exchange() if on_paper else PaperExchange,
        reopen_predictor(config, run),
        versions,
        on_paper,
    )
