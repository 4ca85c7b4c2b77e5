"""The sleeves of an account: they are added and removed, and what no sleeve has is unassigned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from hashlib import blake2b
from typing import Any, Final

from agent.core.account_parts import SharedLimits, SharedSymbol
from agent.core.collected_bars import CollectedBars
from agent.core.engine import Engine
from agent.core.errors import ConfigError, StrategyError, TapewireError
from agent.core.events import Command, Decision, PastBars, Prediction
from agent.core.exchange import ExchangeFactory, run_prefix
from agent.core.fusion_inputs import Predictor
from agent.core.paper import PaperExchange
from agent.core.portfolio import Portfolio
from agent.core.risk import SHORT_HISTORY, SLEEVE, RiskManager
from agent.core.settings import CoreConfig, SleeveConfig
from agent.core.sinks import SleevedSink
from agent.core.sleeve import Sleeve, SleeveOutput, SleeveTotals, sleeve_config
from agent.core.sleeve_venue import UNASSIGNED, AccountExchange, SleeveExchange
from agent.core.strategy import Strategy
from agent.core.strategy_guard import describe_error
from agent.core.strategy_version import StrategyLoader, bars_needed

LoadStrategy = Callable[[str, Mapping[str, Any], Mapping[str, str] | None], Strategy]
"""Creates a strategy by name and parameters; raises TapewireError. The third argument is the recorded source
of a strategy that was added while running; None for one of the configuration."""

SOURCE: Final = ("strategy_file", "strategy_sha256")
"""Arguments of add-sleeve that identify the strategy's source; a built-in strategy has none."""


def id_prefix(run_id: str, sleeve: str) -> str:
    """Return the prefix of a sleeve's client order ids at a venue, 17 characters: the run's and a hash."""
    return run_prefix(run_id) + blake2b(sleeve.encode(), digest_size=3).hexdigest()


