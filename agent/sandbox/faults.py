"""Fault injection: what fails and how often. Each fault has its own seeded random generator."""

from __future__ import annotations

import fnmatch
import random
from collections.abc import Iterable
from time import monotonic
from typing import Any, Final

import msgspec

from agent.core.errors import UsageError, did_you_mean

KINDS: Final = {
    "drop": "a WebSocket message never arrives",
    "delay": "a response or message is delayed by `ms`, and so is everything after it on the connection",
    "duplicate": "a WebSocket message arrives twice",
    "reorder": "a WebSocket message arrives after the one that follows it",
    "corrupt": "some bytes are replaced",
    "truncate": "only the first half of the bytes arrives",
    "close": "the connection is closed; a REST request gets no response",
    "stall": "nothing arrives for `ms`, not even pongs, but the connection stays open",
    "status": "HTTP status `code` instead of the response or WebSocket handshake (403, 429, 500 …)",
    "retcode": "retCode `code` (10006, 10002, 10016, 10000 …); the request is not carried out",
    "lost": "retCode `code` (10000), although the request is carried out",
    "timeout": "no response for `ms`, then the connection is closed; the request is not carried out",
    "gap": "no message of a bar is sent, not even its close; with `rest`, REST history lacks the bar too",
    "lag": "lists of orders or executions lack those of the last `ms`",
    "skew": "the venue's clock is `ms` ahead (negative: behind) of its market",
}
"""Kind of fault -> description."""

_GARBAGE: Final = b"\x00\x01\x02"  # invalid anywhere in JSON and XML
_DEFAULT_CODE: Final = {"status": 503, "retcode": 10016, "lost": 10000}


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rule of fault injection.

    `on` is a glob pattern for the targets: `rest/v5/order/create`, `ws/public/kline.1.BTCUSDT`,
    `ws/private/order`, `ws/trade/order.create`, `ws/public/connect`, `ws/public/pong`, `feeds/all.rss` or
    `market/BTCUSDT`. A lag applies to `rest/v5/order/list` and `rest/v5/execution/list`. `p` is the
    probability per matching event, `after` is the number of matching events to skip first, and `count` is the
    maximum number of hits.
    """

    kind: str
    on: str = "*"
    p: float = 1.0
    count: int | None = None
    after: int = 0
    ms: int = 1_000
    code: int = 0
    rest: bool = False

    @property
    def response_code(self) -> int:
        """HTTP status or retCode of the response."""
        return self.code or _DEFAULT_CODE.get(self.kind, 0)


def parse_fault(text: str) -> Fault:
    """Parse a fault from the command line: `drop,on=ws/public/kline*,p=0.1,count=3`. Raises UsageError."""
    kind, *rest = text.split(",")
    pairs = dict(item.partition("=")[::2] for item in rest)
    return fault_from({"kind": kind, **pairs})


def fault_from(raw: dict[str, Any]) -> Fault:
    """Build a fault from its fields; numbers may be strings. Raises UsageError that names the wrong field."""
    kind = raw.get("kind", "")
    if kind not in KINDS:
        hint = did_you_mean(str(kind), KINDS) or f"kinds are {', '.join(KINDS)}"
        raise UsageError(f"unknown kind of fault {kind!r}", hint=hint)
    try:
        fault = msgspec.convert(raw, Fault, strict=False)
    except msgspec.ValidationError as error:
        fields = ", ".join(Fault.__struct_fields__)
        raise UsageError(f"fault {kind}: {error}", hint=f"fields are {fields}") from None
    if not 0 <= fault.p <= 1:
        raise UsageError(f"fault {kind}: p must be from 0 to 1, not {fault.p}")
    return fault


class _ActiveFault:
    """A fault with its counters and random generator."""

    def __init__(self, fault: Fault, rng: random.Random) -> None:
        self.fault = fault
        self.rng = rng
        self.seen = 0
        self.hits = 0
        self.until = 0.0  # end of a stall, in monotonic seconds

    def drawn(self, target: str) -> bool:
        fault = self.fault
        if not fnmatch.fnmatchcase(target, fault.on):
            return False
        if self.until > monotonic():
            return True
        self.seen += 1
        if (
            self.seen <= fault.after
            or (fault.count is not None and self.hits >= fault.count)
            or self.rng.random() >= fault.p
        ):
            return False
        self.hits += 1
        if fault.kind == "stall":
            self.until = monotonic() + fault.ms / 1000
        return True


class FaultInjector:
    """The active faults. Each fault has a random generator seeded with `seed` and the fault's number."""

    def __init__(self, seed: int, faults: Iterable[Fault] = ()) -> None:
        self._seed = seed
        self._numbered = 0
        self._active: list[_ActiveFault] = []
        self.add(faults)

    def add(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            self._active.append(_ActiveFault(fault, random.Random(f"{self._seed}/{self._numbered}")))
            self._numbered += 1

    def clear(self) -> None:
        self._active.clear()

    def draw(self, target: str, *kinds: str) -> list[Fault]:
        """Draw the faults of these kinds that hit `target` this time."""
        return [
            active.fault for active in self._active if active.fault.kind in kinds and active.drawn(target)
        ]

    def skew(self) -> int:
        """Return the offset of the venue's clock in ms."""
        return sum(active.fault.ms for active in self._active if active.fault.kind == "skew")

    def state(self) -> list[dict[str, Any]]:
        """Return each fault with its number of matching events (`seen`) and hits."""
        return [{**msgspec.structs.asdict(a.fault), "seen": a.seen, "hits": a.hits} for a in self._active]


def damage_payload(payload: bytes, faults: Iterable[Fault]) -> bytes:
    """Apply `corrupt` and `truncate` faults to a payload. The result always differs from the original."""
    for fault in faults:
        if fault.kind == "truncate":
            payload = payload[: len(payload) // 2]
        elif fault.kind == "corrupt":
            middle = len(payload) // 2
            payload = payload[:middle] + _GARBAGE + payload[middle + len(_GARBAGE) :]
    return payload
