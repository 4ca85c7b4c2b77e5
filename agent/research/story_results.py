"""What each story earned or lost in a recorded run: its equity minus that of a life without the story.

Such a life goes on from the story's first headline until it coincides with the run again: both are flat and
without orders, and the same headlines vote. What follows differs only because the account is a little larger
or smaller, which is not the story's doing; `tapewire whatif --remove` includes it. A life that never
coincides goes on to the end. Contributions don't add up to the result: without one story, another may lead to
the trade. With sleeves a story's contribution is the sum of those in each sleeve, and lives coincide only if
all sleeves do.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from agent.analysis.story_table import StoryResult, StoryResults
from agent.core.engine import Engine
from agent.core.errors import UsageError
from agent.core.events import Command, Decision, Kline, News, Order, Sentiment, Signal
from agent.core.sinks import NullSink
from agent.core.sleeve import SleeveTotals
from agent.core.sleeves import SleevedEngine, engines_of
from agent.core.trading_engine import TradingEngine
from agent.replay.engine_state import capture, restore, spec_of, version_part
from agent.replay.object_codec import Unencodable, encode
from agent.replay.open_engine import blaming_any
from agent.replay.recorded_inputs import RecordedInputs

StoryProgress = Callable[[int, int], None]
"""Called now and then with the number of folded events and of all events."""

_READERS: Final = ("on_news", "on_sentiment")
_EVERY: Final = 60  # events between two comparisons
_TICK: Final = 4_096


class _RunStory:
    """A story of the run."""

    def __init__(self, news: News, symbols: tuple[str, ...], first: int) -> None:
        self.news = news
        self.symbols = symbols
        self.first = first  # number of its first event
        self.headlines: set[str] = set()
        self.voted = False


class _Life:
    """A life without one story, and the number of orders that the run had when it began."""

    def __init__(self, source: RecordedInputs, base: TradingEngine, story: _RunStory, orders: int) -> None:
        self.story = story
        self.orders_before = orders
        self.sink = _Observer()
        self.engine = source.open_engine(self.sink)
        try:
            restore(self.engine, capture(base), version_part(base))
        except Unencodable as error:
            name = source.run.strategy
            raise UsageError(f"the state of strategy {name} can't be copied: {error}") from None

    def result(self, base: TradingEngine, orders: int, until: int | None) -> StoryResult:
        """Return the result if the run, with the engine `base`, has placed `orders` orders."""
        story, equity = self.story, base.portfolio.exact_equity()
        return StoryResult(
            story.news.id,
            story.news.available_at,
            story.news.title,
            len(story.headlines),
            story.symbols,
            equity - self.engine.portfolio.exact_equity(),
            orders - self.orders_before,
            self.sink.orders,
            until,
            _by_sleeve(base, self.engine),
        )


def story_results(source: RecordedInputs, *, progress: StoryProgress | None = None) -> StoryResults:
    """Fold a run again beside lives without each of its stories that had a vote.

    All stories get one if the strategy or the fusion model reads headlines itself. Raises StrategyError if
    the strategy's own code fails, and UsageError if its state can't be copied.
    """
    found, reads = _stories_of(source)
    total = 2 * len(source.events)
    starting: dict[int, list[_RunStory]] = {}
    sink = _Observer()
    base = source.open_engine(sink)
    for story in found:
        if reads or story.voted:
            starting.setdefault(story.first, []).append(story)
    lives: list[_Life] = []
    results: list[StoryResult] = []
    handle = base.handle
    with blaming_any(base):
        for number, event in enumerate(source.events, 1):
            lives += [_Life(source, base, story, sink.orders) for story in starting.get(number, ())]
            handle(event)
            if lives:
                gone = "" if event.__class__ is Kline else _headline_of(event)
                for life in lives:
                    if not gone or gone not in life.story.headlines:
                        life.engine.handle(event)
                if number % _EVERY == 0 and _is_idle(base):
                    ended = [life for life in lives if _coincide(base, life.engine)]
                    for life in ended:
                        results.append(life.result(base, sink.orders, event.available_at))
                        lives.remove(life)
            if progress and number % _TICK == 0:
                progress(len(source.events) + number, total)
        base.finish()
        for life in lives:
            life.engine.finish()
            results.append(life.result(base, sink.orders, None))
    results.sort(key=lambda one: (-one.contribution, one.at, one.story))
    return StoryResults(results, len(found) - len(results))


def _stories_of(source: RecordedInputs) -> tuple[list[_RunStory], bool]:
    """Return the stories of the run in the order of their first headlines, and whether a strategy or the
    fusion model reads headlines itself.
    """
    sink = _Observer()
    engine = source.open_engine(sink)
    reads = source.predictor is not None or _reads(engine)
    with blaming_any(engine):
        for sink.event_seq, event in enumerate(source.events, 1):
            engine.handle(event)
            if event.__class__ is Command:  # which may have brought another strategy
                reads = reads or _reads(engine)
    return list(sink.stories.values()), reads


def _reads(engine: TradingEngine) -> bool:
    return any(one.strategy.overrides(*_READERS) for one in engines_of(engine).values())


def _by_sleeve(base: TradingEngine, without: TradingEngine) -> dict[str, Decimal]:
    """Return the difference of the sleeves' profits; it adds up to that of the account's equities."""
    if not isinstance(base, SleevedEngine) or not isinstance(without, SleevedEngine):
        return {}
    with_it, rest = base.results, without.results
    return {name: _profit(with_it, name) - _profit(rest, name) for name in with_it | rest}


def _profit(results: dict[str, SleeveTotals], name: str) -> Decimal:
    return results[name].profit if name in results else Decimal(0)


def _headline_of(event: Any) -> str:
    if isinstance(event, News):
        return event.id
    return event.news_id if isinstance(event, Sentiment) else ""


def _is_idle(engine: TradingEngine) -> bool:
    """Return whether it has neither a position nor a working order, in any sleeve."""
    return not any(
        one.portfolio.open or any(state.book for state in one.states.values())
        for one in engines_of(engine).values()
    )


def _coincide(one: TradingEngine, other: TradingEngine) -> bool:
    """Return whether two engines go on alike, but for the size of the account; `one` is idle."""
    if not _is_idle(other) or one.risk.state is not other.risk.state:
        return False
    here, there = engines_of(one), engines_of(other)
    return here.keys() == there.keys() and all(_go_on_alike(here[name], there[name]) for name in here)


def _go_on_alike(one: Engine, other: Engine) -> bool:
    if one.risk.state is not other.risk.state or one.version != other.version:
        return False
    now = one.market.now
    for symbol in one.states:
        if _course(one, symbol, now) != _course(other, symbol, now):
            return False
    spec = spec_of([one.strategy])
    return encode([one.strategy], spec) == encode([other.strategy], spec)


def _course(engine: Engine, symbol: str, now: int) -> tuple[Any, ...]:
    """Return what decides the next signals of a symbol: the last one, and the votes that count."""
    signal = engine.signals.current(symbol)
    votes = [(vote.at, vote.news_id, vote.direction) for vote in engine.signals.votes(symbol, now)]
    return signal and (signal.direction, signal.actionable), votes


class _Observer(NullSink):
    """Counts orders, and notes the stories and which of them had a vote."""

    def __init__(self) -> None:
        self.event_seq = 0
        self.orders = 0
        self.stories: dict[str, _RunStory] = {}
        self._story_of: dict[str, str] = {}

    def news(self, news: News, symbols: tuple[str, ...], story: str) -> None:
        known = self.stories.get(story)
        if known is None:
            known = self.stories[story] = _RunStory(news, symbols, self.event_seq)
        known.headlines.add(news.id)
        self._story_of[news.id] = story

    def decision(self, decision: Decision) -> None:
        if decision.__class__ is Order:
            self.orders += 1
        elif isinstance(decision, Signal):
            for headline in decision.sources:
                if story := self._story_of.get(headline):
                    self.stories[story].voted = True
