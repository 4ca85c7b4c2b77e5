"""Is a run, decided again, what was recorded? The sink of `verify`: it compares instead of recording."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agent.core.errors import StoreError
from agent.core.events import Decision, News, Sentiment
from agent.store.chain import DecisionChain
from agent.store.database import Database
from agent.store.queries import read_decisions
from agent.store.runs import Run, RunStatus


class Divergence(msgspec.Struct, frozen=True):
    """The first decision that differs: its number, the number of its event, and both versions (None: there was none)."""

    seq: int
    event_seq: int
    recorded: Decision | None
    again: Decision | None


class Comparison:
    """A `DecisionSink` that holds every decision against the recorded one; it keeps one of those in memory at a time.

    As with the recorder, set `event_seq` before the engine handles an event; ask `diverged` after it, and `finish` at the end.
    Of a run that did not complete, the decisions up to its last commit are compared. All may raise StoreError.
    """

    def __init__(self, database: Database, run: Run) -> None:
        self.event_seq = 0
        self.divergence: Divergence | None = None
        self._run = run
        self._database = database
        self._chain = DecisionChain()
        self._recorded = read_decisions(database, run.id)
        self._expected = next(self._recorded, None)

    @property
    def decisions(self) -> int:
        """How many were taken again."""
        return self._chain.count

    def go_on(self, digest: bytes, decisions: int) -> None:
        """As if the first `decisions` had been compared, up to the chain's head `digest`."""
        self._chain.digest, self._chain.count = digest, decisions
        self.divergence = None
        self._recorded = read_decisions(self._database, self._run.id, decisions + 1)
        self._expected = next(self._recorded, None)

    @property
    def digest(self) -> bytes:
        """The head of the chain of what was taken again."""
        return self._chain.digest

    def decision(self, decision: Decision) -> None:
        """Compared with the next that was recorded: by its digest, and by its row, which someone may have altered."""
        digest = self._chain.add(decision, self.event_seq)
        expected = self._expected
        if self.divergence or (expected is None and self._run.status is not RunStatus.COMPLETE):
            return
        if expected and expected.digest == digest and _same(expected.decision, decision):
            self._expected = next(self._recorded, None)
        else:
            here = expected is not None and expected.event_seq <= self.event_seq
            recorded = expected.decision if expected and here else None
            self.divergence = Divergence(self._chain.count, self.event_seq, recorded, decision)

    def diverged(self) -> bool:
        """After an event: whether a decision on it, or before it, was another one, is new, or is missing."""
        expected = self._expected
        if self.divergence is None and expected and expected.event_seq <= self.event_seq:
            self.divergence = Divergence(expected.seq, expected.event_seq, expected.decision, None)
        return self.divergence is not None

    def finish(self) -> Divergence | None:
        """The first divergence of the whole run, None where it is identical.

        Raises StoreError where all decisions are the same, but not the number of events or the head that the run's row states.
        """
        if self.divergence is None and self._expected:
            expected = self._expected
            self.divergence = Divergence(expected.seq, expected.event_seq, expected.decision, None)
        if self.divergence is None and self._run.status is RunStatus.COMPLETE:
            stated, found = (self._run.events, self._run.chain_head), (self.event_seq, self._chain.head)
            if stated != found:
                raise StoreError(
                    f"run {self._run.id} states {stated[0]} events and chain head {stated[1]}, "
                    f"but {found[0]} events were replayed, to {found[1]}",
                    hint="its journal, its input files or its row in `runs` were changed since",
                )
        return self.divergence

    def equity(
        self, ts: Sequence[int], equity: Sequence[float], cash: Sequence[float], exposure: Sequence[float]
    ) -> None:
        """Follows from the decisions: not compared."""

    def news(self, news: News, symbols: tuple[str, ...], story: str) -> None:
        """An input: not compared."""

    def sentiment(self, sentiment: Sentiment) -> None:
        """An input: not compared."""


def _same(one: Decision, other: Decision) -> bool:
    """Equal, where NaN equals NaN."""
    return one == other or msgspec.msgpack.encode(one) == msgspec.msgpack.encode(other)
