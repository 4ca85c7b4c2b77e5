"""The sink that `verify` uses: it compares the decisions of a replay with the recorded ones."""

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
    """The first decision that differs between the recorded run and its replay."""

    seq: int  # number of the decision
    event_seq: int  # number of the event on which it was made
    recorded: Decision | None  # None: the replay made an additional decision
    again: Decision | None  # the replayed decision; None: the replay did not make it


class ComparisonSink:
    """A `DecisionSink` that compares each decision with the recorded one, which it streams from the store.

    Set `event_seq` before the engine handles an event, as with the recorder. Call `diverged` after each event
    and `finish` at the end. If the run did not complete, its decisions are compared up to its last commit.
    All methods may raise StoreError.
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
        """Number of decisions that the replay has made, up to the first difference."""
        return self._chain.count

    def seek(self, digest: bytes, decisions: int) -> None:
        """Continue after the first `decisions` decisions, whose chain has the head `digest`."""
        self._chain.digest, self._chain.count = digest, decisions
        self.divergence = None
        self._recorded = read_decisions(self._database, self._run.id, decisions + 1)
        self._expected = next(self._recorded, None)

    @property
    def digest(self) -> bytes:
        """Head of the chain of the replayed decisions."""
        return self._chain.digest

    def decision(self, decision: Decision) -> None:
        """Compare the digest and the row with the next recorded decision: either may have been altered."""
        expected = self._expected
        if self.divergence or (expected and expected.event_seq < self.event_seq and self.diverged()):
            return
        digest = self._chain.add(decision, self.event_seq)
        if expected is None and self._run.status is not RunStatus.COMPLETE:
            return
        if expected and expected.digest == digest and _same(expected.decision, decision):
            self._expected = next(self._recorded, None)
        else:
            here = expected is not None and expected.event_seq <= self.event_seq
            recorded = expected.decision if expected and here else None
            self.divergence = Divergence(self._chain.count, self.event_seq, recorded, decision)

    def diverged(self) -> bool:
        """Return whether a decision up to the current event differs, is missing, or is additional."""
        expected = self._expected
        if self.divergence is None and expected and expected.event_seq <= self.event_seq:
            self.divergence = Divergence(expected.seq, expected.event_seq, expected.decision, None)
        return self.divergence is not None

    def finish(self) -> Divergence | None:
        """Return the first divergence of the whole run, or None if the replay is identical.

        Raises StoreError if all decisions are the same, but the number of events or the chain head differs
        from the run's row.
        """
        if self.divergence is None and self._expected:
            expected = self._expected
            self.divergence = Divergence(expected.seq, expected.event_seq, expected.decision, None)
        if self.divergence is None and self._run.status is RunStatus.COMPLETE:
            stated, found = (self._run.events, self._run.chain_head), (self.event_seq, self._chain.head)
            if stated != found:
                raise StoreError(
                    f"run {self._run.id} states {stated[0]} events and chain head {stated[1]}, "
                    f"but the replay has {found[0]} events and chain head {found[1]}",
                    hint="its journal, its input files or its row in `runs` have been changed since",
                )
        return self.divergence

    def equity(
        self, ts: Sequence[int], equity: Sequence[float], cash: Sequence[float], exposure: Sequence[float]
    ) -> None:
        """Ignore the samples: they follow from the decisions."""

    def sleeve_equity(
        self,
        sleeve: str,
        ts: Sequence[int],
        equity: Sequence[float],
        cash: Sequence[float],
        exposure: Sequence[float],
    ) -> None:
        """Ignore the samples: they follow from the decisions."""

    def news(self, news: News, symbols: tuple[str, ...], story: str) -> None:
        """Ignore an input."""

    def sentiment(self, sentiment: Sentiment) -> None:
        """Ignore an input."""


def _same(one: Decision, other: Decision) -> bool:
    """Compare two decisions; NaN equals NaN."""
    return one == other or msgspec.msgpack.encode(one) == msgspec.msgpack.encode(other)
