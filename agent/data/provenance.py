"""Provenance of a language model's answer as a JSON object: in the store, in files of scores, over MQTT."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec.structs import asdict

from agent.core.events import Provenance
from agent.data.text import one_line, storable

MAX_REASON: Final = 500
"""Most characters of a reason that are shown."""
MAX_ANSWERS: Final = 64
MAX_TEXT: Final = 10_000
"""Most answers of a provenance, and characters of each of its texts, that are accepted from elsewhere."""


class ProvenanceObject(msgspec.Struct, frozen=True):
    """`Provenance` with names, which JSON of other programs keeps when fields are added."""

    model: str
    prompt: str = ""
    seed: int = 0
    answers: tuple[str, ...] = ()
    fallback: str = ""
    reason: str = ""

    @classmethod
    def of(cls, provenance: Provenance) -> ProvenanceObject:
        """Convert. NUL and lone surrogates, which databases refuse, become U+FFFD."""
        own = asdict(provenance)
        texts = {name: storable(own[name]) for name in ("model", "prompt", "fallback", "reason")}
        return cls(seed=own["seed"], answers=tuple(map(storable, own["answers"])), **texts)

    @property
    def is_bounded(self) -> bool:
        """True if number and length of the texts are what a scorer keeps to."""
        texts = (self.model, self.prompt, self.fallback, self.reason, *self.answers)
        return len(self.answers) <= MAX_ANSWERS and all(len(text) <= MAX_TEXT for text in texts)

    @property
    def provenance(self) -> Provenance:
        """As events have it."""
        return Provenance(**asdict(self))


def to_object(provenance: Provenance | None) -> dict[str, Any] | None:
    """Return the provenance as a JSON object."""
    return None if provenance is None else asdict(ProvenanceObject.of(provenance))


def from_object(value: Any) -> Provenance | None:
    """Convert a decoded JSON object. Raises msgspec.ValidationError unless it is one of a provenance."""
    return None if value is None else msgspec.convert(value, ProvenanceObject).provenance


def shown_reason(provenance: Provenance | None) -> str:
    """Return the model's reason as one printable line; empty without one."""
    return one_line(provenance.reason, MAX_REASON) if provenance is not None else ""
