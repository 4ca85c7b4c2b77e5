"""Deliberate faults in the product, which a proof must detect. `apply(name)` affects the whole process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from inspect import Parameter, isfunction, signature
from typing import Any, Final

from msgspec.structs import replace

from agent.config import Config
from agent.config.live import BybitConfig
from agent.core.engine import Engine
from agent.core.events import HOUR_MS, MINUTE_MS, AccountSnapshot, Decision, Event, Gap, Kline, OrderStatus
from agent.core.flatten import Flattener
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
from agent.live.pipeline import Pipeline
from agent.live.resume import ResumePoint
from agent.live.scoring import SentimentConsumer
from agent.replay import open_engine as core_module
from agent.store.database import Database
from agent.store.journal import Journal
from agent.system.clock_discipline import DisciplinedClock

_BY_PLACE: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def apply(name: str) -> None:
    """Install this fault for the rest of the process. Raises KeyError if the name is unknown."""
    MUTANTS[name]()


def journal_lags_behind() -> None:
    """Handled events are committed with the next batch, as by a writer that delays transactions."""
    append, behind = Journal.append, list[Event]()

    def late(self: Journal, events: Sequence[Event], *, again: bool = False) -> int:
        first = self.last_seq + len(behind) + 1
        append(self, behind, again=again)
        behind[:] = events
        return first

    _put(Journal, "append", late)


def journal_is_not_folded() -> None:
    """A restart begins with an empty account."""
    _put(Pipeline, "_fold", lambda self: None)


def headlines_that_waited_are_forgotten() -> None:
    """A restart does not score headlines that were journalled without a score."""
    _after_fold(lambda pipeline: pipeline.memory.unscored.clear())


def order_ids_begin_again() -> None:
    """A restart numbers its decisions from one: client order ids repeat."""
    _after_fold(lambda pipeline: setattr(pipeline.engine, "_ids", 0))


def funding_forgets_what_it_paid() -> None:
    """A restart does not restore the progress of the funding schedule."""
    _put(FundingSchedule, "set_handled_until", lambda self, at: None)


def bars_come_twice() -> None:
    """A closed bar that the stream repeats is emitted again."""
    offer = KlineSeries.add

    def twice(self: KlineSeries, bar: Kline) -> Iterator[Kline | Gap]:
        if bar.confirm and self.live and self.last is not None and bar.start == self.last:
            yield bar
        yield from offer(self, bar)

    _put(KlineSeries, "add", twice)


def history_is_not_asked() -> None:
    """A bar lost by the stream becomes a gap at once, although the history has it."""
    offer = KlineSeries.add

    def hasty(self: KlineSeries, bar: Kline) -> Iterator[Kline | Gap]:
        yield from offer(self, bar)
        if bar.confirm and self.last is not None:
            yield from self._release(UNBOUNDED)

    _put(KlineSeries, "add", hasty)


def history_knows_the_future() -> None:
    """The open bar of the history is treated as closed."""
    init = KlineHistory.__init__

    def hasty(self: KlineHistory, config: BybitConfig, *args: Any, **more: Any) -> None:
        init(self, config.model_copy(update={"settle": -MINUTE_MS}), *args, **more)

    _put(KlineHistory, "__init__", hasty)


def core_takes_the_wall_clock() -> None:
    """The system clock is trusted regardless of the venue's time and the steady clock."""
    _put(DisciplinedClock, "now", lambda self: self._wall.now())


def steady_progress_is_believed_alone() -> None:
    """A suspension that the steady clock missed is not corrected, though system clock and venue agree."""
    judge = DisciplinedClock._compare

    def stubborn(self: DisciplinedClock, venue: float, error: float, late: float = 0.0) -> None:
        if not self._anchored:
            judge(self, venue, error, late)

    _put(DisciplinedClock, "_compare", stubborn)


def one_bar_ahead_is_believed() -> None:
    """A closed bar of the next hour is accepted as the next one."""
    init = ConnectionShard.__init__

    def credulous(self: ConnectionShard, *args: Any, **more: Any) -> None:
        init(self, *args, **more)
        self._max_ahead = HOUR_MS

    _put(ConnectionShard, "__init__", credulous)


def a_spike_is_believed() -> None:
    """A single state far from the last price moves marks and fills orders."""
    _put(PriceBand, "accepts_price", lambda self, state: True)


def a_wick_is_believed() -> None:
    """A closed bar of the stream is not compared with the prices of its open states."""
    _put(PriceBand, "accepts_bar", lambda self, bar: True)


