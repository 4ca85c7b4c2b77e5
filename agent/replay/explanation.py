"""Why an order was placed: a recorded run is folded up to the order's event by the same engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from agent.analysis.report.report_data import recorded_config
from agent.core.errors import StoreError, UsageError
from agent.core.events import Command, Event, Fill, News, Order, Prediction, Sentiment, Signal
from agent.core.fill_models import FillRules
from agent.core.instruments import instrument_for
from agent.core.sleeves import engines_of
from agent.core.strategy import Strategy
from agent.core.trading_engine import TradingEngine
from agent.replay.backtest import Progress
from agent.replay.fusion_model import reopen_predictor
from agent.replay.open_engine import blaming_any, reopen_engine
from agent.replay.order_history import OrderHistory, OrderRecord, describe_end
from agent.replay.order_moment import DerivedSize, MomentSink, OrderMoment, Origin, RiskCheck
from agent.replay.strategy_versions import StrategyVersions
from agent.replay.verify import inputs
from agent.replay.watched_strategy import TargetLog, watch
from agent.store.comparison_sink import ComparisonSink
from agent.store.database import Database
from agent.store.queries import read_rows
from agent.store.runs import Run

_TICK = 16_384


class ExplainedVote(msgspec.Struct, frozen=True):
    """A headline whose vote counted. Its texts are untrusted, so every renderer must escape them.

    `weight` is the vote's weight at the order, after decay; `voted_at` and `published` are in UTC ms.
    """

    news_id: str
    title: str
    publisher: str
    published: int
    voted_at: int
    weight: float
    direction: str
    bearish: float
    neutral: float
    bullish: float
    kind: str
    model: str
    reason: str  # that a language model gave


class ExplainedTarget(msgspec.Struct, frozen=True):
    """A target of the strategy: the fields that are set, and the callback and event that set it."""

    fields: dict[str, Any]
    callback: str
    event_seq: int


class InternalCross(msgspec.Struct, frozen=True):
    """A fill of an order against another sleeve's order, at the mark and without costs.

    `fee_saved` is what the market would have charged this order for the quantity.
    """

    fill: str  # id
    qty: Decimal
    price: Decimal
    order: int  # number of the other order
    sleeve: str  # of the other order
    fee_saved: Decimal


class OrderOutcome(msgspec.Struct, frozen=True):
    """What became of an order. Amounts in quote currency, costs positive.

    - `arrives_at`: when the paper exchange received it (UTC ms); None at a venue.
    - `latency_ms`: from the decision to the first fill.
    - `amended`: number of requests to change it; `attached`: numbers of the orders that protect its position.
    - `ended_at`, `ended`: when it ended, and how.
    """

    fills: list[Fill]
    filled: Decimal
    average_price: Decimal | None
    fees: Decimal
    slippage: Decimal
    arrives_at: int | None
    latency_ms: int | None
    amended: int
    attached: list[int]
    ended_at: int | None
    ended: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why an order was placed, and what became of it. `number` counts the run's orders from 1.

    - `event`: on which it was decided.
    - `parent`: number of the order whose position it protects.
    - `trip`: number of the round trip that it began or ended, in order of entry.
    - `sleeve`: whose strategy placed it; empty without sleeves. Its state and amounts are the sleeve's.
    - `crosses`: its fills against orders of other sleeves.
    - `signal`, `votes`, `features`, `prediction`: of its symbol at that moment.
    - `checks`: risk limits that it passed; empty for an order that only reduces a position.
    """

    run: str
    number: int
    trip: int | None
    order: Order
    origin: Origin
    event_seq: int
    event: Event
    parent: int | None
    target: ExplainedTarget | None
    size: DerivedSize | None
    signal: Signal | None
    votes: list[ExplainedVote]
    features: dict[str, float]
    prediction: Prediction | None
    risk_state: str
    equity_floor: float | None
    checks: list[RiskCheck]
    outcome: OrderOutcome
    notes: list[str] = []
    sleeve: str = ""
    crosses: list[InternalCross] = []


