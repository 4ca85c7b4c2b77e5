"""Several strategies in one account: `SleevedEngine` composes one `Engine` for each.

A sleeve has its own engine, risk limits, paper exchange and virtual portfolio, on a share of the capital. The
account's ledger books the fills and payments of all, so its cash and positions are their sums plus the idle
cash that no sleeve has. Each event goes to the sleeves in the order of the configuration.

Margin is checked on each sleeve's own capital. That is stricter than the account: its equity is at least the
sum of the sleeves' equities and its maintenance margin at most the sum of theirs, so the account can't be
liquidated before a sleeve is.
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
    Prediction,
    RiskState,
    Sentiment,
    Signal,
)
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
from agent.core.sleeve_roster import LoadStrategy, SleeveRoster
from agent.core.symbols import SymbolMapper

_FAILED: Final = "its strategy raised an error"
_TO_ALL: Final = ("flatten", "heartbeat", "life", "warm-up", "warm-up-done", "reconciling")
_FOR_SHELL: Final = (
    *("use-model", "model-in-use", "model-refused", "revision-given-up", "stop", "emergency-kill"),
)
_OF_ONE: Final = ("pause", "resume", "halt", "flatten", "strategy-error")


class SleevedEngine:
    """Handles events like `Engine`, for the sleeves of `config` that are enabled.

    `load` creates the strategies. An error of a strategy halts its sleeve and no other; `failures` then has
    the error. Raises ConfigError, StrategyError or what `load` raises.
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
    ) -> None:
        symbols = tuple(sorted(config.market.symbols))
        self.portfolio = Portfolio(config.account.initial_capital, symbols)
        self.risk = RiskManager(config.risk, self._emit)
        self.crosses = InternalCrosses()
        self.market = AccountTime()
        self.states = {
            symbol: SharedSymbol(
                instrument_for(symbol, config), config.market, self.portfolio.positions[symbol]
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
        )
        self.sleeves = self.roster.sleeves
        """The present sleeves, by name."""
        self.flattener = OpenPositions(self.sleeves)
        self.configured = config.sleeves
        self._config = config
        self._sink = sink
        self._block = equity_block
        self.version: dict[str, str] = {}  # the strategies of sleeves are not replaced; see `TradingEngine`
        self.version_since = 0
        self._counts: Counter[str] = Counter()
        self._failures: dict[str, str] = {}
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

    def _advance(self, now: int) -> None:
        if now > self.market.now:
            self.market.now = now

    # -- commands -----------------------------------------------------------------------------------------

    def _on_command(self, command: Command) -> None:
        now, risk, action, by = self.market.now, self.risk, command.action, command.by
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
            risk.command(now, RiskState.ACTIVE, by, confirm=command.args.get("confirm", ""))
            if not risk.halted:
                self._tell_all(command)
        elif action in ("halt", "kill"):
            reason = command.args.get("reason", "")
            if action == "kill":
                risk.kill(now, f"{by}: {reason}" if reason else by)
            else:
                risk.command(now, RiskState.HALTED, by)
            self._tell_all(command)
        elif action in _TO_ALL:
            if action == "heartbeat":
                self._check_stale_data(now)
            elif action == "life":
                self.roster.life = command
            elif action.startswith("warm-up"):
                risk.set_warming_up(action == "warm-up")
            self._tell_all(command)
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
            sleeve.engine.handle(command)
        else:
            self._counts["unknown commands"] += 1

    def _tell(self, sleeve: Sleeve, action: str, args: dict[str, str]) -> None:
        sleeve.engine.handle(Command(action, self.market.now, self.market.now, args, "account"))

    def _tell_all(self, command: Command) -> None:
        for sleeve in list(self.sleeves.values()):
            if not (sleeve.leaving and command.action == "resume"):
                sleeve.engine.handle(command)

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
        if isinstance(decision, Signal | Prediction):
            self._on_shared(sleeve, decision)
            return
        if isinstance(decision, Fill):
            if decision.kind is not FillKind.INTERNAL:  # which moves nothing into or out of the account
                self.portfolio.apply(decision)
        elif isinstance(decision, FundingPayment):
            self.portfolio.pay(decision)
        elif isinstance(decision, Order) and decision.type is OrderType.MARKET:
            self.crosses.symbols.add(decision.symbol)
        self._sink.decision(named(decision, sleeve))

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
            if isinstance(sleeve.engine.exchange, PaperExchange)
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
        """Raise ReconciliationError unless the sums of the sleeves and the idle cash are the account's."""
        ledgers = {name: sleeve.engine.portfolio for name, sleeve in self.sleeves.items()}
        check_attribution(self.portfolio, ledgers, self.departed, self.idle)


def engines_of(engine: object) -> dict[str, Engine]:
    """Return the engines of the strategies by sleeve; the engine itself under "" without sleeves."""
    if isinstance(engine, SleevedEngine):
        return {name: sleeve.engine for name, sleeve in engine.sleeves.items()}
    return {"": engine} if isinstance(engine, Engine) else {}
