"""Faults put into the product on purpose: whoever claims to prove something must find them. `apply(name)` is for the whole process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, Final

from msgspec.structs import replace

from agent.config import Config
from agent.config.live import BybitConfig
from agent.core.engine import Engine
from agent.core.events import HOUR_MS, MINUTE_MS, AccountSnapshot, Decision, Event, Gap, Kline, OrderStatus
from agent.core.flatten import Flattener
from agent.live import pipeline as core_module
from agent.live import run_record as record_module
from agent.live.event_filter import EventFilter
from agent.live.event_queue import EventQueue
from agent.live.funding_stamps import FundingSchedule
from agent.live.gateway.in_flight_order import InFlightOrder, InFlightState
from agent.live.gateway.order_tracker import OrderTracker
from agent.live.gateway.reconciler import Reconciler
from agent.live.gateway.venue_gateway import VenueGateway
from agent.live.interfaces.producer import Emit, deliver
from agent.live.market_data.backfill import KlineHistory
from agent.live.market_data.connection_shard import ConnectionShard
from agent.live.market_data.kline_series import UNBOUNDED, KlineSeries
from agent.live.market_data.price_band import PriceBand
from agent.live.pipeline import Core
from agent.live.resume import ResumePoint
from agent.live.scoring import SentimentConsumer
from agent.store.database import Database
from agent.store.journal import Journal
from agent.system.clock_discipline import DisciplinedClock


def apply(name: str) -> None:
    """Let the product have this fault from now on. Raises KeyError for one that there isn't."""
    MUTANTS[name]()


def journal_lags_behind() -> None:
    """What is handled is committed with the next events, as if by a writer that saves transactions."""
    append, behind = Journal.append, list[Event]()

    def late(self: Journal, events: Sequence[Event], *, again: bool = False) -> int:
        first = self.last_seq + len(behind) + 1
        append(self, behind, again=again)
        behind[:] = events
        return first

    _put(Journal, "append", late)


def journal_is_not_folded() -> None:
    """A restart begins with an empty account."""
    _put(Core, "_fold", lambda self: None)


def headlines_that_waited_are_forgotten() -> None:
    """A restart does not score what was journalled, but not scored."""
    _after_fold(lambda core: core.memory.unscored.clear())


def order_ids_begin_again() -> None:
    """A restart counts its decisions from one: client order ids come twice."""
    _after_fold(lambda core: setattr(core.engine, "_ids", 0))


def funding_forgets_what_it_paid() -> None:
    """A restart does not tell the schedule how far it had come."""
    _put(FundingSchedule, "set_handled_until", lambda self, now: None)


def bars_come_twice() -> None:
    """A closed bar that the stream repeats goes on again."""
    offer = KlineSeries.add

    def twice(self: KlineSeries, bar: Kline) -> Iterator[Kline | Gap]:
        if bar.confirm and self.live and self.last is not None and bar.start == self.last:
            yield bar
        yield from offer(self, bar)

    _put(KlineSeries, "add", twice)


def history_is_not_asked() -> None:
    """What the stream has lost is a gap at once, though the history has it."""
    offer = KlineSeries.add

    def hasty(self: KlineSeries, bar: Kline) -> Iterator[Kline | Gap]:
        yield from offer(self, bar)
        if bar.confirm and self.last is not None:
            yield from self._release(UNBOUNDED)

    _put(KlineSeries, "add", hasty)


def history_knows_the_future() -> None:
    """The bar that is still open, as the history has it, is taken to be closed."""
    init = KlineHistory.__init__

    def hasty(self: KlineHistory, config: BybitConfig, *args: Any) -> None:
        init(self, config.model_copy(update={"settle": -MINUTE_MS}), *args)

    _put(KlineHistory, "__init__", hasty)


def core_takes_the_wall_clock() -> None:
    """The system clock is believed whatever the venue and steady progress say."""
    _put(DisciplinedClock, "now", lambda self: self._wall.now())


def steady_progress_is_believed_alone() -> None:
    """A suspension that the steady clock missed is not caught up, though system clock and venue agree on it."""
    judge = DisciplinedClock._compare

    def stubborn(self: DisciplinedClock, venue: float, error: float) -> None:
        if not self._anchored:
            judge(self, venue, error)

    _put(DisciplinedClock, "_compare", stubborn)


def one_bar_ahead_is_believed() -> None:
    """A closed bar of the next hour is taken for the next one."""
    init = ConnectionShard.__init__

    def credulous(self: ConnectionShard, *args: Any) -> None:
        init(self, *args)
        self._max_ahead = HOUR_MS

    _put(ConnectionShard, "__init__", credulous)


def a_spike_is_believed() -> None:
    """One state far from the last price moves marks and fills orders."""
    _put(PriceBand, "accepts_price", lambda self, state: True)