def explain_orders(
    database: Database,
    run: Run,
    history: OrderHistory,
    records: Sequence[OrderRecord],
    progress: Progress | None = None,
    *,
    folder: Path | None = None,
    trust_strategy: bool = False,
) -> list[Explanation]:
    """Explain orders of `run`, which `history.find` returned; `folder` is `live.folder`.

    Raises StoreError if the fold decides otherwise than the record, UsageError for an order of no sleeve in
    a run with sleeves, and what `verify` raises: UsageError or DataError for missing or changed files,
    SafetyError for a strategy that is not that of the run.
    """
    if recorded_config(run).sleeves:
        for record in records:
            if not record.order.sleeve:
                raise UsageError(
                    f"order {record.number} of run {run.id} is the account's: it closes what no sleeve has",
                    hint="choose an order of a sleeve",
                )
    moments, events = _fold(database, run, records, progress, folder=folder, trust_strategy=trust_strategy)
    names = {vote.news_id for moment in moments.values() for vote in moment.votes}
    news = {item.id: item for item in read_rows(database, run.id, News) if item.id in names} if names else {}
    scores = _scores(read_rows(database, run.id, Sentiment), names) if names else {}
    return [
        _explanation(run, history, record, moments[record.order.id], events[record.event_seq], news, scores)
        for record in records
    ]


def _fold(
    database: Database,
    run: Run,
    records: Sequence[OrderRecord],
    progress: Progress | None,
    *,
    folder: Path | None,
    trust_strategy: bool,
) -> tuple[dict[str, OrderMoment], dict[int, Event]]:
    """Fold the run up to the last of the orders; return the moments by order id, and their events."""
    versions = StrategyVersions(database, run, folder, trust=trust_strategy)
    config, stream = inputs(database, run)
    logs = _TargetLogs()
    comparison = ComparisonSink(database, run)
    sink = MomentSink(comparison, config, logs.by_sleeve, [record.order.id for record in records])
    predictor = reopen_predictor(config, run)
    engine = reopen_engine(config, sink, run, _WatchedVersions(versions, logs), predictor=predictor)
    sink.engine = engine
    logs.watch(engine)
    wanted = {record.event_seq for record in records}
    last, found = max(wanted), dict[int, Event]()
    with blaming_any(engine):
        for number, event in enumerate(stream, 1):
            comparison.event_seq = logs.event_seq = number
            engine.handle(event)
            if isinstance(event, Command) and event.action == "add-sleeve":
                logs.watch(engine)
            if number in wanted:
                found[number] = event
            if progress and number % _TICK == 0:
                progress(event.available_at)
            if number == last or comparison.diverged():
                break
    if comparison.diverged() or sink.moments.keys() != {record.order.id for record in records}:
        raise StoreError(
            f"run {run.id} can't be explained: folded again, it decides differently from event "
            f"{comparison.event_seq:,} on",
            hint=f"tapewire verify {run.id} shows the difference",
        )
    return sink.moments, found


class _TargetLogs:
    """The targets of all strategies, by sleeve; "" without sleeves."""

    def __init__(self) -> None:
        self.by_sleeve: dict[str, TargetLog] = {}
        self._seq = 0

    @property
    def event_seq(self) -> int:
        """Number of the event that is being handled."""
        return self._seq

    @event_seq.setter
    def event_seq(self, number: int) -> None:
        self._seq = number
        for log in self.by_sleeve.values():
            log.event_seq = number

    def watch(self, engine: TradingEngine) -> None:
        """Note the targets of all strategies from now on."""
        for sleeve, one in engines_of(engine).items():
            if sleeve not in self.by_sleeve:
                watch(one.strategy, self.of(sleeve))

    def of(self, sleeve: str) -> TargetLog:
        """Return the log of a sleeve."""
        log = self.by_sleeve.setdefault(sleeve, TargetLog())
        log.event_seq = self._seq
        return log


class _WatchedVersions(StrategyVersions):
    """The strategies of a run, of which those of `use-strategy` commands are watched from their start."""

    def __init__(self, versions: StrategyVersions, logs: _TargetLogs) -> None:
        vars(self).update(vars(versions))
        self._logs = logs

    def __call__(self, args: Mapping[str, str]) -> Strategy:
        strategy = super().__call__(args)
        watch(strategy, self._logs.of(args.get("sleeve", "")))
        return strategy


