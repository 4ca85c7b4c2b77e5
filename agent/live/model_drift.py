"""Drift of the sentiment model while it runs: its scores, and the price moves after them.

`ModelDrift` observes the run, so a restart continues its window: the last headlines are compared with the
reference in the model's card (`models.sentiment.serve.drift`), and bullish and bearish calls with the price
moves after them (`agent.analysis.realised_moves`). Only first scores are judged, not those of a model that
revises them. Everything but the shares of unknown tokens, which only
the local model measures, is a function of the journal.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Final, Never, Protocol

import structlog

from agent.analysis.realised_moves import (
    ALL,
    DirectionalCall,
    HitRate,
    MoveTally,
    directional_call,
    patience_of,
)
from agent.config import Config
from agent.core.events import Command, Decision, Event, Kline, News, Sentiment
from agent.core.risk import MODEL_DRIFT
from agent.data.sentiment import Score
from agent.live.interfaces.status import ModelDriftStatus
from models.cards import ReferenceShares
from models.sentiment.serve.drift import LEAST_HEADLINES, NO_REFERENCE, Drift, SentimentWindow

SCORES: Final = "scores"
HIT_RATE: Final = "hit rate"
RAISED: Final = "raised"
CLEARED: Final = "cleared"
"""Values of the alarm's arguments `of` and `state`."""

_MOST_WAITING: Final = 10_000  # headlines without a sentiment, and calls that wait for one symbol's price
_POLL: Final = 1.0  # seconds between two checks for a due alarm
_log: Final = structlog.get_logger(__name__)


class ScoringModel(Protocol):
    """The model that scores now."""

    @property
    def fingerprint(self) -> str:
        """Empty before one is loaded."""
        ...

    @property
    def reference(self) -> ReferenceShares | None:
        """Of its card."""
        ...


class PriceFollower:
    """Follows the price of each symbol, and gives `tally` each call at its horizon.

    Prices count by their own time, so bars that are fetched after an outage are used as if they had come in
    time. Times are UTC ms.
    """

    def __init__(self, tally: MoveTally, horizon: int, patience: int) -> None:
        self._tally = tally
        self._horizon = horizon
        self._patience = patience  # age up to which a price counts as the last one
        self._prices: dict[str, tuple[int, float]] = {}
        self._waiting: dict[str, deque[tuple[DirectionalCall, int, float]]] = {}

    @property
    def pending(self) -> int:
        """Number of calls that wait for their horizon."""
        return sum(map(len, self._waiting.values()))

    def clear(self) -> None:
        """Forget the calls, but not the prices."""
        self._waiting.clear()

    def add(self, call: DirectionalCall) -> None:
        """Add a call; without a price in time it counts as unpriced."""
        at, price = self._prices.get(call.symbol, (0, 0.0))
        if call.at - at > self._patience:
            self._tally.unpriced += 1
            return
        waiting = self._waiting.setdefault(call.symbol, deque())
        waiting.append((call, at, price))
        if len(waiting) > _MOST_WAITING:
            waiting.popleft()
            self._tally.unpriced += 1

    def on_price(self, symbol: str, ts: int, price: float) -> bool:
        """Take a price; return True if a call reached its horizon."""
        last = self._prices.get(symbol, (0, 0.0))
        if ts < last[0]:
            return False
        waiting = self._waiting.get(symbol)
        reached = False
        while waiting and waiting[0][0].at + self._horizon <= ts:
            call, began, before = waiting.popleft()
            due = call.at + self._horizon
            at, after = (ts, price) if due == ts else last
            if at <= began or due - at > self._patience:
                self._tally.unpriced += 1
            else:
                self._tally.add(call, before, after)
            reached = True
        self._prices[symbol] = ts, price
        return reached


