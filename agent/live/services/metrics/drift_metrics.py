"""Prometheus metrics of the sentiment model's drift and of the price moves after its calls.

A value that is not known, such as the index of a model without a reference, has no sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import get_args

from prometheus_client.core import GaugeMetricFamily, Metric

from agent.live.interfaces.status import ModelDriftStatus
from models.labels import LABELS
from models.sentiment.serve.drift import CLASS, State


def drift_metrics(status: ModelDriftStatus) -> Iterator[Metric]:
    """Yield the metrics; names begin with `tapewire_sentiment_`."""
    drift, moves = status.drift, status.moves
    states = {state: float(state == drift.state) for state in get_args(State)}
    yield _gauges("drift_state", "1 for the current state", "state", states)
    yield _gauge("window_headlines", "Headlines that are compared with the reference", drift.headlines)
    yield _gauges(
        "psi",
        "Population stability index of the window against the model's training texts",
        "of",
        {one.of.replace(" ", "_"): one.psi for one in drift.comparisons},
    )
    classes = drift.of(CLASS)
    for name, text, shares in (
        ("class_share", "Share of the predicted class in the window, without abstentions", classes.live),
        ("reference_class_share", "The same in the model's training texts", classes.reference),
    ):
        yield _gauges(name, text, "label", dict(zip(LABELS, shares, strict=False)))
    yield _gauge("mean_confidence", "Mean confidence in the window, without abstentions", drift.confidence)
    yield _gauge("abstain_share", "Share of the window on which the model abstained", drift.abstained)
    yield _gauge(
        "unknown_token_share",
        "Mean share of a headline's tokens that the model's vocabulary lacks",
        drift.unknown_tokens,
    )
    sides = moves.sides
    horizon = f"{moves.horizon / 60_000:g} minutes"
    yield _gauges(
        "calls",
        f"Bullish and bearish calls whose price moved within {horizon}",
        "side",
        {side: one.calls for side, one in sides.items()},
    )
    for name, text, values in (
        ("hit_rate", "Share of these whose price moved as predicted", {s: o.rate for s, o in sides.items()}),
        ("hit_rate_low", "Lower end of its 95 % interval", {s: o.low for s, o in sides.items()}),
        ("hit_rate_high", "Upper end of its 95 % interval", {s: o.high for s, o in sides.items()}),
        ("hit_confidence", "Mean confidence of these calls", {s: o.confidence for s, o in sides.items()}),
        ("brier", "Mean squared error of their confidence", {s: o.brier for s, o in sides.items()}),
    ):
        yield _gauges(name, text, "side", values)


def _gauge(name: str, text: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(f"tapewire_sentiment_{name}", text, labels=[])
    if value is not None:
        family.add_metric([], value)
    return family


def _gauges(name: str, text: str, label: str, values: Mapping[str, float | None]) -> Metric:
    family = GaugeMetricFamily(f"tapewire_sentiment_{name}", text, labels=[label])
    for key, value in values.items():
        if value is not None:
            family.add_metric([key], value)
    return family
