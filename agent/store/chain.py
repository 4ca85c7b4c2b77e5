"""Hash chains of a run: of its decisions, and of the journal that they were taken on.

Two runs with the same head took the same decisions on the same events, in order.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec

from agent.core.events import Decision

DIGEST_SIZE = 16
"""Bytes of a digest."""

BLOCK: Final = 1_000
"""Events of the journal after which its digest is stored."""


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


class JournalDigest:
    """The digest of a journal up to event `seq`, which does not depend on how the events were committed.

    Digest n = blake2b-128(digest b | payloads of the events b+1 … n), where b is the last multiple of `BLOCK` below n; digest 0
    is zeros.
    """

    __slots__ = ("_base", "_hash", "seq")

    def __init__(self, seq: int = 0, digest: bytes = bytes(DIGEST_SIZE)) -> None:
        """Go on from the digest of event `seq`, a multiple of `BLOCK`."""
        self.seq = seq
        self._base = digest
        self._hash = blake2b(digest, digest_size=DIGEST_SIZE)

    def add(self, payload: bytes) -> None:
        """Take in the next event."""
        self._hash.update(payload)
        self.seq += 1
        if self.seq % BLOCK == 0:
            self._base = self._hash.digest()
            self._hash = blake2b(self._base, digest_size=DIGEST_SIZE)

    @property
    def digest(self) -> bytes:
        """The digest of the events so far."""
        return self._base if self.seq % BLOCK == 0 else self._hash.digest()

    def copy(self) -> JournalDigest:
        """Return a digest that goes on apart from this one."""
        other = JournalDigest(self.seq, self._base)
        other._hash = self._hash.copy()
        return other
