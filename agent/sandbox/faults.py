"""What goes wrong on purpose, and how often: a table of faults, each with its own dice, so that a run can be repeated."""

from __future__ import annotations

import difflib
import fnmatch
import random
from collections.abc import Iterable
from time import monotonic
from typing import Any, Final

import msgspec

from agent.core.errors import UsageError

KINDS: Final = {
    "drop": "a WebSocket message never arrives",
    "delay": "an answer or a message comes `ms` later, and all behind it on its connection",
    "duplicate": "a WebSocket message arrives twice",
    "reorder": "a WebSocket message arrives after the one behind it",
    "corrupt": "some bytes are others",
    "truncate": "only the first half arrives",
    "close": "the connection is cut; of a REST request, without an answer",
    "stall": "for `ms` nothing arrives, not even pongs, though the connection stays open",
    "status": "HTTP `code` instead of an answer, and of a WebSocket handshake (403, 429, 500 …)",
    "retcode": "retCode `code` (10006, 10002, 10016, 10000 …); nothing was done",
    "lost": "retCode `code` (10000), although the request was carried out",
    "timeout": "no answer for `ms`, then the connection is cut; nothing was done",
    "gap": "no message of a bar, not even its close; with `rest` history doesn't have it either",
    "lag": "a list of orders or executions does not know of those of the last `ms`",
    "skew": "the venue's clock is `ms` ahead (negative: behind) of its market",
}
"""Every kind, and what it does."""

_GARBAGE: Final = b"\x00\x01\x02"  # no JSON and no XML may hold these, in a string or out of it
_DEFAULT_CODE: Final = {"status": 503, "retcode": 10016, "lost": 10000}


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing to go wrong.

    `on` is a pattern (as of file names) of what it hits: `rest/v5/order/create`, `ws/public/kline.1.BTCUSDT`, `ws/private/order`,
    `ws/trade/order.create`, `ws/public/connect`, `ws/public/pong`, `feeds/all.rss`, `market/BTCUSDT`; lags hit `rest/v5/order/list`
    and `rest/v5/execution/list`. `p` is the probability of each hit, `after` lets the first ones pass, `count` ends it after so many.
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
    def answer(self) -> int:
        """The HTTP status or retCode that is answered."""
        return self.code or _DEFAULT_CODE.get(self.kind, 0)


def parse_fault(text: str) -> Fault:
    """A fault as the command line states it: `drop,on=ws/public/kline*,p=0.1,count=3`. Raises UsageError."""
    kind, *rest = text.split(",")
    pairs = dict(item.partition("=")[::2] for item in rest)
    return fault_from({"kind": kind, **pairs})


def fault_from(raw: dict[str, Any]) -> Fault:
    """A fault from its fields, numbers as texts or numbers. Raises UsageError naming the field."""
    kind = raw.get("kind", "")
    if kind not in KINDS:
        close = difflib.get_close_matches(str(kind), KINDS, n=1)
        raise UsageError(
            f"no kind of fault {kind!r}",
            hint=f"did you mean {close[0]}?" if close else f"kinds are {', '.join(KINDS)}",
        )
    try:
        fault = msgspec.convert(raw, Fault, strict=False)
    except msgspec.ValidationError as error:
        fields = ", ".join(Fault.__struct_fields__)
        raise UsageError(f"fault {kind}: {error}", hint=f"fields are {fields}") from None
    if not 0 <= fault.p <= 1:
        raise UsageError(f"fault {kind}: p is a probability, not {fault.p}")
    return fault


class _Armed:
    """A fault and what became of it."""

    def __init__(self, fault: Fault, dice: random.Random) -> None:
        self.fault = fault
        self.dice = dice
        self.seen = 0
        self.hits = 0
        self.until = 0.0  # of a stall: monotonic seconds

    def strikes(self, target: str) -> bool:
        fault = self.fault
        if not fnmatch.fnmatchcase(target, fault.on):
            return False
        if self.until > monotonic():
            return True
        self.seen += 1
        if (
            self.seen <= fault.after
            or (fault.count is not None and self.hits >= fault.count)
            or self.dice.random() >= fault.p
        ):
            return False
        self.hits += 1
        if fault.kind == "stall":
            self.until = monotonic() + fault.ms / 1000
        return True


class Faults:
    """The faults in force. `seed` and a fault's number make its dice."""

    def __init__(self, seed: int, faults: Iterable[Fault] = ()) -> None:
        self._seed = seed
        self._numbered = 0
        self._armed: list[_Armed] = []
        self.add(faults)

    def add(self, faults: Iterable[Fault]) -> None:
        """Put more in force."""
        for fault in faults:
            self._armed.append(_Armed(fault, random.Random(f"{self._seed}/{self._numbered}")))
            self._numbered += 1

    def clear(self) -> None:
        """All is well again."""
        self._armed.clear()

    def strike(self, target: str, *kinds: str) -> list[Fault]:
        """Which faults of these kinds hit `target` this time."""
        return [armed.fault for armed in self._armed if armed.fault.kind in kinds and armed.strikes(target)]

    def skew(self) -> int:
        """How far the venue's clock is off, in ms."""
        return sum(armed.fault.ms for armed in self._armed if armed.fault.kind == "skew")

    def state(self) -> list[dict[str, Any]]:
        """Each fault with how often it could have hit, and did."""
        return [{**msgspec.structs.asdict(a.fault), "seen": a.seen, "hits": a.hits} for a in self._armed]


def spoil(payload: bytes, faults: Iterable[Fault]) -> bytes:
    """The payload as `corrupt` and `truncate` leave it: never again what it was."""
    for fault in faults:
        if fault.kind == "truncate":
            payload = payload[: len(payload) // 2]
        elif fault.kind == "corrupt":
            middle = len(payload) // 2
            payload = payload[:middle] + _GARBAGE + payload[middle + len(_GARBAGE) :]
    return payload
