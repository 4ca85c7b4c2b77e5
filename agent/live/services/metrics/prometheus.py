"""Prometheus metrics of the running agent, computed when they are scraped; only decisions are counted as they
come.

Names begin with `tapewire_`, times are in seconds, money is in the account's currency.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from agent import __version__
from agent.core.events import Decision, Event, RiskState
from agent.live.interfaces.running_agent import RunningAgent
from agent.live.interfaces.status import (
    HEADLINE_TO_SENTIMENT,
    SENTIMENT_TO_ORDER,
    SENTIMENT_TO_REVISION,
    STORE_WRITE,
    Status,
    TwinStatus,
)
from agent.live.services.metrics.drift_metrics import drift_metrics
from agent.live.services.metrics.llm_metrics import llm_metrics
from agent.system.latency_histogram import LatencyHistogram

BUCKET_STEP: Final = 10
"""Export every tenth of a histogram's 121 bounds: 0.1 ms to 9.3 s, each 2.6 times the last."""

_SPANS: Final = {
    HEADLINE_TO_SENTIMENT: "From a headline to its sentiment, including waits",
    SENTIMENT_TO_REVISION: "From a headline's first sentiment to the one that revises it",
    SENTIMENT_TO_ORDER: "From a sentiment's arrival to the recorded order",
    STORE_WRITE: "One commit of the journal or of decisions",
}

_SOURCE_COUNTS: Final = (
    ("messages", "Messages received"),
    ("errors", "Errors"),
    ("reconnects", "Reconnections"),
    ("gaps", "Gaps of missing bars"),
    ("ahead", "Bars and messages from the future, rejected"),
    ("withheld", "Prices outside the band, held back until they are confirmed"),
    ("dropped", "Items dropped because the buffer was full"),
    ("late", "Scores and revisions that came too late"),
    ("revised", "Headlines whose first answer was revised"),
    ("unanswered", "Headlines that a language model left to its fallback, and were not revised"),
    ("failed_headlines", "Headlines that were not revised because the model failed"),
    ("resumed", "Headlines that waited for a revision when an earlier life of the agent ended"),
    ("outlived", "Of these, headlines whose time had passed when the agent started again"),
    ("skipped", "Headlines that can't vote, and are not revised"),
    ("forged", "Commands with a wrong signature, and replayed commands"),
    ("refused", "Commands not carried out, and rejected scores of workers"),
    ("ignored", "Messages from chats that may not command"),
)
"""Fields of `Health` and its subclasses; each source exports those that it has."""


