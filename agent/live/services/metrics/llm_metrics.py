"""Prometheus metrics of language models at servers, from the counters of the sentiment model's health."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from agent.live.interfaces.status import Status


def llm_metrics(status: Status) -> Iterator[Metric]:
    """Yield the metrics; names begin with `tapewire_llm_`. Counts are since the model was opened."""
    models = [own for row in status.producers for own in row.get("llm", ())]
    if not models:
        return
    headlines = CounterMetricFamily(
        "tapewire_llm_headlines",
        "Headlines by outcome: answered, or why the fallback or nothing answered",
        labels=["model", "outcome", "cause"],
    )
    for own in models:
        headlines.add_metric([own["model"], "answered", ""], own["answered"])
        for outcome, counts in (("fallback", own["fallbacks"]), ("abstained", own["abstained"])):
            for cause, count in counts.items():
                headlines.add_metric([own["model"], outcome, cause], count)
    yield headlines
    for field, text in (
        ("requests", "Requests, with those that were repeated"),
        ("retried", "Requests that were repeated"),
        ("invalid", "Answers of another form"),
        ("tokens_in", "Tokens of prompts"),
        ("tokens_out", "Tokens of answers"),
        ("cost", "Cost by the prices of llm.budget"),
    ):
        family = CounterMetricFamily(f"tapewire_llm_{field}", text, labels=["model"])
        for own in models:
            family.add_metric([own["model"]], own[field])
        yield family
    down = GaugeMetricFamily("tapewire_llm_down", "1 while the server counts as down", labels=["model"])
    for own in models:
        down.add_metric([own["model"]], bool(own["down"]))
    yield down
