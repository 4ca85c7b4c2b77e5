"""Several strategies in one account: `SleevedEngine` composes one `Engine` for each.

A sleeve has its own engine, risk limits, exchange and virtual portfolio, on a share of the capital. The
account's ledger books the fills and payments of all, so its cash and positions are their sums plus what is
unassigned: the idle cash that no sleeve has and, at a venue, what is not of a sleeve's orders. Each event
goes to the sleeves in the order of the configuration; a venue's reports go to the sleeve that they concern.

On paper margin is checked on each sleeve's own capital. That is stricter than the account: its equity is at
least the sum of the sleeves' equities and its maintenance margin at most the sum of theirs, so the account
can't be liquidated before a sleeve is.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Final

from agent.core.account_parts import AccountTime, OpenPositions, SharedSymbol
from agent.core.engine import EQUITY_BLOCK, Engine
from agent.core.events import (
    Command,
    Decision,
    Event,
    Fill,
    FillKind,
    Funding,
    FundingPayment,
    Gap,
    Kline,
    News,
    Order,
    OrderType,
    PastBars,
    Prediction,
    RiskState,
    Sentiment,
    Signal,
)
from agent.core.exchange import run_prefix
from agent.core.fusion_inputs import Predictor
from agent.core.instruments import instrument_for
from agent.core.internal_crosses import InternalCrosses
from agent.core.paper import PaperExchange
from agent.core.portfolio import Portfolio
from agent.core.risk import SLEEVE, RiskManager
from agent.core.settings import CoreConfig
from agent.core.signals import SignalEngine
from agent.core.sinks import SleevedSink
from agent.core.sleeve import Sleeve, SleeveTotals, named
from agent.core.sleeve_ledger import check_attribution
from agent.core.sleeve_reports import AccountIds, VenueReports
from agent.core.sleeve_roster import LoadStrategy, SleeveRoster, id_prefix
from agent.core.sleeve_venue import UNASSIGNED, AccountExchange, MakeAccount, SleeveExchange
from agent.core.strategy_version import USE_STRATEGY, StrategyLoader, no_loader
from agent.core.symbols import SymbolMapper
from agent.core.venue import VenueExchange

_FAILED: Final = "its strategy raised an error"
_TO_ALL: Final = ("flatten", "heartbeat", "life", "warm-up", "warm-up-done", "reconciling")
_FOR_SHELL: Final = (
    *("use-model", "model-in-use", "model-refused", "strategy-refused", "revision-given-up"),
    *("stop", "emergency-kill"),
)
_OF_VENUE: Final = ("older-record", "taken-id", "record-behind")
_OF_ONE: Final = (
    *("pause", "resume", "halt", "flatten", "strategy-error"),
    *(USE_STRATEGY, "strategy-history", "strategy-refused"),
)


class SleevedEngine:
    """Handles events like `Engine`, for the sleeves of `config` that are enabled.

    `load` creates the strategies, and `loader` those of commands `use-strategy`, which replace the strategy
    of one sleeve. `account` creates the account at a venue; None on paper. An error of a strategy halts its
    sleeve and no other; `failures` then has the error. Raises ConfigError, StrategyError or what `load`
    raises.
    """

    def __init__(
        self,
        config: CoreConfig,
        load: LoadStrategy,
        sink: SleevedSink,
        *,
        run_id: str,
        predictor: Predictor | None = None,
        equity_block: int = EQUITY_BLOCK,
        loader: StrategyLoader = no_loader,
        account: MakeAccount | None = None,
    ) -> None:
        symbols = tuple(sorted(config.market.symbols))
        self.portfolio = Portfolio(config.account.initial_capital, symbols)
        self.risk = RiskManager(config.risk, self._emit)
        self.crosses = InternalCrosses()
        self.market = AccountTime()
        unassigned = self.unassigned = Portfolio(config.account.initial_capital, symbols)
        """What no sleeve has: the idle cash and, at a venue, what is not of a sleeve's orders."""
        instruments = {symbol: instrument_for(symbol, config) for symbol in symbols}
        self._account_ids = AccountIds(run_id, id_prefix(run_id, UNASSIGNED))
        self.venue: AccountExchange | None = None
        """The account at a venue; None on paper."""
        if account is not None:
            self.venue = account(
                config,
                instruments,
                self.portfolio,
                self._on_unassigned,
                self._account_ids.next,
                unassigned=unassigned,
            )
            self.venue.run_prefix = run_prefix(run_id)
        self.states = {
            symbol: SharedSymbol(
                instruments[symbol],
                config.market,
                self.portfolio.positions[symbol],
                unassigned.positions[symbol],
                [] if self.venue is None else self.venue.books[symbol],
            )
            for symbol in symbols
        }
        mapper = SymbolMapper(config.market.symbols, config.instruments, config.signals.macro_keywords)
        self.signals = SignalEngine(config.signals, mapper, abstain_window=config.risk.abstain_window)
        self.roster = SleeveRoster(
            config,
            load,
            sink,
            self._on_decision,
            self.portfolio,
            self.risk,
            self.states,
            run_id=run_id,
            predictor=predictor,
            equity_block=equity_block,
            loader=loader,
            unassigned=unassigned,
            venue=self.venue,
        )
        self.sleeves = self.roster.sleeves
        """The present sleeves, by name."""
        self.reports: VenueReports | None = None
        if self.venue is not None:
            held = {symbol: state.unassigned for symbol, state in self.states.items()}
            self.reports = VenueReports(
                self.venue,
                self.sleeves,
                held,
                self.risk,
                self.portfolio,
                self._on_unassigned,
                self._account_ids.next,
            )
        self.flattener = OpenPositions(self.sleeves, None if self.reports is None else self.reports.closing)
        self.configured = config.sleeves
        self._config = config
        self._sink = sink
        self._block = equity_block
        self.version: dict[str, str] = {}  # each sleeve's engine has its own; see `TradingEngine`
        self.version_since = 0
        self._counts: Counter[str] = Counter()
        self._failures: dict[str, str] = {}
        self._outlived: set[str] = set()  # of these, sleeves whose strategy was replaced before the report
        self._period = 0  # available_at of the bars being handled; the account is checked when it ends
        self._samples: list[tuple[int, float, float, float]] = []
        # by kind and symbol: the first sleeve with a signal or prediction on this event, and what it had
        self._shared: dict[tuple[type, str], tuple[str, list[Decision]]] = {}
        for settings in config.sleeves:
            if settings.enabled:
                self.roster.add(settings, config.account.initial_capital * settings.share)

    # -- what the shells read -----------------------------------------------------------------------------

    @property
    def counts(self) -> Counter[str]:
        """Number of ignored inputs by reason, those of a sleeve with its name in front."""
        counts = self._counts.copy()
        if self.reports is not None:
            counts.update(self.reports.counts)
        for name, sleeve in self.sleeves.items():
            counts.update({f"{name}: {reason}": n for reason, n in sleeve.engine.counts.items()})
        return counts

    @property
    def failures(self) -> dict[str, str]:
        """Errors of strategies that have yet to be reported, by sleeve."""
        return dict(self._failures)

    @property
    def idle(self) -> Decimal:
        """Cash that no sleeve has."""
        return self.roster.idle

    @property
    def capital(self) -> Decimal:
        """What the sleeves' shares are fractions of."""
        return self.roster.capital

    @property
    def departed(self) -> dict[str, SleeveTotals]:
        """Results of removed sleeves, by name."""
        return self.roster.departed

    @property
    def results(self) -> dict[str, SleeveTotals]:
        """The results of all sleeves so far, those of removed ones last."""
        return {name: sleeve.totals for name, sleeve in self.sleeves.items()} | self.departed

    def outdated(self, now: int) -> set[str]:
        """Return the symbols whose staleness a heartbeat at `now` (UTC ms) would change."""
        risk, states = self.risk, self.states.items()
        found = {s for s, state in states if risk.is_stale(state.overdue(now)) is not (s in risk.stale)}
        return found.union(*(sleeve.engine.outdated(now) for sleeve in self.sleeves.values()))

    def is_heartbeat_due(self, now: int) -> bool:
        """Return whether a heartbeat at `now` (UTC ms) would advance the closing of a position."""
        if self.reports is not None and self.reports.closing.due(now):
            return True
        return any(sleeve.engine.is_heartbeat_due(now) for sleeve in self.sleeves.values())

    # -- events -------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """Handle one event. Events must come in order of (`available_at`, kind, source, sequence)."""
        if type(event) is Kline:
            self._on_kline(event)
        elif type(event) is Command:
            self._advance(event.available_at)
            self._on_command(event)
        else:
            self._on_other(event)
        for sleeve in self.sleeves.values():
            guard = sleeve.engine.guard
            if guard is not None and guard.failure:
                self._failures[sleeve.name] = guard.failure
                self._tell(sleeve, "strategy-error", {"detail": _FAILED})
        if self.crosses.symbols:
            self._cross()
            if self.reports is not None:
                self.reports.let_orders_leave(self.market.now)
                self.crosses.symbols.clear()
        if self.roster.leaving:
            self.roster.let_leave(self.market.now)
        if self._shared:
            self._shared.clear()

    def _on_kline(self, kline: Kline) -> None:
        state = self.states.get(kline.symbol)
        if state is None:
            self._counts["klines of other symbols"] += 1
            return
        if state.fits(kline):
            now = kline.available_at
            if now > self._period:
                if self._period:
                    self._close_period()
                self._period = now
            self._advance(now)
            if kline.confirm and now >= self.signals.next_expiry:
                self.signals.pop_expired(now)
            state.follow(kline)
            self.roster.collected.add(kline)
        for name in list(state.books):
            self.sleeves[name].engine.handle(kline)

    def _on_other(self, event: Event) -> None:
        if isinstance(event, Funding | Gap):
            state = self.states.get(event.symbol)
            if state is None:
                return
            if isinstance(event, Gap):
                state.skip(event)
            for name in list(state.books):
                self.sleeves[name].engine.handle(event)
            return
        self._advance(event.available_at)
        if isinstance(event, PastBars):
            self._on_past_bars(event)
            return
        if self.reports is not None and self.reports.handle(event, self.market.now):
            return
        if isinstance(event, News):
            headline = self.signals.on_news(event)
            self._sink.news(event, headline.symbols, headline.story)
        elif isinstance(event, Sentiment):
            self._on_sentiment(event)
        for sleeve in list(self.sleeves.values()):
            sleeve.engine.handle(event)

    def _on_sentiment(self, sentiment: Sentiment) -> None:
        now = self.market.now
        if now >= self.signals.next_expiry:
            self.signals.pop_expired(now)
        self._sink.sentiment(sentiment)
        self.signals.on_sentiment(sentiment)
        if self.signals.abstained:
            self.risk.on_abstain_rate(now, self.signals.abstain_rate)
        if now >= self.signals.next_expiry:  # a withdrawn vote may have ended a signal
            self.signals.pop_expired(now)

    def _on_past_bars(self, past: PastBars) -> None:
        """Pass bars from before now to the sleeves that wait for them, present or about to be added."""
        waiting = [sleeve.engine for sleeve in self.sleeves.values() if sleeve.engine.collects]
        for engine in waiting:
            engine.handle(past)
        if not self.roster.collects(past) and not waiting:
            self._counts["past bars that no strategy waits for"] += len(past.bars)

    def _advance(self, now: int) -> None:
        if now > self.market.now:
            self.market.now = now

    # -- commands -----------------------------------------------------------------------------------------

    def _on_command(self, command: Command) -> None:
        now, risk, action, by = self.market.now, self.risk, command.action, command.by
        reports = self.reports
        if action == "add-sleeve":
            self.roster.on_add(command, now)
        elif "sleeve" in command.args:
            self._on_command_to(command, command.args["sleeve"])
        elif action == "alarm":
            args = command.args
            risk.note(now, args.get("rule", ""), args.get("detail", ""), args.get("symbol", ""))
        elif action == "pause":
            risk.command(now, RiskState.REDUCING, by)  # the sleeves keep their own states
        elif action == "resume":
            accepts = reports is not None and reports.accepts()
            risk.command(now, RiskState.ACTIVE, by, confirm=command.args.get("confirm", ""))
            if not risk.halted:
                if reports is not None:
                    reports.accept(account=accepts)
                self._tell_all(command)
        elif action in ("halt", "kill"):
            reason = command.args.get("reason", "")
            if action == "kill":
                risk.kill(now, f"{by}: {reason}" if reason else by)
            else:
                risk.command(now, RiskState.HALTED, by)
            if reports is not None and command.args.get("flatten") == "true":
                reports.close(now, "flatten")
            self._tell_all(command)
        elif reports is not None and action in _OF_VENUE:
            reports.on_command(command, now)
            if action == "record-behind":
                self._tell_all(command)  # their entries are cancelled
        elif action in _TO_ALL:
            if action == "heartbeat":
                self._check_stale_data(now)
            elif action == "life":
                self.roster.life = command
                self.roster.collected.end()
                self._account_ids.incarnation = command.args.get("incarnation", "")
                if self.venue is not None:
                    self.venue.states_cash = command.states_cash
            elif action.startswith("warm-up"):
                risk.set_warming_up(action == "warm-up")
            elif action == "reconciling":
                risk.set_reconciled(reports is None)
            if reports is not None and action == "flatten":
                reports.close(now, "flatten", command.args.get("symbol", ""))
            if reports is not None and action == "heartbeat":
                reports.closing.pursue(now)
            self._tell_all(command)
        elif action == "strategy-history":
            self.roster.collected.begin()  # for the sleeve that `add-sleeve` is about to add
        elif action not in _FOR_SHELL:
            self._counts["unknown commands"] += 1

    def _on_command_to(self, command: Command, name: str) -> None:
        """Follow a command that concerns one sleeve."""
        sleeve, now, action = self.sleeves.get(name), self.market.now, command.action
        problem = ""
        if sleeve is None:
            problem = "there is no such sleeve"
        elif sleeve.leaving:
            problem = "the sleeve is being removed"
        elif action == "resume" and self.risk.halted:
            problem = f"the account is HALTED by {self.risk.rule}"
        if sleeve is None or problem:
            self.risk.note(now, SLEEVE, f"{action} of {name} by {command.by} is ignored: {problem}")
        elif action == "remove-sleeve":
            self.roster.on_remove(sleeve, command, now)
        elif action in _OF_ONE:
            if action == "strategy-error":
                self._failures.pop(name, None)
                if name in self._outlived:  # the sleeve is halted, and another strategy has failed
                    self._outlived.remove(name)
                    return
            sleeve.engine.handle(command)
            if action == USE_STRATEGY and name in self._failures:
                self._outlived.add(name)
        else:
            self._counts["unknown commands"] += 1

    def _tell(self, sleeve: Sleeve, action: str, args: dict[str, str]) -> None:
        sleeve.engine.handle(Command(action, self.market.now, self.market.now, args, "account"))

    def _tell_all(self, command: Command) -> None:
        for sleeve in list(self.sleeves.values()):
            if not (sleeve.leaving and command.action == "resume"):
                sleeve.engine.handle(sleeve.addressed(command))

    def _check_stale_data(self, now: int) -> None:
        """Record at a heartbeat which symbols' data have stopped; the sleeves act on it."""
        if not self.risk.warming_up:
            for symbol, state in self.states.items():
                self.risk.on_stale_check(now, symbol, state.overdue(now))

    # -- decisions ----------------------------------------------------------------------------------------

    def _emit(self, decision: Decision) -> None:
        self._sink.decision(decision)

    def _on_decision(self, sleeve: str, decision: Decision) -> None:
        """Book and record a decision of a sleeve."""
        if sleeve == UNASSIGNED:
            self._on_unassigned(decision)
            return
        if isinstance(decision, Signal | Prediction):
            self._on_shared(sleeve, decision)
            return
        if isinstance(decision, Fill):
            if decision.kind is not FillKind.INTERNAL:  # which moves nothing into or out of the account
                self.portfolio.apply(decision)
            if self.venue is not None:
                self.venue.note(sleeve, decision)
        elif isinstance(decision, FundingPayment):
            self.portfolio.pay(decision)
        elif isinstance(decision, Order):
            if self.venue is not None:
                self.venue.note(sleeve, decision)
            if decision.type is OrderType.MARKET:
                self.crosses.symbols.add(decision.symbol)
        self._sink.decision(named(decision, sleeve))

    def _on_unassigned(self, decision: Decision) -> None:
        """Book and record a decision of the account itself, whose ledger has booked it."""
        if isinstance(decision, Fill):
            self.unassigned.apply(decision)
            if self.venue is not None:
                self.venue.note(UNASSIGNED, decision)
        elif isinstance(decision, FundingPayment):
            self.unassigned.pay(decision)
        self._sink.decision(decision)

    def _on_shared(self, sleeve: str, decision: Signal | Prediction) -> None:
        """Record what all sleeves decide alike once, and a sleeve's own where it differs."""
        first, recorded = self._shared.setdefault((type(decision), decision.symbol), (sleeve, []))
        if first == sleeve:
            recorded.append(decision)
            self._sink.decision(decision)
        elif decision not in recorded:
            self._sink.decision(named(decision, sleeve))

    def _cross(self) -> None:
        exchanges = {
            name: sleeve.engine.exchange
            for name, sleeve in self.sleeves.items()
            if isinstance(sleeve.engine.exchange, PaperExchange | SleeveExchange)
        }
        for name in self.crosses.cross(exchanges, self.portfolio.positions, self.market.now):
            self.sleeves[name].engine.after_cross()

    # -- account ------------------------------------------------------------------------------------------

    def _close_period(self) -> None:
        """Check the account once all bars of one moment are in."""
        portfolio, risk, ts = self.portfolio, self.risk, self._period
        equity = cash = portfolio.cash_float
        gross = 0.0
        for position in portfolio.open:
            value = position.size * position.mark
            equity += value
            gross += abs(value)
        if equity > risk.ceiling or equity <= risk.floor or ts >= risk.next_day:
            halted = risk.halted
            risk.on_equity(ts, equity)
            if risk.halted and not halted:
                for sleeve in list(self.sleeves.values()):
                    self._tell(sleeve, "halt", {})
                    if self._config.risk.on_max_drawdown == "flatten":
                        sleeve.engine.close_positions("max_drawdown")
                if self.reports is not None and self._config.risk.on_max_drawdown == "flatten":
                    self.reports.close(ts, "max_drawdown")
        self._samples.append((ts, equity, cash, gross))
        if len(self._samples) >= self._block:
            self._flush_samples()

    def _flush_samples(self) -> None:
        ts, equity, cash, gross = zip(*self._samples, strict=True)
        self._sink.equity(ts, equity, cash, gross)
        self._samples = []

    def finish(self) -> None:
        """Close the last bar period. Raises ReconciliationError if a ledger does not add up, or if the sums
        of the sleeves are not the account's.
        """
        for sleeve in self.sleeves.values():
            sleeve.engine.finish()
        if self._period:
            self._close_period()
        if self._samples:
            self._flush_samples()
        self.portfolio.reconcile()
        self.check()

    def check(self) -> None:
        """Raise ReconciliationError unless the sleeves and what is unassigned add up to the account."""
        ledgers = {name: sleeve.engine.portfolio for name, sleeve in self.sleeves.items()}
        check_attribution(self.portfolio, ledgers, self.departed, self.unassigned)


def engines_of(engine: object) -> dict[str, Engine]:
    """Return the engines of the strategies by sleeve; the engine itself under "" without sleeves."""
    if isinstance(engine, SleevedEngine):
        return {name: sleeve.engine for name, sleeve in engine.sleeves.items()}
    return {"": engine} if isinstance(engine, Engine) else {}


def venue_of(engine: object) -> VenueExchange | None:
    """Return the exchange that compares the account with a venue's; None on paper."""
    if isinstance(engine, SleevedEngine):
        return engine.venue
    exchange = engine.exchange if isinstance(engine, Engine) else None
    return exchange if isinstance(exchange, VenueExchange) else None
