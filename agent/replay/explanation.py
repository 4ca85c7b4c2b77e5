"""Why an order was placed: a recorded run is folded up to the order's event by the same engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from agent.analysis.report.report_data import recorded_config
from agent.core.engine import EQUITY_BLOCK, Engine
from agent.core.errors import StoreError
from agent.core.events import Event, Fill, News, Order, Prediction, Sentiment, Signal
from agent.replay.backtest import Progress
from agent.replay.fusion_model import reopen_predictor
from agent.replay.order_history import OrderHistory, OrderRecord, describe_end
from agent.replay.order_moment import DerivedSize, MomentSink, OrderMoment, Origin, RiskCheck
from agent.replay.verify import inputs
from agent.replay.watched_strategy import TargetLog, watch
from agent.store.comparison_sink import ComparisonSink
from agent.store.database import Database
from agent.store.queries import read_rows
from agent.store.runs import Run, RunKind
from strategies import blaming, check_source, load_strategy

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


def explain_orders(
    database: Database,
    run: Run,
    history: OrderHistory,
    records: Sequence[OrderRecord],
    progress: Progress | None = None,
    *,
    trust_strategy: bool = False,
) -> list[Explanation]:
    """Explain orders of `run`, which `history.find` returned.

    Raises StoreError if the fold decides otherwise than the record, and what `verify` raises: UsageError or
    DataError for missing or changed files, SafetyError for a strategy that is not that of the run.
    """
    moments, events = _fold(database, run, records, progress, trust_strategy=trust_strategy)
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
    trust_strategy: bool,
) -> tuple[dict[str, OrderMoment], dict[int, Event]]:
    """Fold the run up to the last of the orders; return the moments by order id, and their events."""
    if not trust_strategy:
        check_source(run.strategy, run.versions)
    config, stream = inputs(database, run)
    log, live = TargetLog(), run.kind is RunKind.LIVE
    strategy = load_strategy(run.strategy, run.params)
    comparison = ComparisonSink(database, run)
    sink = MomentSink(comparison, config, log, [record.order.id for record in records])
    engine = Engine(
        config,
        strategy,
        sink,
        run_id=run.id,
        exchange=config.execution.exchange(),
        predictor=reopen_predictor(config, run),
        equity_block=1 if live else EQUITY_BLOCK,
        contain_errors=live,
    )
    sink.engine = engine
    watch(engine.strategy, log)
    wanted = {record.event_seq for record in records}
    last, found = max(wanted), dict[int, Event]()
    with blaming(strategy):
        for number, event in enumerate(stream, 1):
            comparison.event_seq = log.event_seq = number
            engine.handle(event)
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
    )


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