def a_wick_is_believed() -> None:
    """A closed bar of the stream is not compared with the prices that were seen."""
    _put(PriceBand, "accepts_bar", lambda self, bar: True)


def funding_is_due_by_the_clock() -> None:
    """A stamp is due once the agent's time has passed it, whether or not a bar has closed there."""
    due = FundingSchedule.due
    _put(FundingSchedule, "due", lambda self, close, now: due(self, now, now))


def open_bars_overtake() -> None:
    """A state of a bar that still waits when the bar closes stays in the queue, and is updated by the next bar's."""
    _put(EventQueue, "_close_bar", lambda self, bar: None)


def headlines_pass_twice() -> None:
    """The gate lets through what the run has had."""

    async def open_gate(self: EventFilter, event: Event) -> None:
        await deliver(self._emit, event)

    _put(EventFilter, "__call__", open_gate)


def headlines_go_down_with_the_model() -> None:
    """A headline is forgotten when its scoring begins, and lost where that fails."""
    collect = SentimentConsumer._collect

    async def forgetful(self: SentimentConsumer) -> list[Any]:
        batch = await collect(self)
        for news, _ in batch:
            self._waiting.pop(news.id, None)
        return batch

    _put(SentimentConsumer, "_collect", forgetful)


def memory_forgets_gaps() -> None:
    """A restart asks for bars from the last closed one on, though a gap was written behind it."""
    hear = ResumePoint.update

    def deaf(self: ResumePoint, event: Event) -> None:
        bars = dict(self.bars)
        hear(self, event)
        if isinstance(event, Gap):
            self.bars = bars

    _put(ResumePoint, "update", deaf)


def limits_are_twice_as_wide() -> None:
    """The engine reads another risk section than the one that a person wrote."""

    def loose(config: Config, *args: Any, **kwargs: Any) -> Engine:
        risk = config.risk.model_copy(
            update={"max_position": 2 * config.risk.max_position, "max_order": 2 * config.risk.max_order}
        )
        return Engine(config.model_copy(update={"risk": risk}), *args, **kwargs)

    _put(core_module, "Engine", loose)


def emits_from_two_places() -> None:
    """A producer's emit does not wait for the queue: what it calls may be overtaken."""
    original = EventFilter.__init__

    def init(self: EventFilter, config: Any, memory: ResumePoint, emit: Emit, *more: Any) -> None:
        late: list[Event] = []

        async def swapped(event: Event) -> None:
            late.append(event)
            if len(late) > 1:
                await deliver(emit, late.pop())
                await deliver(emit, late.pop())

        original(self, config, memory, swapped, *more)

    _put(EventFilter, "__init__", init)


def doubts_are_sent_under_a_new_id() -> None:
    """A restart sends an order of which nothing is known once more, as another one."""
    recover = OrderTracker.recover

    def renamed(self: OrderTracker) -> None:
        recover(self)
        for order in self.in_flight():
            if order.state is InFlightState.UNKNOWN:
                del self._orders[order.order.id]
                order.order = replace(order.order, id=f"{order.order.id[:-2]}-2")
                order.state = InFlightState.WAITING
                self._orders[order.order.id] = order

    _put(OrderTracker, "recover", renamed)


def missed_executions_are_not_asked() -> None:
    """What was executed while nobody listened is heard of from the wallet alone."""

    async def content(self: Reconciler) -> None:
        return None

    _put(Reconciler, "fetch_missed_executions", content)


def orders_leave_before_the_commit() -> None:
    """An order is sent as soon as it is decided."""
    decision = VenueGateway.decision

    def hasty(self: VenueGateway, seq: int, what: Decision) -> None:
        decision(self, seq, what)
        self.release()

    _put(VenueGateway, "decision", hasty)


def silence_is_a_refusal() -> None:
    """An order whose request was not answered is given up."""

    def give_up(self: OrderTracker, order: InFlightOrder) -> None:
        order.unknown_since = 0.0
        self._end(order, OrderStatus.REJECTED, "no answer")

    _put(OrderTracker, "_mark_unknown", give_up)


def absence_is_believed_at_once() -> None:
    """What a venue's view does not show has not arrived, however far it may be behind."""
    init = OrderTracker.__init__

    def hasty(self: OrderTracker, *args: Any) -> None:
        init(self, *args)
        self._settle = self._recv_window = 0.0

    _put(OrderTracker, "__init__", hasty)


def cancels_are_kept_back() -> None:
    """What the core wants taken back stays."""
    _put(InFlightOrder, "cancel", lambda self: None)


def amendments_are_kept_back() -> None:
    """What the core wants otherwise stays as it is."""
    _put(InFlightOrder, "amend", lambda self, amend: None)