def funding_is_due_by_the_clock() -> None:
    """Funding is due once the agent's time has passed the stamp, even if no bar has closed there."""
    due = FundingSchedule.due
    _put(FundingSchedule, "due", lambda self, close, now: due(self, now, now))


def open_bars_overtake() -> None:
    """A queued state of an open bar stays queued after the close and is replaced by the next bar's state."""
    _put(EventQueue, "_close_bar", lambda self, bar: None)


def headlines_pass_twice() -> None:
    """The event filter passes headlines that the run already has."""

    async def open_gate(self: EventFilter, event: Event) -> None:
        await deliver(self._emit, event)

    _put(EventFilter, "__call__", open_gate)


def headlines_go_down_with_the_model() -> None:
    """A headline is removed from the queue when its scoring begins, and lost if scoring fails."""
    collect = SentimentConsumer._collect

    async def forgetful(self: SentimentConsumer) -> list[Any]:
        batch = await collect(self)
        for news, _ in batch:
            self._waiting.pop(news.id, None)
        return batch

    _put(SentimentConsumer, "_collect", forgetful)


def memory_forgets_gaps() -> None:
    """A restart requests bars from the last closed one on, though a gap was recorded after it."""
    hear = ResumePoint.update

    def deaf(self: ResumePoint, event: Event) -> None:
        bars = dict(self.bars)
        hear(self, event)
        if isinstance(event, Gap):
            self.bars = bars

    _put(ResumePoint, "update", deaf)


def limits_are_twice_as_wide() -> None:
    """The engine uses a risk section with wider limits than configured."""

    def loose(config: Config, *args: Any, **kwargs: Any) -> Engine:
        risk = config.risk.model_copy(
            update={"max_position": 2 * config.risk.max_position, "max_order": 2 * config.risk.max_order}
        )
        return Engine(config.model_copy(update={"risk": risk}), *args, **kwargs)

    _put(core_module, "Engine", loose)


def emits_from_two_places() -> None:
    """A producer's emit does not wait for the queue, so events may change their order."""
    original = EventFilter.__init__

    def init(self: EventFilter, open_bars: Any, memory: ResumePoint, emit: Emit, writable: Any) -> None:
        late: list[Event] = []

        async def swapped(event: Event) -> None:
            late.append(event)
            if len(late) > 1:
                await deliver(emit, late.pop())
                await deliver(emit, late.pop())

        original(self, open_bars, memory, swapped, writable)

    _put(EventFilter, "__init__", init)


def doubts_are_sent_under_a_new_id() -> None:
    """A restart resends an order with unknown outcome under a new id."""
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
    """Executions missed by the stream are not fetched; only the wallet shows them."""

    async def content(self: Reconciler) -> None:
        return None

    _put(Reconciler, "fetch_missed_executions", content)


def orders_leave_before_the_commit() -> None:
    """An order is sent as soon as it is decided."""
    decide = VenueGateway.decision

    def hasty(self: VenueGateway, seq: int, decision: Decision) -> None:
        decide(self, seq, decision)
        self.release()

    _put(VenueGateway, "decision", hasty)


def silence_is_a_refusal() -> None:
    """An order whose request got no response is treated as rejected."""

    def give_up(self: OrderTracker, order: InFlightOrder) -> None:
        order.unknown_since = 0.0
        self._end(order, OrderStatus.REJECTED, "no answer")

    _put(OrderTracker, "_mark_unknown", give_up)


def absence_is_believed_at_once() -> None:
    """An order missing in a venue's view is treated as not arrived, even if the view may be stale."""
    init = OrderTracker.__init__

    def hasty(self: OrderTracker, *args: Any, **more: Any) -> None:
        init(self, *args, **more)
        self._settle = self._recv_window = 0.0

    _put(OrderTracker, "__init__", hasty)


def cancels_are_kept_back() -> None:
    """Cancel requests of the core are not sent."""
    _put(InFlightOrder, "cancel", lambda self: None)


def amendments_are_kept_back() -> None:
    """Amend requests of the core are not sent."""
    _put(InFlightOrder, "amend", lambda self, amend: None)


def views_are_never_behind() -> None:
    """A second look at a differing account is taken at once."""

    async def snapshot_account(self: Reconciler) -> AccountSnapshot | None:
        await self.fetch_missed_executions()
        positions = await self._client.retry(self._client.port.positions)
        wallet = await self._client.retry(self._client.port.wallet)
        return self._snapshot(positions, wallet, settled=False)

    _put(Reconciler, "snapshot_account", snapshot_account)


def an_interruption_is_no_reason_to_doubt() -> None:
    """After a restart, executions are fetched from the start time on, without those of the downtime."""
    start = Reconciler.start

    def confident(self: Reconciler) -> None:
        start(self)
        self._complete_until = self._client.clock.now() + self._overlap

    _put(Reconciler, "start", confident)