class SleeveRoster:
    """The present sleeves by name, the results of those that left, and what is unassigned: the idle cash and,
    at a venue, what no sleeve has traded.

    `emit` receives the name of a sleeve and each of its decisions; `sink` its samples. `loader` creates the
    strategies of commands `use-strategy`. `venue` is the account at a venue; None on paper.
    """

    def __init__(
        self,
        config: CoreConfig,
        load: LoadStrategy,
        sink: SleevedSink,
        emit: Callable[[str, Decision], None],
        portfolio: Portfolio,
        risk: RiskManager,
        states: Mapping[str, SharedSymbol],
        *,
        run_id: str,
        predictor: Predictor | None,
        equity_block: int,
        loader: StrategyLoader,
        unassigned: Portfolio,
        venue: AccountExchange | None,
    ) -> None:
        self.sleeves: dict[str, Sleeve] = {}
        self.departed: dict[str, SleeveTotals] = {}
        self.unassigned = unassigned
        self.venue = venue
        self.leaving: set[str] = set()  # names of removed sleeves whose positions are being closed
        self.life: Command | None = None  # began the current life of a live run
        self.collected = CollectedBars()
        """History for the sleeve that is about to be added."""
        self._reading = False  # history is being read by a new sleeve
        self._config = config
        self._load = load
        self._sink = sink
        self._receive = emit
        self._loader = loader
        self._portfolio = portfolio
        self._risk = risk
        self._states = states
        self._run_id = run_id
        self._predictor = predictor
        self._block = equity_block

    @property
    def idle(self) -> Decimal:
        """Cash that no sleeve has."""
        return self.unassigned.cash

    @property
    def capital(self) -> Decimal:
        """What the shares are fractions of."""
        return self._config.account.initial_capital if self.venue is None else self.venue.capital

    def definitions(self) -> list[dict[str, Any]]:
        """Return the definitions and the capital of the present sleeves, as plain data."""
        return [
            {
                "settings": sleeve.settings.model_dump(mode="json"),
                "capital": str(sleeve.engine.portfolio.initial),
                "source": sleeve.source,
            }
            for sleeve in self.sleeves.values()
        ]

    def adopt(self, definitions: list[dict[str, Any]]) -> None:
        """Replace the sleeves of a fresh engine by those of `definitions`, whose state is restored next."""
        if self.venue is not None:
            for name in self.sleeves:
                self.venue.leave(name)
        self.sleeves.clear()
        for state in self._states.values():
            state.books.clear()
        for item in definitions:
            settings = SleeveConfig.model_validate(item["settings"])
            self.add(settings, Decimal(item["capital"]), item["source"])

    def add(self, settings: SleeveConfig, capital: Decimal, source: dict[str, str] | None = None) -> None:
        """Create a sleeve with `capital` of the idle cash. Raises ConfigError or StrategyError."""
        name = settings.name
        for symbol in settings.symbols:
            if symbol not in self._states:
                raise ConfigError(
                    f"sleeve {name}: {symbol} is not traded",
                    hint=f"market.symbols are {', '.join(self._states)}",
                )
        strategy = self._load(settings.strategy.name, settings.strategy.params, source)
        output = SleeveOutput(name, self._emit, self._sink)
        try:
            engine = Engine(
                sleeve_config(self._config, settings, capital),
                strategy,
                output,
                run_id=f"{self._run_id}/{name}",
                exchange=self._exchange(),
                predictor=self._predictor,
                equity_block=self._block,
                contain_errors=True,
                loader=self._loader,
            )
        except TapewireError:
            raise
        except Exception as error:
            raise StrategyError(f"sleeve {name}: {describe_error(strategy, error)}") from error
        exchange = engine.exchange
        for sleeve in self.sleeves.values():
            other = sleeve.engine.exchange
            if isinstance(exchange, PaperExchange) and isinstance(other, PaperExchange):
                exchange.share_volume(other)
        if self.venue is not None and isinstance(exchange, SleeveExchange):
            exchange.run_prefix = id_prefix(self._run_id, name)
            self.venue.join(name, exchange, engine.portfolio, settings.share)
        engine.risk.account = SharedLimits(self._portfolio, self._risk, self._states)
        self.sleeves[name] = Sleeve(settings, engine, source)
        for symbol, state in engine.states.items():
            self._states[symbol].books[name] = state.book
        self.unassigned.transfer(-capital)

    def _exchange(self) -> ExchangeFactory:
        """Return the exchange of a new sleeve."""
        venue = self.venue
        if venue is None:
            return PaperExchange
        return partial(SleeveExchange, order_ids=venue.order_ids, fill_ids=venue.fill_ids)

    def on_add(self, command: Command, now: int) -> None:
        """Add a sleeve while running, as the command defines it, if it is valid."""
        args = command.args
        name = args.get("sleeve", "")
        history = self.collected.klines(now)
        self.collected.end()
        try:
            settings = SleeveConfig.model_validate_json(args.get("definition", ""))
            capital = self.capital * settings.share
            if name != settings.name or name in self.sleeves or name in self.departed:
                raise ConfigError(f"the name {name} is in use, or was before in this run")
            if capital > self.idle:
                raise ConfigError(f"its share is {capital}, and {self.idle} are idle")
            self.add(settings, capital, {key: args[key] for key in SOURCE if key in args})
        except (TapewireError, ValueError) as error:
            what = error.message if isinstance(error, TapewireError) else type(error).__name__
            self._risk.note(now, SLEEVE, f"{name} was not added: {what}")
            return
        sleeve, needs = self.sleeves[name], bars_needed(args)
        engine, sleeve.needs = sleeve.engine, needs
        if self.life is not None:
            engine.handle(self.life)
        engine.market.now = now
        engine.risk.set_warming_up(True)
        self._reading = True
        for kline in history:
            if kline.symbol in engine.states:
                engine.handle(kline)
        self._reading = False
        engine.risk.set_warming_up(self._risk.warming_up)
        engine.risk.set_reconciled(self._risk.reconciled)
        if self._risk.halted:
            engine.handle(Command("halt", now, now, {}, "account"))
        self._risk.note(now, SLEEVE, f"{name} was added by {command.by} with {capital:.2f}")
        for symbol, detail in engine.short_histories(needs):
            engine.risk.note(now, SHORT_HISTORY, detail, symbol)

    def collects(self, past: PastBars) -> bool:
        """Keep bars from before now for the sleeve that is about to be added; return whether one is."""
        state = self._states.get(past.symbol)
        return state is not None and self.collected.add_past(past, state.last_start)

    def _emit(self, sleeve: str, decision: Decision) -> None:
        if not (self._reading and isinstance(decision, Prediction)):  # about bars that are long past
            self._receive(sleeve, decision)

    def on_remove(self, sleeve: Sleeve, command: Command, now: int) -> None:
        """Halt a sleeve and close its positions; it leaves once it is flat."""
        sleeve.leaving = True
        self.leaving.add(sleeve.name)
        self._risk.note(now, SLEEVE, f"{sleeve.name} is being removed by {command.by}")
        sleeve.engine.handle(Command("halt", now, now, {}, "removal"))
        sleeve.engine.close_positions("sleeve removed")

    def let_leave(self, now: int) -> None:
        """Let removed sleeves go that are flat and have no working order; their cash is idle again."""
        for name in sorted(self.leaving):
            sleeve = self.sleeves[name]
            states = sleeve.engine.states.values()
            exchange = sleeve.engine.exchange
            if isinstance(exchange, SleeveExchange) and not sleeve.engine.flattener.open:
                self._give_up(name, exchange, now)
            if sleeve.engine.portfolio.open or any(state.book for state in states):
                continue
            if self.venue is not None:
                self.venue.leave(name)
            sleeve.engine.finish()
            self.leaving.remove(name)
            del self.sleeves[name]
            for symbol in self._states.values():
                symbol.books.pop(name, None)
            self.departed[name] = sleeve.totals
            self.unassigned.transfer(sleeve.engine.portfolio.cash)
            detail = f"{name} was removed; {sleeve.totals.equity:.2f} are idle cash again"
            self._risk.note(now, SLEEVE, detail)

    def _give_up(self, name: str, exchange: SleeveExchange, now: int) -> None:
        """Make what a leaving sleeve can't close at a venue unassigned: less than the smallest order."""
        for symbol, book in exchange.books.items():
            if book:
                exchange.cancel(book, now, "the sleeve leaves")
            elif (fill := exchange.give_up(symbol, now)) is not None:
                self._emit(UNASSIGNED, fill)
                left = f"{fill.qty} {symbol} of {name} are too small to close, and unassigned"
                self._risk.note(now, SLEEVE, left, symbol)
