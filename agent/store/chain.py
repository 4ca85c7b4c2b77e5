"""The hash chain of a run's decisions: two runs with the same head took the same decisions on the same events, in order."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from agent.events import Decision

DIGEST_SIZE = 16
"""Bytes of a digest."""


class DecisionChain:
    """Digest n = blake2b-128(digest n-1 | number of the event, 8 bytes big-endian | decision n as msgpack); digest 0 is zeros.

    msgpack writes a struct's fields in their order, a float as its 64 bits and a Decimal as its exact text, so the encoding
    is the same on every machine.
    """

    __slots__ = ("_encode", "count", "digest")

    def __init__(self) -> None:
        self.digest = bytes(DIGEST_SIZE)
        self.count = 0
        self._encode = msgspec.msgpack.Encoder(order="deterministic").encode

    def add(self, decision: Decision, event_seq: int) -> bytes:
        """Chain one more decision, taken on event number `event_seq`; returns its digest."""
        self.digest = blake2b(
            self.digest + event_seq.to_bytes(8, "big") + self._encode(decision), digest_size=DIGEST_SIZE
        ).digest()
        self.count += 1
        return self.digest

    @property
    def head(self) -> str:
        """The last digest, in hex."""
        return self.digest.hex()
