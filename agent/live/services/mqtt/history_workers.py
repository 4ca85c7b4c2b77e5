"""Scores a history by the running sentiment workers, over MQTT.

Headlines go to the shared subscription of the workers that have the model, a bounded number at once for each
of them. If a worker goes offline, or nothing arrives for a while, all headlines without a score are sent
again; a score counts once.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from agent.config.services import MqttConfig
from agent.core.errors import ModelError, UsageError, VenueError
from agent.live.services.mqtt.connection import MqttLink, RetainedPresence
from agent.live.services.mqtt.mqtt_messages import (
    OF_HISTORY,
    Headline,
    HeadlineScore,
    HistoryPresence,
    Scores,
    Topics,
    WorkerPresence,
)
from agent.live.services.mqtt.worker_pool import is_valid
from agent.system.clock import Clock, WallClock
from agent.system.untrusted import JSON_DECODE_ERRORS
from models.sentiment.serve.headline_score import AssetScore
from models.sentiment.serve.headline_score import HeadlineScore as Score
from models.sentiment.serve.score_cache import CachedScore

_FIND: Final = 5.0
"""Seconds in which a worker must appear."""
_SILENCE: Final = 30.0
"""Seconds without a score after which the headlines are sent again, and then given up."""


class WorkerScoring:
    """Scores blocks of texts by the workers that have the model `fingerprint` and find assets by `names`.

    `inflight` headlines are sent to each worker at once. `resent` counts headlines that were sent again,
    `refused` messages and scores that are invalid. It is a `ScoreBlocks` of `score_history`, to be used once.

    Raises VenueError without a broker, UsageError without a worker or with one that has other names,
    ModelError if the workers stop responding.
    """

    def __init__(
        self,
        config: MqttConfig,
        fingerprint: str,
        names: str,
        *,
        inflight: int,
        find: float = _FIND,
        silence: float = _SILENCE,
        clock: Clock | None = None,
    ) -> None:
        self.resent = 0
        self.refused = 0
        self.by_worker: Counter[str] = Counter()
        """Scores that count, by worker."""
        self._config = config
        self._fingerprint = fingerprint
        self._names = names
        self._inflight = inflight
        self._find, self._silence = find, silence
        self._clock = clock or WallClock()
        self._topics = Topics(config.prefix)
        self._call = secrets.token_hex(6)
        self._workers: set[str] = set()
        self._unsent: deque[str] = deque()
        self._sent: dict[str, None] = {}
        self._titles: dict[str, str] = {}
        self._scores: dict[str, CachedScore] = {}
        self._left: list[int] = []  # texts without a score, by block
        self._ready: deque[int] = deque()
        self._error: UsageError | None = None
        self._changed: Callable[[], None] = lambda: None

    def __call__(self, blocks: Sequence[Sequence[str]]) -> Iterator[tuple[Sequence[str], list[CachedScore]]]:
        keys = [
            [f"{OF_HISTORY}{self._call}-{number}-{place}" for place in range(len(block))]
            for number, block in enumerate(blocks)
        ]
        for own, block in zip(keys, blocks, strict=True):
            self._titles |= zip(own, block, strict=True)
            self._unsent += own
            self._left.append(len(own))
        with asyncio.Runner() as runner:
            link = self._link()
            task = runner.get_loop().create_task(link.run(_discard))
            try:
                runner.run(self._find_workers(link))
                for _ in blocks:
                    number = runner.run(self._next_block(link))
                    yield blocks[number], [self._scores.pop(key) for key in keys[number]]
            finally:
                runner.run(_end(task))

    def _link(self) -> MqttLink:
        presence = RetainedPresence(
            self._topics.history,
            HistoryPresence(state="online", model=self._fingerprint),
            HistoryPresence(state="offline", model=self._fingerprint),
        )
        link = MqttLink(
            self._config, self._clock, f"{self._config.prefix}-history-{self._call}", lambda: presence
        )
        link.subscribe(self._topics.workers, self._on_presence)
        link.subscribe(self._topics.scores, self._on_scores)
        return link

    # -- waiting ---------------------------------------------------------------------------------------

    async def _find_workers(self, link: MqttLink) -> None:
        changed = self._watch()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.timeout / 1000 + self._find):
                while not link.health.connects:
                    await asyncio.sleep(0.01)
        if not link.health.connects:
            raise VenueError(
                f"{self._config.broker} can't be reached: {link.health.last_error or 'no response'}"
            )
        with suppress(TimeoutError):
            async with asyncio.timeout(self._find):
                while not self._workers:
                    changed.clear()
                    await changed.wait()
        if not self._workers:
            raise UsageError(
                f"no worker at {self._config.broker} has the model {self._fingerprint[:12]}…",
                hint="start one: tapewire worker sentiment; or leave --mqtt-workers out",
            )

    async def _next_block(self, link: MqttLink) -> int:
        """Wait for the next block of which every text has a score; return its number."""
        changed, silent = self._watch(), 0
        while not self._ready:
            changed.clear()
            self._send(link)
            try:
                async with asyncio.timeout(self._silence):
                    await changed.wait()
                silent = 0
            except TimeoutError:
                silent += 1
                if silent > 1 or not self._workers:
                    why = "don't respond" if self._workers else "are gone"
                    hint = "the scores so far are kept: run the command again"
                    raise ModelError(f"the workers at {self._config.broker} {why}", hint=hint) from None
                self._send_again()
            if self._error is not None:
                raise self._error
        return self._ready.popleft()

    def _watch(self) -> asyncio.Event:
        changed = asyncio.Event()  # of the loop that runs now
        self._changed = changed.set
        return changed

    # -- headlines -------------------------------------------------------------------------------------

    def _send(self, link: MqttLink) -> None:
        topic = self._topics.headlines(self._fingerprint)
        most = min(self._inflight * len(self._workers), self._config.outbox)
        while self._unsent and len(self._sent) < most:
            key = self._unsent.popleft()
            self._sent[key] = None
            link.outbox.put(topic, Headline(key, self._titles[key]))

    def _send_again(self) -> None:
        """Queue all sent headlines again: it is unknown which of them a lost worker had."""
        self.resent += len(self._sent)
        self._unsent.extendleft(reversed(self._sent))
        self._sent.clear()

    # -- from the broker -------------------------------------------------------------------------------

    def _on_presence(self, payload: bytes, retained: bool) -> None:
        try:
            presence = msgspec.json.decode(payload, type=WorkerPresence)
        except JSON_DECODE_ERRORS:
            self.refused += 1
            return
        if presence.state == "online" and presence.model == self._fingerprint:
            self._workers.add(presence.worker)
        elif presence.worker in self._workers:
            self._workers.discard(presence.worker)
            self._send_again()
        self._changed()

    def _on_scores(self, payload: bytes, retained: bool) -> None:
        try:
            message = msgspec.json.decode(payload, type=Scores)
        except JSON_DECODE_ERRORS:
            self.refused += 1
            return
        for score in message.scores:
            if score.id not in self._titles:  # of the agent, or of an earlier sending
                continue
            if message.model != self._fingerprint or not is_valid(score):
                self.refused += 1
            elif message.names != self._names:
                self._error = UsageError(
                    f"worker {message.worker} finds assets by other names",
                    hint="start it with the market.symbols and instruments of this command",
                )
            else:
                self._take(score, message.worker)
        self._changed()

    def _take(self, score: HeadlineScore, worker: str) -> None:
        key = score.id
        del self._titles[key]
        if key in self._sent:
            del self._sent[key]
        else:  # it was about to be sent again
            self._unsent.remove(key)
        self._scores[key] = _cached(score)
        self.by_worker[worker] += 1
        number = int(key.split("-")[2])
        self._left[number] -= 1
        if not self._left[number]:
            self._ready.append(number)


def _cached(score: HeadlineScore) -> CachedScore:
    assets = tuple(AssetScore(one.asset, one.bearish, one.neutral, one.bullish) for one in score.assets)
    provenance = None if score.provenance is None else score.provenance.provenance
    return CachedScore(
        Score(
            score.bearish,
            score.neutral,
            score.bullish,
            score.abstained,
            score.reason,
            assets,
            score.kind,
            score.kind_confidence,
            score.unknown,
            provenance,
        )
    )


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _discard(_: object) -> None:
    """Do nothing: no event is emitted."""