def _scores(sentiments: Iterable[Sentiment], names: set[str]) -> dict[str, Sentiment]:
    return {item.news_id: item for item in sentiments if item.news_id in names}


def _explanation(
    run: Run,
    history: OrderHistory,
    record: OrderRecord,
    moment: OrderMoment,
    event: Event,
    news: dict[str, News],
    scores: dict[str, Sentiment],
) -> Explanation:
    order, notes = record.order, list[str]()
    if moment.origin == "target" and moment.target is None:
        notes.append("no target of the strategy led to this order: an operator's command did")
    elif moment.target is not None and moment.target.event_seq != record.event_seq:
        notes.append(
            f"the target was set on event {moment.target.event_seq:,} and waited until the orders that it "
            "replaces were cancelled"
        )
    if (
        moment.origin == "target"
        and moment.target is not None
        and not (moment.size and moment.size.confirmed)
    ):
        notes.append("the size can't be derived from the target again; it is the recorded one")
    parent = history.orders.get(order.oco)
    return Explanation(
        run=run.id,
        number=record.number,
        trip=history.trip_of(order.id),
        order=order,
        origin=moment.origin,
        event_seq=record.event_seq,
        event=event,
        parent=parent.number if parent is not None and parent is not record else None,
        target=_target(moment),
        size=moment.size,
        signal=moment.signal,
        votes=[_vote(vote, news.get(vote.news_id), scores.get(vote.news_id)) for vote in moment.votes],
        features=moment.features,
        prediction=moment.prediction,
        risk_state=moment.risk_state,
        equity_floor=moment.floor,
        checks=moment.checks,
        outcome=_outcome(run, history, record),
        notes=notes,
        sleeve=order.sleeve or "",
        crosses=_crosses(run, history, record),
    )


def _crosses(run: Run, history: OrderHistory, record: OrderRecord) -> list[InternalCross]:
    """Return the fills against orders of other sleeves."""
    if not record.crossed:
        return []
    config = recorded_config(run)
    rules, fees = instrument_for(record.order.symbol, config), FillRules(config.paper).fees
    found = []
    for fill in record.fills:
        if fill.id in record.crossed:
            other = history.orders[record.crossed[fill.id]]
            saved = fees.fee(rules, fill.qty, fill.price, maker=False)
            found.append(
                InternalCross(fill.id, fill.qty, fill.price, other.number, other.order.sleeve or "", saved)
            )
    return found


def _target(moment: OrderMoment) -> ExplainedTarget | None:
    noted = moment.target
    if noted is None:
        return None
    default = type(noted.target)._field_defaults
    fields = {
        name: value
        for name, value in noted.target._asdict().items()
        if name == "weight" or (name != "symbol" and value != default.get(name))
    }
    if noted.target.qty is not None or noted.target.risk is not None:
        del fields["weight"]  # only its sign counts
    return ExplainedTarget(fields, noted.callback, noted.event_seq)


def _vote(vote: Any, news: News | None, score: Sentiment | None) -> ExplainedVote:
    provenance = score.provenance if score is not None else None
    return ExplainedVote(
        vote.news_id,
        news.title if news is not None else "",
        (news.publisher or news.feed) if news is not None else "",
        news.ts if news is not None else vote.at,
        vote.at,
        vote.weight,
        vote.direction.value,
        vote.bearish,
        vote.neutral,
        vote.bullish,
        vote.kind,
        score.model if score is not None else "",
        provenance.reason if provenance is not None else "",
    )


def _outcome(run: Run, history: OrderHistory, record: OrderRecord) -> OrderOutcome:
    fills, end = record.fills, record.end
    config = recorded_config(run)
    paper = config.execution.mode == "paper"
    return OrderOutcome(
        fills,
        record.filled,
        record.average_price,
        sum((fill.fee for fill in fills), Decimal(0)),
        sum((fill.slippage for fill in fills), Decimal(0)),
        record.order.ts + config.paper.latency if paper else None,
        fills[0].available_at - record.order.ts if fills else None,
        len(record.amends),
        [history.orders[one].number for one in record.attached],
        end.ts if end is not None else None,
        describe_end(record),
    )