def lost_commits_are_not_noticed() -> None:
    """A start does not compare the end of the store with the run's last commit."""
    _put(record_module, "find_lost_commits", lambda *_, **__: None)


def orders_leave_before_the_disk_has_the_commit() -> None:
    """At a venue, too, a commit returns once it is in the system's cache."""
    _put(Database, "sync_commits", lambda self: None)


def ids_repeat_after_a_restored_backup() -> None:
    """Client order ids depend only on run and number, so a restart that lost its record uses them again."""

    def lifeless(self: Engine) -> str:
        self._ids += 1
        return (
            self.exchange.run_prefix
            + blake2b(f"{self._run_id}:{self._ids}".encode(), digest_size=12).hexdigest()
        )

    _put(Engine, "_new_id", lifeless)


def lost_history_is_somebody_elses() -> None:
    """Orders of this run that its record lacks are treated as foreign."""
    _put(Reconciler, "_is_lost", lambda self, client_id: False)


def strategies_replace_what_closes() -> None:
    """A target is accepted while its position is being closed, and after a kill."""
    _put(Flattener, "ignores", lambda self, symbol, now: False)


def a_flatten_is_one_order() -> None:
    """The order that closes a position is not tracked to its end."""
    pursue = Flattener.pursue

    def once(self: Flattener, now: int) -> None:
        if all(not pursuit.tries for pursuit in self.pursuits.values()):
            pursue(self, now)

    _put(Flattener, "pursue", once)


def _after_fold(change: Any) -> None:
    fold = Pipeline._fold

    def folded(self: Pipeline) -> None:
        fold(self)
        change(self)

    _put(Pipeline, "_fold", folded)


def _put(owner: Any, name: str, substitute: Any) -> None:
    """Replace an attribute. Raises TypeError if a function doesn't take the arguments of the one it replaces:
    it would fail when it is called, which is no fault that a proof should find.
    """
    replaced = getattr(owner, name)
    if isfunction(replaced):
        first, *others = signature(replaced).parameters.values()
        by_place = [one for one in others if one.kind in _BY_PLACE]
        by_name = {one.name: None for one in others if one.kind is one.KEYWORD_ONLY}
        taken = signature(substitute)
        taken.bind(first, *by_place, **by_name)
        taken.bind(first, **{one.name: None for one in others if one.kind is not one.VAR_POSITIONAL})
    setattr(owner, name, substitute)


IN_STORE: Final = (
    journal_lags_behind,
    journal_is_not_folded,
    headlines_that_waited_are_forgotten,
    order_ids_begin_again,
)
"""Faults that show at a restart."""

IN_STORAGE: Final = (lost_commits_are_not_noticed, orders_leave_before_the_disk_has_the_commit)
"""Faults that show if the storage loses data that the disk has not confirmed."""

IN_RIM: Final = (
    *IN_STORE,
    funding_forgets_what_it_paid,
    bars_come_twice,
    history_is_not_asked,
    history_knows_the_future,
    open_bars_overtake,
    core_takes_the_wall_clock,
    steady_progress_is_believed_alone,
    one_bar_ahead_is_believed,
    a_spike_is_believed,
    a_wick_is_believed,
    funding_is_due_by_the_clock,
    headlines_pass_twice,
    headlines_go_down_with_the_model,
    memory_forgets_gaps,
    limits_are_twice_as_wide,
    emits_from_two_places,
    strategies_replace_what_closes,
    a_flatten_is_one_order,
)
"""Faults that show if many faults occur around a run."""

BETWEEN_LIVES: Final = (doubts_are_sent_under_a_new_id, missed_executions_are_not_asked)
"""Faults that show at a restart while trading at an exchange."""

IN_GATEWAY: Final = (
    *BETWEEN_LIVES,
    orders_leave_before_the_commit,
    silence_is_a_refusal,
    absence_is_believed_at_once,
    cancels_are_kept_back,
    ids_repeat_after_a_restored_backup,
    lost_history_is_somebody_elses,
    amendments_are_kept_back,
    views_are_never_behind,
    an_interruption_is_no_reason_to_doubt,
)
"""Faults that show if many faults occur around a run at an exchange."""

MUTANTS: Final = {mutant.__name__.replace("_", "-"): mutant for mutant in (*IN_RIM, *IN_GATEWAY, *IN_STORAGE)}
"""All faults by name."""


def names(mutants: Iterable[Any]) -> list[str]:
    """Return names for `apply`."""
    return [name for name, mutant in MUTANTS.items() if mutant in mutants]