def views_are_never_behind() -> None:
    """A second look at an account that differs is made at once."""

    async def snapshot_account(self: Reconciler) -> AccountSnapshot | None:
        await self.fetch_missed_executions()
        positions = await self._client.retry(self._client.port.positions)
        wallet = await self._client.retry(self._client.port.wallet)
        return self._snapshot(positions, wallet, settled=False)

    _put(Reconciler, "snapshot_account", snapshot_account)


def an_interruption_is_no_reason_to_doubt() -> None:
    """What was executed between two lives is asked for from now on."""
    start = Reconciler.start

    def confident(self: Reconciler) -> None:
        start(self)
        self._complete_until = self._client.clock.now() + self._overlap

    _put(Reconciler, "start", confident)


def lost_commits_are_not_noticed() -> None:
    """A life begins where the store ends, whatever its run had committed."""
    _put(record_module, "find_lost_commits", lambda *_: None)


def orders_leave_before_the_disk_has_the_commit() -> None:
    """At a venue, too, a commit is in the system's cache alone when it returns."""
    _put(Database, "sync_commits", lambda self: None)


def ids_repeat_after_a_restored_backup() -> None:
    """Client order ids are made of the run and a number alone, so that a life that has lost its record uses them again."""

    def lifeless(self: Engine) -> str:
        self._ids += 1
        return (
            self.exchange.run_prefix
            + blake2b(f"{self._run_id}:{self._ids}".encode(), digest_size=12).hexdigest()
        )

    _put(Engine, "_new_id", lifeless)


def lost_history_is_somebody_elses() -> None:
    """Orders of this run that its record does not have are taken for those of strangers."""
    _put(Reconciler, "_is_lost", lambda self, client_id: False)


def strategies_replace_what_closes() -> None:
    """A target counts while its position is being closed, and after a kill."""
    _put(Flattener, "ignores", lambda self, symbol, now: False)


def a_flatten_is_one_order() -> None:
    """What becomes of the order that closes a position is not looked at."""
    pursue = Flattener.pursue

    def once(self: Flattener, now: int) -> None:
        if all(not pursuit.tries for pursuit in self.pursuits.values()):
            pursue(self, now)

    _put(Flattener, "pursue", once)


def _after_fold(change: Any) -> None:
    fold = Core._fold

    def folded(self: Core) -> None:
        fold(self)
        change(self)

    _put(Core, "_fold", folded)


def _put(owner: Any, name: str, substitute: Any) -> None:
    setattr(owner, name, substitute)


IN_STORE: Final = (
    journal_lags_behind, journal_is_not_folded, headlines_that_waited_are_forgotten, order_ids_begin_again,
)  # fmt: skip
"""Those that show when a life ends."""

IN_STORAGE: Final = (lost_commits_are_not_noticed, orders_leave_before_the_disk_has_the_commit)
"""Those that show when the storage loses what no disk has promised."""

IN_RIM: Final = (
    *IN_STORE, funding_forgets_what_it_paid, bars_come_twice, history_is_not_asked, history_knows_the_future, open_bars_overtake,
    core_takes_the_wall_clock, steady_progress_is_believed_alone, one_bar_ahead_is_believed, a_spike_is_believed, a_wick_is_believed,
    funding_is_due_by_the_clock, headlines_pass_twice, headlines_go_down_with_the_model, memory_forgets_gaps, limits_are_twice_as_wide, emits_from_two_places,
    strategies_replace_what_closes, a_flatten_is_one_order, headlines_pass_twice, headlines_go_down_with_the_model, memory_forgets_gaps, limits_are_twice_as_wide, emits_from_two_places,
)  # fmt: skip
"""Those that show when much goes wrong around a life."""

BETWEEN_LIVES: Final = (doubts_are_sent_under_a_new_id, missed_executions_are_not_asked)
"""Those that show when a life that trades at an exchange ends."""

IN_GATEWAY: Final = (
    *BETWEEN_LIVES, orders_leave_before_the_commit, silence_is_a_refusal, absence_is_believed_at_once, cancels_are_kept_back,
    ids_repeat_after_a_restored_backup, lost_history_is_somebody_elses, amendments_are_kept_back, views_are_never_behind, an_interruption_is_no_reason_to_doubt,
)  # fmt: skip
"""Those that show when much goes wrong around such a life."""

MUTANTS: Final = {mutant.__name__.replace("_", "-"): mutant for mutant in (*IN_RIM, *IN_GATEWAY, *IN_STORAGE)}
"""All, by name."""


def names(mutants: Iterable[Any]) -> list[str]:
    """As `apply` takes them."""
    return [name for name, mutant in MUTANTS.items() if mutant in mutants]
