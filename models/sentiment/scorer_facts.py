"""What a replay and a running agent need to know of a scorer, whichever kind of model it is.

Nothing is imported here that opens a model. A scorer with `members` is an ensemble, one with `scorer` wraps
another, one with `spec` and `prompts` is a language model at a server.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Any

import msgspec


def trained_until(scorer: object) -> int | None:
    """Return the UTC ms after which the model knows nothing; None if that is unknown.

    That is the card's time for a local model, the end of the last day that it can know for a language model
    (and the end of its calibration's headlines), and the latest of its members' for an ensemble.
    """
    if (card := getattr(scorer, "card", None)) is not None:
        return int(card.trained_until)
    if hasattr(scorer, "trained_until"):
        return scorer.trained_until  # type: ignore[no-any-return]
    cutoff = getattr(scorer, "knowledge_cutoff", None)
    if cutoff is None:
        return None
    end = datetime.combine(cutoff + timedelta(days=1), time(), UTC)
    return max(int(end.timestamp()) * 1000, int(getattr(scorer, "calibrated_until", 0)))


def describe_language_models(scorer: object) -> str:
    """Return the language models behind a scorer with their knowledge cutoffs; empty without any."""
    named = []
    for one in language_models(scorer):
        cutoff = one.knowledge_cutoff
        named.append(f"{one.spec.model} (knowledge cutoff {cutoff or 'unknown'})")
    return ", ".join(dict.fromkeys(named))


def prompts_of(scorer: object) -> dict[str, str]:
    """Return by SHA-256 the prompts of the language models behind a scorer."""
    return {prompt.sha256: prompt.text for one in language_models(scorer) for prompt in one.prompts}


def llm_health_of(scorer: object) -> list[dict[str, Any]]:
    """Return the counters of the language models behind a scorer, each as a mapping (`LlmHealth`)."""
    return [msgspec.to_builtins(one.health) for one in language_models(scorer)]


def most_at_once(scorer: object) -> int | None:
    """Return how many texts the language models behind a scorer answer at once; None without any.

    A larger batch would make its headlines wait for each other longer than `llm.deadline`.
    """
    return min((one.config.concurrency for one in language_models(scorer)), default=None)


def side_by_side(scorer: object) -> int | None:
    """Return how many texts the models behind a scorer work on at the same time; None if more take no longer.

    A larger batch gains nothing, and the first of its headlines would wait for the last.
    """
    limits = [one for one in (most_at_once(scorer), *_local_limits(scorer)) if one is not None]
    return min(limits, default=None)


def _local_limits(scorer: object) -> Iterator[int | None]:
    yield getattr(scorer, "at_once", None)
    if (wrapped := getattr(scorer, "scorer", None)) is not None:
        yield from _local_limits(wrapped)
    for member in getattr(scorer, "members", ()):
        yield from _local_limits(member)


def close_scorer(scorer: object) -> None:
    """End the requests of a language model or an ensemble. A local model has nothing to close."""
    if (close := getattr(scorer, "close", None)) is not None:
        close()
    elif (wrapped := getattr(scorer, "scorer", None)) is not None:
        close_scorer(wrapped)


def notes_on_answers(scorer: object) -> list[str]:
    """Return what became of the headlines that language models were given since they were opened, and the
    notes of an ensemble on its members.
    """
    notes = []
    for one in language_models(scorer):
        health = one.health
        for verb, counts in (
            ("answered by the fallback", health.fallbacks),
            ("answered by none", health.abstained),
        ):
            if total := sum(counts.values()):
                causes = ", ".join(f"{cause} {count:,}" for cause, count in sorted(counts.items()))
                notes.append(f"{health.model}: {total:,} of {health.asked:,} headlines were {verb}: {causes}")
        notes += [f"{health.model}: {health.note}"] if health.note else []
    inner: Any = getattr(scorer, "scorer", scorer)
    return notes + (inner.notes() if hasattr(inner, "members") else [])


def language_models(scorer: object) -> Iterator[Any]:
    """Yield each `LlmScorer` behind a scorer, which may be one, wrap one, or have several as members."""
    if hasattr(scorer, "spec") and hasattr(scorer, "prompts"):
        yield scorer
    elif (wrapped := getattr(scorer, "scorer", None)) is not None:
        yield from language_models(wrapped)
    for member in getattr(scorer, "members", ()):
        yield from language_models(member)