class ModelDrift:
    """An observer of the run that judges the sentiment model, and raises an alarm once when it drifts."""

    def __init__(self, config: Config, model: ScoringModel) -> None:
        settings = config.monitoring
        self._model = model
        self._floor = settings.hit_rate_floor
        self._size = settings.drift_window
        self._window = SentimentWindow(self._size)
        self._tally = MoveTally(settings.move_horizon, self._size)
        self._prices = PriceFollower(self._tally, settings.move_horizon, patience_of(config.market.interval))
        self._news: OrderedDict[str, tuple[str, ...]] = OrderedDict()  # id -> symbols, until the sentiment
        self._unknown: OrderedDict[str, float | None] = OrderedDict()  # id -> share of unknown tokens
        self._provisional: OrderedDict[str, None] = OrderedDict()  # ids of headlines that may be revised
        self._raised: dict[str, str] = {}  # SCORES or HIT_RATE -> model that the raised alarm is about
        self._version = 0
        self._judged: tuple[tuple[object, ...], ModelDriftStatus] | None = None

    # -- what it observes -----------------------------------------------------------------------------

    def note_score(self, news_id: str, score: Score) -> None:
        """Take from the local model the share of unknown tokens, which no event carries."""
        self._unknown[news_id] = None if score.abstained else getattr(score, "unknown", None)
        if len(self._unknown) > _MOST_WAITING:
            self._unknown.popitem(last=False)

    def event(self, seq: int, event: Event) -> None:
        """Follow prices, sentiments and the alarms that were raised."""
        if type(event) is Kline:
            self._version += self._prices.on_price(event.symbol, event.ts, event.close)
            return
        match event:
            case Sentiment():
                self._on_sentiment(event)
            case Command(action="alarm") if event.args.get("rule") == MODEL_DRIFT:
                self._raised.pop(event.args.get("of", ""), None)
                if event.args.get("state") == RAISED:
                    self._raised[event.args.get("of", "")] = event.args.get("model", "")

    def headline(self, news: News, symbols: tuple[str, ...], story: str) -> None:
        """Note the symbols of a recent headline; the same news in other words would count twice."""
        if news.actionable and story == news.id:
            self._news[news.id] = symbols
            if len(self._news) > _MOST_WAITING:
                self._news.popitem(last=False)

    def decision(self, seq: int, decision: Decision) -> None:
        """Ignore decisions."""

    def _on_sentiment(self, sentiment: Sentiment) -> None:
        if self._is_revision(sentiment):
            return
        self._version += 1
        unknown = self._unknown.pop(sentiment.news_id, None)
        if self._window.add(sentiment, model=sentiment.model, unknown=unknown):
            self._tally.clear()
            self._prices.clear()
        mapped = self._news.pop(sentiment.news_id, ())
        for symbol in (sentiment.symbols or mapped) if mapped else ():
            call = directional_call(sentiment, symbol)
            if call is not None:
                self._prices.add(call)

    def _is_revision(self, sentiment: Sentiment) -> bool:
        """Return whether a sentiment revises an earlier one: it is of another model than the judged one."""
        revises = sentiment.news_id in self._provisional
        if sentiment.provisional:
            self._provisional[sentiment.news_id] = None
            if len(self._provisional) > _MOST_WAITING:
                self._provisional.popitem(last=False)
        else:
            self._provisional.pop(sentiment.news_id, None)
        return revises

    # -- what it finds --------------------------------------------------------------------------------

    def status(self) -> ModelDriftStatus:
        """Judge the window. The result is kept until something changes."""
        loaded, reference = self._model.fingerprint, self._model.reference
        key = self._version, loaded, reference
        if self._judged is None or self._judged[0] != key:
            if self._window.model in ("", loaded):
                drift = self._window.compare(reference)
            else:
                drift = self._window.compare(None, "the loaded model has scored no headline yet")
            moves = self._tally.result(self._prices.pending)
            self._judged = key, ModelDriftStatus(self._size, drift, moves)
        return self._judged[1]

    def due_alarms(self) -> list[dict[str, str]]:
        """Return the arguments of the alarms that are to be raised or cleared now.

        An alarm that is raised is not due again, also after a restart, since the journal contains it. It is
        cleared when the state is ok again, not already when the drift is smaller, and when another model
        scores.
        """
        status = self.status()
        model = status.drift.model
        verdicts = {SCORES: _verdict(status.drift), HIT_RATE: self._verdict_on(status.moves.sides[ALL])}
        due = []
        for of, (bad, detail) in verdicts.items():
            raised = self._raised.get(of)
            if raised is not None and raised != model:
                due.append(_alarm(of, CLEARED, raised, "another model scores"))
            elif raised is None and bad:
                due.append(_alarm(of, RAISED, model, detail))
            elif raised is not None and bad is False:
                due.append(_alarm(of, CLEARED, model, detail))
        return due

    def _verdict_on(self, found: HitRate) -> tuple[bool | None, str]:
        """Return whether the hit rate is below the floor (None if undecided), and a description."""
        if not self._floor:
            return False, "no floor is configured"
        if found.rate is None or found.low is None or found.high is None:
            return None, ""
        where = "below" if found.high < self._floor else "at least"
        detail = (
            f"{found.rate:.1%} of the calls moved as predicted (95 % interval {found.low:.1%} to "
            f"{found.high:.1%}, {found.headlines:,} headlines): {where} the floor of {self._floor:.1%}"
        )
        if found.headlines < LEAST_HEADLINES:
            return None, detail
        return (True if found.high < self._floor else False if found.rate >= self._floor else None), detail

    async def watch(self, alarm: Callable[..., Awaitable[None]]) -> Never:
        """Log and journal due alarms until cancelled. `alarm` takes the arguments of an alarm and returns
        once the core has handled it.
        """
        while True:
            for args in self.due_alarms():
                log = _log.warning if args["state"] == RAISED else _log.info
                log(MODEL_DRIFT, of=args["of"], state=args["state"], detail=args["detail"])
                await alarm(**args)
            await asyncio.sleep(_POLL)


def _verdict(drift: Drift) -> tuple[bool | None, str]:
    """Return whether the scores have drifted (None if undecided), and a description."""
    if drift.state == "drifted":
        return True, f"the headlines differ from the model's training texts: {drift.reason}"
    if drift.state == "ok":
        return False, "the headlines are like the model's training texts"
    return (False if drift.reason == NO_REFERENCE else None), drift.reason


def _alarm(of: str, state: str, model: str, detail: str) -> dict[str, str]:
    return {"rule": MODEL_DRIFT, "of": of, "state": state, "model": model, "detail": detail}
