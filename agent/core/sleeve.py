"""One of several strategies in one account: its engine, its share of the capital, and what it passes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Final, NamedTuple, TypeVar

from msgspec.structs import replace

from agent.core.engine import Engine
from agent.core.events import Command, Decision, News, Sentiment
from agent.core.portfolio import Portfolio
from agent.core.settings import CoreConfig, RiskConfig, SleeveConfig
from agent.core.sinks import SleevedSink
from agent.core.strategy_version import bars_needed

_Config = TypeVar("_Config", bound=CoreConfig)
_ZERO: Final = Decimal(0)


class SleeveTotals(NamedTuple):
    """The result of one sleeve by cause, in account currency. `equity` is cash plus positions at the marks.

    equity = capital + realised + unrealised - fees + funding, but for the last of 28 digits.
    """

    capital: Decimal
    equity: Decimal
    realised: Decimal
    unrealised: Decimal
    fees: Decimal
    funding: Decimal
    slippage: Decimal

    @property
    def profit(self) -> Decimal:
        """Change of equity since the sleeve began."""
        return self.equity - self.capital


def totals_of(portfolio: Portfolio) -> SleeveTotals:
    """Return the totals of a ledger."""
    return SleeveTotals(
        portfolio.initial,
        portfolio.exact_equity(),
        portfolio.realised,
        sum((position.unrealised for position in portfolio.open), _ZERO),
        portfolio.fees,
        portfolio.funding,
        portfolio.slippage,
    )


class Sleeve:
    """A strategy with its own engine, risk limits, exchange and virtual portfolio."""

    def __init__(self, settings: SleeveConfig, engine: Engine, source: dict[str, str] | None = None) -> None:
        self.settings = settings
        self.source = source  # of the strategy, if the sleeve was added while running
        self.name = settings.name
        self.engine = engine
        self.leaving = False  # it has been removed, and its positions are being closed
        # bars by interval that its first strategy needs, if the command that added it states them
        self.needs: dict[str, str] = {}

    def addressed(self, command: Command) -> Command:
        """Return a command to all sleeves as this one receives it: `warm-up-done` with its own needs."""
        if command.action != "warm-up-done":
            return command
        needs = bars_needed(self.engine.version) if self.engine.version else self.needs
        return replace(command, args=needs) if needs else command

    @property
    def totals(self) -> SleeveTotals:
        """Its result so far."""
        return totals_of(self.engine.portfolio)


class SleeveOutput:
    """The sink of a sleeve's engine: names the sleeve in its decisions and samples.

    `emit` receives the sleeve's name and each decision. Headlines and sentiments are the account's to record.
    """

    def __init__(self, sleeve: str, emit: Callable[[str, Decision], None], sink: SleevedSink) -> None:
        self._sleeve = sleeve
        self._emit = emit
        self._sink = sink

    def decision(self, decision: Decision) -> None:
        self._emit(self._sleeve, decision)

    def equity(
        self, ts: Sequence[int], equity: Sequence[float], cash: Sequence[float], exposure: Sequence[float]
    ) -> None:
        self._sink.sleeve_equity(self._sleeve, ts, equity, cash, exposure)

    def news(self, news: News, symbols: tuple[str, ...], story: str) -> None:
        pass

    def sentiment(self, sentiment: Sentiment) -> None:
        pass


def named(decision: Decision, sleeve: str) -> Decision:
    """Return the decision with the name of its sleeve."""
    return replace(decision, sleeve=sleeve)


def sleeve_config(config: _Config, settings: SleeveConfig, capital: Decimal) -> _Config:
    """Return the configuration of a sleeve's engine: its symbols, capital, strategy and limits."""
    risk = config.risk.model_dump() | settings.risk
    symbols = settings.symbols or config.market.symbols
    return config.model_copy(
        update={
            "market": config.market.model_copy(update={"symbols": symbols}),
            "account": config.account.model_copy(update={"initial_capital": capital}),
            "strategy": settings.strategy,
            "risk": RiskConfig.model_validate(risk),
            "sleeves": (),
        }
    )