class AgentMetrics(Collector):
    """An observer that counts decisions, and a collector that reads the rest from the agent's status."""

    def __init__(self, agent: RunningAgent) -> None:
        self._agent = agent
        self._decisions: Counter[type] = Counter()

    def event(self, seq: int, event: Event) -> None:
        """Ignore events: the queue counts them."""

    def decision(self, seq: int, decision: Decision) -> None:
        self._decisions[decision.__class__] += 1

    def registry(self) -> CollectorRegistry:
        """Make a registry of the agent's and this process's metrics only."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        return registry

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering doesn't collect from an agent that isn't running yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        status = self._agent.status()
        yield from self._flow(status)
        yield from self._durations()
        yield from _sources(status)
        yield from _listeners(status)
        yield from _account(status)
        yield from _model(status)
        yield from llm_metrics(status)
        if status.model_drift is not None:
            yield from drift_metrics(status.model_drift)
        if status.twin is not None:
            yield from _twin(status.twin)

    def _flow(self, status: Status) -> Iterator[Metric]:
        queue, kinds = status.queue, status.queue.kinds
        about = {
            "version": __version__,
            "run": status.run,
            "strategy": status.strategy,
            "endpoint": status.endpoint,
        }
        yield InfoMetricFamily("tapewire_run", "What is running", about)
        yield _gauge("tapewire_warming_up", "1 while the history is being read", status.warming_up)
        yield _gauge("tapewire_uptime_seconds", "Time since the agent started", status.uptime_s)
        clock = status.clock
        yield _gauge(
            "tapewire_clock_trouble",
            "1 while the sources of time disagree or the venue's is unknown",
            bool(clock.trouble),
        )
        yield _gauge(
            "tapewire_clock_system_offset_seconds",
            "System clock minus the agent's time",
            clock.system_ms / 1000,
        )
        yield CounterMetricFamily("tapewire_clock_steps", "Steps of the agent's time", value=clock.steps)
        yield _counters("tapewire_events", "Events handled", "kind", {k: s.taken for k, s in kinds.items()})
        yield _counters(
            "tapewire_decisions",
            "Decisions made",
            "kind",
            {kind.__name__: n for kind, n in self._decisions.items()},
        )
        yield _counters("tapewire_ignored", "Inputs that the core ignored", "reason", status.ignored)
        yield _gauge("tapewire_queue_depth", "Events waiting for the core", queue.depth)
        yield _gauge("tapewire_queue_high_water", "Largest depth so far", queue.high_water)
        yield CounterMetricFamily(
            "tapewire_queue_blocked", "Times that a producer had to wait for space", value=queue.blocked
        )
        coalesced = {kind: stats.coalesced for kind, stats in kinds.items() if stats.coalesced}
        yield _counters(
            "tapewire_queue_coalesced", "Open bars replaced by a newer state while waiting", "kind", coalesced
        )
        dropped = {kind: stats.dropped for kind, stats in kinds.items() if kind == "News" or stats.dropped}
        lost = {"dropped": status.log.dropped, "suppressed": status.log.suppressed}
        yield _counters(
            "tapewire_log_lost",
            "Log lines dropped, or suppressed as repetitions",
            "how",
            lost,
        )
        yield _counters(
            "tapewire_queue_dropped", "Events dropped because the queue was full", "kind", dropped
        )

    def _durations(self) -> Iterator[Metric]:
        handled = HistogramMetricFamily(
            "tapewire_handled_seconds",
            "From the arrival in the queue to handled and recorded",
            labels=["kind"],
        )
        for kind, histogram in sorted(self._agent.latencies.items()):
            handled.add_metric([kind], *_buckets(histogram))
        yield handled
        for span, text in _SPANS.items():
            name = f"tapewire_{span.replace(' ', '_')}_seconds"
            buckets, total = _buckets(self._agent.spans.get(span) or LatencyHistogram())
            yield HistogramMetricFamily(name, text, buckets=buckets, sum_value=total)


def _sources(status: Status) -> Iterator[Metric]:
    """Market data, feeds, model, MQTT: everything supervised, and each feed."""
    rows: list[dict[str, Any]] = status.producers
    up = GaugeMetricFamily("tapewire_source_up", "1 if the source is live", labels=["source"])
    seen = GaugeMetricFamily(
        "tapewire_source_last_message_timestamp_seconds", "Time of the last message", labels=["source"]
    )
    waiting = GaugeMetricFamily(
        "tapewire_source_waiting", "Items waiting inside the source", labels=["source"]
    )
    for row in rows:
        up.add_metric([row["name"]], row["state"] == "live")
        seen.add_metric([row["name"]], row["last_message_at"] / 1000)
        if "waiting" in row:
            waiting.add_metric([row["name"]], row["waiting"])
    yield from (up, seen, waiting)
    for field, text in _SOURCE_COUNTS:
        yield _counters(
            f"tapewire_source_{field}",
            text,
            "source",
            {row["name"]: row[field] for row in rows if field in row},
        )
    restarts = {row["name"]: row["failures"] for row in rows}
    yield _counters("tapewire_source_restarts", "Restarts after a failure", "source", restarts)
    feeds = [(feed.name, msgspec.structs.asdict(feed)) for feed in status.feeds]
    yield _gauges(
        "tapewire_feed_up", "1 if the feed responds", "feed", {n: f["state"] == "live" for n, f in feeds}
    )
    yield _counters("tapewire_feed_errors", "Failed polls", "feed", {n: f["errors"] for n, f in feeds})
    yield _counters("tapewire_feed_headlines", "Headlines emitted", "feed", {n: f["news"] for n, f in feeds})
    answers = {n: f["last_message_at"] / 1000 for n, f in feeds}
    yield _gauges("tapewire_feed_last_answer_timestamp_seconds", "Time of the last response", "feed", answers)


def _listeners(status: Status) -> Iterator[Metric]:
    """Connections to the servers of this process."""
    rows = status.listeners
    yield _gauges(
        "tapewire_connections_open",
        "Connections to a listener",
        "listener",
        {row.name: row.open for row in rows},
    )
    closed = CounterMetricFamily(
        "tapewire_connections_closed", "Connections closed by a limit", labels=["listener", "reason"]
    )
    for row in rows:
        for reason in ("displaced", "refused", "timed_out"):
            closed.add_metric([row.name, reason], getattr(row, reason))
    yield closed
    yield _counters(
        "tapewire_requests_denied",
        "Wrong tokens, foreign Host or Origin",
        "listener",
        {r.name: r.denied for r in rows},
    )
    yield _counters(
        "tapewire_requests_limited",
        "Requests beyond the rate limit of a token",
        "listener",
        {r.name: r.limited for r in rows},
    )
    yield _counters(
        "tapewire_streams_dropped",
        "Streams closed because their client reads too slowly",
        "listener",
        {r.name: r.slow for r in rows},
    )
    short = {row.name: row.exhausted for row in rows}
    yield _counters(
        "tapewire_descriptors_short", "Connections affected by a lack of file descriptors", "listener", short
    )


def _account(status: Status) -> Iterator[Metric]:
    positions = status.positions
    yield _gauge("tapewire_equity", "Cash and positions at their marks", status.equity)
    yield _gauge("tapewire_cash", "Cash", status.cash)
    yield _gauge(
        "tapewire_exposure", "Gross notional of all positions", sum(abs(one.value) for one in positions)
    )
    yield _gauge("tapewire_drawdown_ratio", "How far the equity is below its peak", status.drawdown)
    values = {one.symbol: one.value for one in positions}
    yield _gauges("tapewire_position_value", "Signed value at the mark", "symbol", values)
    orders = {one.symbol: one.open_orders for one in positions}
    yield _gauges("tapewire_open_orders", "Working orders", "symbol", orders)
    overdue = {one.symbol: one.overdue_ms / 1000 for one in positions}
    yield _gauges("tapewire_bar_overdue_seconds", "How long the next bar is overdue", "symbol", overdue)
    states = {state.value: state is status.risk for state in RiskState}
    yield _gauges("tapewire_risk_state", "1 for the current state", "state", states)


def _model(status: Status) -> Iterator[Metric]:
    yield InfoMetricFamily("tapewire_model", "The sentiment model that scores", {"fingerprint": status.model})
    yield InfoMetricFamily(
        "tapewire_revising_model",
        "The model that revises its answers",
        {"fingerprint": status.revising_model},
    )
    yield _gauge(
        "tapewire_abstain_rate", "Share of recent headlines on which the model abstained", status.abstain_rate
    )
    yield _counters("tapewire_sentiments", "Sentiments by outcome", "outcome", status.headlines)


def _buckets(histogram: LatencyHistogram) -> tuple[list[tuple[str, float]], float]:
    """Return cumulative buckets and sum, in seconds."""
    bounds = histogram.cumulative(BUCKET_STEP)
    return [
        ("+Inf" if ms == float("inf") else f"{ms / 1000:.4g}", count) for ms, count in bounds
    ], histogram.total_ms / 1000


def _twin(twin: TwinStatus) -> Iterator[Metric]:
    yield _gauge("tapewire_twin_orders", "Latest filled orders that are compared with paper", twin.orders)
    yield _gauge("tapewire_twin_outside", "1 while the alarm of the twin is raised", twin.outside)
    yield _gauge("tapewire_twin_behind", "Events of the journal that it has yet to read again", twin.behind)
    if twin.difference is not None:
        text = "Equity at the venue minus that of the run's orders on paper, since the run began"
        yield _gauge("tapewire_twin_difference", text, float(twin.difference))
    if twin.mean_bps is not None:
        text = "Mean difference of these orders, venue minus paper, bps of their value"
        yield _gauge("tapewire_twin_difference_bps", text, twin.mean_bps)
        yield _gauges("tapewire_twin_cause_bps", "Its parts", "cause", twin.causes_bps)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    return _labelled(GaugeMetricFamily(name, text, labels=[label]), values)


def _counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    return _labelled(CounterMetricFamily(name, text, labels=[label]), values)


def _labelled(family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[str, float]) -> Metric:
    for key, value in values.items():
        family.add_metric([key], float(value))
    return family
