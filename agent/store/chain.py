"""Hash chains over a run's decisions and over the journal of inputs.

If two runs have the same final digest, they made the same decisions on the same events in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

import msgspec

from agent.core.events import Decision

DIGEST_SIZE = 16
"""Bytes of a digest."""

BLOCK: Final = 1_000
"""Number of journal events after which the journal's digest is stored."""
_MAP_16: Final = 0xDE  # first byte of a msgpack map with a 16-bit count
_FIXED_MAP: Final = 0x80  # first byte of a map with a 4-bit count, which is added
_FIXED_MAP_FIELDS: Final = 16


class DecisionChain:
    """Hash chain over the decisions of a run.

    Digest n = blake2b-128(digest n-1 | event number as 8 bytes big-endian | decision n as msgpack); digest 0
    is zeros. msgpack writes struct fields in order, without UNSET ones, floats as 64 bits and decimals as
    their exact text, so the encoding is the same on every machine. The map of the fields has the shortest
    header.
    """

    __slots__ = ("_encode", "count", "digest")

    def __init__(self) -> None:
        self.digest = bytes(DIGEST_SIZE)
        self.count = 0
        self._encode = msgspec.msgpack.Encoder(order="deterministic").encode

    def add(self, decision: Decision, event_seq: int) -> bytes:
        """Append a decision that was made on event number `event_seq`; return its digest."""
        payload = self._encode(decision)
        # A struct of 16 fields or more gets a 16-bit count of fields, even if some are UNSET. Fields that an
        # order lacks must not change its digest
        if payload[0] == _MAP_16 and payload[1] == 0 and payload[2] < _FIXED_MAP_FIELDS:
            payload = bytes((_FIXED_MAP | payload[2],)) + payload[3:]
        self.digest = blake2b(
            self.digest + event_seq.to_bytes(8, "big") + payload, digest_size=DIGEST_SIZE
        ).digest()
        self.count += 1
        return self.digest

    @property
    def head(self) -> str:
        """The last digest, in hex."""
        return self.digest.hex()


class JournalDigest:
    """Digest of a journal up to event `seq`. It does not depend on how the events were grouped into commits.

    Digest n = blake2b-128(digest b | payloads of the events b+1 … n), where b is the last multiple of `BLOCK`
    below n; digest 0 is zeros.
    """

    __slots__ = ("_base", "_hash", "seq")

    def __init__(self, seq: int = 0, digest: bytes = bytes(DIGEST_SIZE)) -> None:
        """Continue from the digest of event `seq`, which must be a multiple of `BLOCK`."""
        self.seq = seq
        self._base = digest
        self._hash = blake2b(digest, digest_size=DIGEST_SIZE)

    def add(self, payload: bytes) -> None:
        """Append the payload of the next event."""
        self.extend((payload,))

    def extend(self, payloads: Sequence[bytes]) -> list[tuple[int, bytes]]:
        """Append the payloads of the next events; return the number and digest of each block that ends.

        Raises TypeError if a payload is not bytes; the digest is then of no use.
        """
        ended = []
        start = 0
        while start < len(payloads):
            part = payloads[start : start + BLOCK - self.seq % BLOCK]
            self._hash.update(b"".join(part))  # one long update takes less time than many short ones
            start += len(part)
            self.seq += len(part)
            if self.seq % BLOCK == 0:
                self._base = self._hash.digest()
                self._hash = blake2b(self._base, digest_size=DIGEST_SIZE)
                ended.append((self.seq, self._base))
        return ended

    @property
    def digest(self) -> bytes:
        """The digest of all events added so far."""
        return self._base if self.seq % BLOCK == 0 else self._hash.digest()

    def copy(self) -> JournalDigest:
        """Return an independent copy."""
        other = JournalDigest(self.seq, self._base)
        other._hash = self._hash.copy()
        return other
