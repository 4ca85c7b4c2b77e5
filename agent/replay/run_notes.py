"""Sentences on what a replay counted: headlines without a vote, and orders that were refused or rejected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent.core.risk import WARM_UP
from agent.core.settings import RiskConfig

_HEADLINES: Final = {
    "voted": "were votes for a signal",
    "unsure": "were scored below signals.threshold",
    "unmapped": "named no traded symbol",
    "duplicate": "repeated a story that had voted",
    "abstained": "were left unscored by the model, which abstained",
    "stale": "were too old to trade on",
    "dropped": "were never scored: too many waited",
    "barred": "were of a kind of news that may not vote (signals.kinds)",
    "revised": "were revised by the slower model, which changed a vote",
    "withdrawn": "lost their vote by the revision",
    "kept": "kept their vote, because the revising model abstained",
    "ineffective": "were revised without a change: they had no vote and got none",
    "late": "were revised after their vote had left signals.window",
    "unknown": "were scored, but are not among the news, or no longer wait for a score",
    "invalid": "had invalid probabilities for an asset, and did not vote on it",
}
"""Name of a headline count in the signal engine -> its description."""

_SINGULAR: Final = (
    ("were votes", "was a vote"),
    ("were ", "was "),
    ("their vote", "its vote"),
    ("they had", "it had"),
    (" wait ", " waits "),
)

_LIMITS: Final = {
    "max_order": "each was worth more than risk.max_order = {0.max_order:g} times the equity: use smaller "
    "weights, or raise it",
    "max_position": "they would have made a position larger than risk.max_position = {0.max_position:g} "
    "times the equity: use smaller weights, or raise it",
    "max_leverage": "they would have made all positions larger than risk.max_leverage = {0.max_leverage:g} "
    "times the equity: use smaller weights, or raise it",
    "max_orders_per_minute": "more than risk.max_orders_per_minute = {0.max_orders_per_minute} in a minute: "
    "trade less often, or raise it",
    "stale_after": "the next bar was late by risk.stale_after: fill the gap in the klines, or raise it",
    "equity": "there was no equity left",
}
"""Rule of a refusal -> what it means and what to change."""


def headline_note(name: str, count: int) -> str:
    """Describe a count of the signal engine, such as `1,204 headlines named no traded symbol`."""
    if name not in _HEADLINES:
        return f"{name}: {count:,}"
    words = _HEADLINES[name]
    if count == 1:
        for plural, singular in _SINGULAR:
            words = words.replace(plural, singular)
        return f"1 headline {words}"
    return f"{count:,} headlines {words}"


def rejection_notes(rejections: Mapping[str, int]) -> list[str]:
    """Describe orders that broke a rule of the instrument or the account, by what was wrong."""
    return [f"{_orders(count)} rejected: {what}" for what, count in sorted(rejections.items())]


def refusal_notes(refusals: Mapping[str, int], risk: RiskConfig, *, whose: str = "") -> list[str]:
    """Describe orders that a risk limit refused, and what to change; `whose` names the limits' owner."""
    notes = []
    for rule, count in sorted(refusals.items()):
        if rule == WARM_UP:
            notes.append(f"{count:,} {_plural('target', count)} during the warm-up {_was(count)} not traded")
            continue
        meaning = _LIMITS.get(rule, "").format(risk)
        if count == 1:
            meaning = meaning.replace("they would", "it would").replace("each was", "it was")
        if rule.startswith("state "):
            meaning = "no position is opened in this state; the limit that led to it is in [risk]"
        why = f" ({meaning})" if meaning else ""
        notes.append(f"{_orders(count)} refused{whose}: {rule}{why}")
    return notes


def _orders(count: int) -> str:
    return f"{count:,} {_plural('order', count)}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _was(count: int) -> str:
    return "was" if count == 1 else "were"
