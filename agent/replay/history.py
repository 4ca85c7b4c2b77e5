"""Inputs of a backtest: files, opened, checked and hashed, and their streams of events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import cached_property
from itertools import compress
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypedDict

from agent.config import Config
from agent.core.durations import format_bar_length, format_duration
from agent.core.errors import ConfigError, DataError, UsageError
from agent.core.events import Command, Event, Funding, News, Sentiment
from agent.core.instruments import instrument_for
from agent.core.symbol_names import symbol_of
from agent.core.symbols import SymbolMapper, base_of
from agent.core.warm_up import warm_up_start
from agent.data.cascade import CascadeScorer, may_vote, revise_news
from agent.data.columns import content_hash
from agent.data.funding import FundingFile, constant_funding, fill_missing_rates
from agent.data.klines import KlineFile
from agent.data.news import NewsFile
from agent.data.sentiment import NamedScorer, SentimentFile, score_news
from agent.data.trading_rules import MAX_RELATIVE_TICK, resolve_rules
from agent.replay.fusion_model import check_scorer, open_predictor
from agent.replay.needed_bars import needed_bars
from agent.store.runs import InputFile
from agent.system.clock import iso

if TYPE_CHECKING:
    from models.fusion.serve.predictor import FusionPredictor


class Plan(NamedTuple):
    """Files and window of a backtest.

    The window is [`start`, `end`) in UTC ms of bar open times; None means all bars. A window that is part of
    a longer time may begin warm and end flat: the engine reads `warmup` ms of history before `start` without
    trading; with `close_out` it opens no position in the last `CLOSING_BARS` bars and closes those it has.
    Of the bars in `warm_up` no headlines are read.
    """

    klines: tuple[tuple[Path, str | None], ...]  # with the symbol, unless the file states it
    news: Path | None = None
    sentiment: Path | None = None  # scored headlines
    funding: Path | None = None
    start: int | None = None
    end: int | None = None
    timezone: str | None = None  # of naive times
    warmup: int = 0
    close_out: bool = False
    part_of: str = ""  # the walk-forward run of which this is a fold
    warm_up: dict[str, int] | None = None  # bars by interval before `start`; None: what the strategy needs
    pursues: bool = False  # whether targets can't undo the close-out, which they can in runs of version 0.1.0


_SHOWN_TICKERS: Final = 5

CLOSING_BARS: Final = 2
"""Bars at the end of a window with `close_out`: one for the fills, one in reserve."""


class _Bounds(TypedDict):
    start: int | None
    end: int | None
    timezone: str | None


class History:
    """A plan's files, opened, checked and hashed, and their events (`sources`).

    `config` is completed for the run: the files state symbols and interval, and the trading rules are
    resolved (`trading_rules`), unless the configuration is a `recorded` one.
    """

    def __init__(self, plan: Plan, config: Config, *, recorded: bool = False) -> None:
        if plan.news is not None and plan.sentiment is not None:
            hint = "--news is scored by the model, --sentiment needs none"
            raise UsageError("both headlines and scored headlines are given", hint=hint)
        reads_from = None if plan.start is None else plan.start - plan.warmup
        bounds = _Bounds(start=reads_from, end=plan.end, timezone=plan.timezone)
        always_open = config.market.category != "equity"
        self.klines = [
            KlineFile(path, symbol, around_the_clock=always_open, **bounds) for path, symbol in plan.klines
        ]
        opened = self.klines
        self.klines, higher = _of_one_interval(opened, config.market.interval)
        used = [file in self.klines for file in opened]
        self.plan = plan._replace(klines=tuple(compress(plan.klines, used)))
        """The plan without the kline files that aren't replayed."""
        self._scores: SentimentFile | None = None
        self.config = _adapted(config, self.klines)
        needed = plan.warm_up
        if needed is None:
            needed = {} if recorded else needed_bars(self.config)
        self.plan = self.plan._replace(warm_up=needed)
        if needed and plan.start is not None:
            for file in self.klines:
                file.start = min(plan.start - plan.warmup, warm_up_start(plan.start, needed))
        rule_notes = list[str]()
        if not recorded:
            self.config, rule_notes = resolve_rules(self.config, self.klines)
        self._facts = [file.describe() for file in self.klines]
        self.bars = sum(int(str(facts["rows"])) for facts in self._facts)
        self.start = plan.start if plan.start is not None else min(int(str(f["first"])) for f in self._facts)
        self.end = max(int(str(facts["end"])) for facts in self._facts)
        self.reads_from = self.start - plan.warmup
        """UTC ms at which the inputs begin, except for the bars of the warm-up; trading begins at `start`."""
        self._bounds = _Bounds(start=self.reads_from, end=self.end, timezone=plan.timezone)
        self.notes = self._notes_on_klines() + rule_notes + self._notes_on_warm_up()
        self.notes += [note for file in self.klines for note in file.notes]
        self.notes += [_not_replayed(file, self.config.market.interval) for file in higher]
        if untraded := self.config.untraded_instruments():
            rules = f"the rules of {', '.join(untraded)} in the configuration have no effect"
            self.notes.append(f"{rules}: not traded in this run")
        self.inputs = [
            InputFile("klines", str(file.path), str(facts["sha256"]), file.symbol, int(str(facts["rows"])))
            for file, facts in zip(self.klines, self._facts, strict=True)
        ]
        self.news: list[News] = []
        if plan.news is not None:
            news = NewsFile(plan.news, self.config.history.feed_delay, **self._bounds)
            self.news = list(news)
            self.notes += [
                f"{plan.news.name}: {note}" for note in [*news.stats.notes(), *self._unknown_tickers()]
            ]
            self.inputs.append(
                InputFile("news", str(plan.news), content_hash(plan.news), rows=len(self.news))
            )
        if plan.sentiment is not None:
            self.inputs.append(InputFile("sentiment", str(plan.sentiment), content_hash(plan.sentiment)))
        if plan.funding is not None:
            category = self.config.market.category
            if not recorded and category != "linear":
                raise UsageError(
                    f"{plan.funding.name}: market.category is {category}, which pays no funding",
                    hint='leave --funding out, or write category = "linear" for perpetuals',
                )
            self.inputs.append(InputFile("funding", str(plan.funding), content_hash(plan.funding)))
            self._funding = self._read_funding(plan.funding)

    def _notes_on_klines(self) -> list[str]:
        notes, files = list[str](), list(zip(self.klines, self._facts, strict=True))
        for file, facts in files:
            if facts["gaps"] or facts["duplicates"]:
                counts = f"{facts['gaps']} gaps, {facts['missing']} bars missing"
                notes.append(f"{file.path.name}: {counts}, {facts['duplicates']} duplicates dropped")
        for file, facts in files:
            last = int(str(facts["last"]))
            if last < self.end - self.config.market.interval:
                ends = f"ends at {iso(last)}, before the run does"
                notes.append(f"{file.path.name}: {ends}: {file.symbol} keeps its last price")
        coarse = (_coarse_tick(file.symbol, facts, self.config) for file, facts in files)
        return notes + [note for note in coarse if note]

    def _notes_on_warm_up(self) -> list[str]:
        """Return a note on the bars that are read before the start."""
        if not self.plan.warm_up:
            return []
        needed = ", ".join(f"{bars:,} of {name}" for name, bars in self.plan.warm_up.items())
        if self.plan.start is None:
            way = "the run begins with the files; a later --start leaves it some"
            if warm_up_start(self.end, self.plan.warm_up) < self.start:
                way = "the files are shorter than that: give longer ones"
            return [f"warm-up: the strategy needs bars from before the start ({needed}), and {way}"]
        first = min(int(str(facts["first"])) for facts in self._facts)
        return [f"warm-up: bars since {iso(min(first, self.start))} were read without trading ({needed})"]

    def _read_funding(self, path: Path) -> list[Funding]:
        """Return the file's rates of traded symbols, with gaps filled by the constant and noted."""
        symbols, paper = self.config.market.symbols, self.config.paper
        symbol = symbols[0] if len(symbols) == 1 and not symbol_of(path) else None
        file = FundingFile(path, symbol, timezone=self.plan.timezone)
        constant = float(paper.funding_rate), paper.funding_interval
        rates, notes = fill_missing_rates(file, symbols, *constant, self.start, self.end, name=path.name)
        self.notes += notes
        if file.duplicates:
            self.notes.append(f"{path.name}: {file.duplicates:,} identical rates dropped")
        return rates

    def _unknown_tickers(self) -> list[str]:
        """Return a note on tickers of headlines that are neither known coins nor traded."""
        mapper = SymbolMapper(self.config.market.symbols, self.config.instruments, ())
        tickers = Counter(ticker for item in self.news for ticker in item.currencies)
        unknown = Counter({ticker: count for ticker, count in tickers.items() if not mapper.knows(ticker)})
        if not unknown:
            return []
        return [f"{unknown.total():,} tickers are of no known coin and not traded: {_most_common(unknown)}"]

    def notes_on_scores(self) -> list[str]:
        """Return notes on omitted rows and untraded symbols of the replayed file of scores."""
        if self._scores is None:
            return []
        notes, traded = self._scores.notes(), self.config.market.symbols
        untraded = Counter({symbol: n for symbol, n in self._scores.symbols.items() if symbol not in traded})
        if untraded:
            notes.append(
                f"{untraded.total():,} scores name a symbol that is not traded: {_most_common(untraded)}"
            )
        bases = {base_of(symbol) for symbol in traded}
        if self._scores.assets and not bases & self._scores.assets.keys():
            named = _most_common(self._scores.assets)
            notes.append(f"the probabilities of assets are of none that is traded: {named}")
        return [f"{self._scores.path.name}: {note}" for note in notes]

    @cached_property
    def predictor(self) -> FusionPredictor | None:
        """The configured fusion model. Raises as `open_predictor`."""
        return open_predictor(self.config)

    @property
    def warms_up(self) -> bool:
        """True if history before `start` is read."""
        return self.plan.warmup > 0 or bool(self.plan.warm_up)

    @property
    def closes_out(self) -> bool:
        """True if positions are closed at the end of the window."""
        return self.plan.close_out

    @property
    def window(self) -> dict[str, Any]:
        """The part of the plan that `inputs` doesn't contain; recorded with the run."""
        plan = self.plan
        parts = {"warmup": plan.warmup, "close_out": plan.close_out, "part_of": plan.part_of}
        parts |= {"warm_up": plan.warm_up or {}, "pursues": plan.pursues}
        kept = {name: value for name, value in parts.items() if value}
        return {"start": plan.start, "end": plan.end, "timezone": plan.timezone} | kept

    def sources(
        self, *, scorer: NamedScorer | None = None, sentiments: Iterable[Sentiment] = ()
    ) -> list[Iterable[Event]]:
        """Return all sources of events.

        News is scored by `scorer`, or has the recorded scores `sentiments`.
        """
        return [*self.market_sources(), *self.news_sources(scorer=scorer, sentiments=sentiments)]

    def market_sources(self) -> list[Iterable[Event]]:
        """Return the sources that don't depend on a model: bars, funding, and commands of the window."""
        plan, paper = self.plan, self.config.paper
        sources: list[Iterable[Event]] = [*self.klines]
        if plan.funding is not None:
            sources.append(self._funding)
        elif self.config.market.category == "linear" and paper.funding_rate:
            constant = float(paper.funding_rate), paper.funding_interval
            sources.append(constant_funding(self.config.market.symbols, *constant, self.start, self.end))
        if self.warms_up or plan.close_out:
            sources.append(self._commands())
        return sources

    def news_sources(
        self,
        *,
        scorer: NamedScorer | None = None,
        sentiments: Iterable[Sentiment] = (),
        text: Callable[[News], str] = attrgetter("title"),
    ) -> list[Iterable[Event]]:
        """Return the sources of headlines and sentiment; see `sources`. `text` returns the text to score.

        With a `CascadeScorer` one more source has the revisions. Raises ConfigError.
        """
        plan, history = self.plan, self.config.history
        if plan.sentiment is not None:
            delays = history.feed_delay, history.inference_latency
            self._scores = SentimentFile(plan.sentiment, *delays, **self._bounds)
            return [self._scores]
        if scorer is not None:
            model = scorer.fingerprint
            check_scorer(self.predictor, model)
            embedded = self.predictor is not None and self.predictor.reads_embeddings
            latency = history.inference_latency
            if isinstance(scorer, CascadeScorer):
                votes = may_vote(self.config)
                first = score_news(
                    self.news, scorer, latency, model=model, text=text, embedded=embedded, revised=votes
                )
                return [first, self._revisions(scorer.reviser, filter(votes, self.news), text)]
            return [score_news(self.news, scorer, latency, model=model, text=text, embedded=embedded)]
        return [self.news, sentiments]

    def _revisions(
        self, reviser: NamedScorer, news: Iterable[News], text: Callable[[News], str]
    ) -> Iterator[Sentiment]:
        """Return the revisions of the model `reviser`, `history.revision_latency` after the first scores."""
        history, within = self.config.history, self.config.model.revise_within
        if history.revision_latency > within:
            late = format_duration(history.revision_latency)
            raise ConfigError(
                f"history.revision_latency is {late}, so no revision comes within model.revise_within, "
                f"{format_duration(within)}"
            )
        latency = history.inference_latency + history.revision_latency
        return revise_news(news, reviser, latency, text=text)

    def with_config(self, config: Config) -> History:
        """Return a copy with another configuration, which must have the same `market` and `history`."""
        other = copy(self)
        rules = self.config.instruments | config.instruments
        other.config = _on_paper(
            config.model_copy(update={"market": self.config.market, "instruments": rules})
        )
        other.__dict__.pop("predictor", None)
        return other

    def _commands(self) -> list[Event]:
        """Return the commands that begin and end trading in a window that is part of a longer time."""
        commands: list[Event] = []

        def add(action: str, at: int, **args: str) -> None:
            commands.append(Command(action, at, at, args, by="window"))

        if self.warms_up:
            needed = self.plan.warm_up or {}
            first = min(int(str(facts["first"])) for facts in self._facts)
            add("warm-up", self.reads_from if self.plan.warmup else min(first, self.start))
            # after the bar that closes at `start`, which still belongs to the warm-up
            add("warm-up-done", self.start + 1, **{name: str(bars) for name, bars in needed.items()})
        if self.plan.close_out:
            how = {"pursue": "true"} if self.plan.pursues else {}
            add("pause", self.end - CLOSING_BARS * self.config.market.interval, flatten="true", **how)
        return commands


def _of_one_interval(files: list[KlineFile], preferred: int) -> tuple[list[KlineFile], list[KlineFile]]:
    """Return the files of the run's interval, and the others.

    If the intervals differ, the run's is the `preferred` one (ms), else the shortest, of those of which every
    symbol has a file; without one, all files are returned as the run's, which `_adapted` refuses.
    """
    by_interval: dict[int, set[str]] = {}
    for file in files:
        by_interval.setdefault(file.interval, set()).add(file.symbol)
    symbols = {file.symbol for file in files}
    shared = sorted(interval for interval, own in by_interval.items() if own == symbols)
    if len(by_interval) < 2 or not shared:
        return files, []
    base = preferred if preferred in shared else shared[0]
    return [f for f in files if f.interval == base], [f for f in files if f.interval != base]


def _not_replayed(file: KlineFile, base: int) -> str:
    own, run = format_bar_length(file.interval), format_bar_length(base)
    try:
        rows = int(str(file.describe()["rows"]))
    except DataError as error:
        return f"{file.path.name} has bars of {own}, not of {run}, and is not read: {error.message}"
    return f"{file.path.name}: its {rows:,} bars of {own} are not read, because the run's bars are of {run}"


def _adapted(config: Config, files: Sequence[KlineFile]) -> Config:
    """Return the configuration with the symbols and the interval of the files."""
    symbols = [file.symbol for file in files]
    if not symbols:
        hint = "give files with --klines, or history.klines in the configuration"
        raise UsageError("no klines to replay", hint=hint)
    twice = next((s for s in symbols if symbols.count(s) > 1), None)
    if twice is not None:
        hint = "give one file per symbol; SYMBOL=FILE states a file's symbol"
        raise UsageError(f"two kline files for {twice}", hint=hint)
    first = files[0]
    for file in files:
        if file.interval != first.interval:
            own, other = format_bar_length(file.interval), format_bar_length(first.interval)
            hint = "give each symbol a file of the run's interval; others are folded from it"
            raise DataError(f"{file.path} has bars of {own}, {first.path} of {other}", hint=hint)
    calendar_bars = any(file.calendar for file in files)
    stated = {"symbols": tuple(symbols), "interval": first.interval, "calendar_bars": calendar_bars}
    return _on_paper(config.model_copy(update={"market": config.market.model_copy(update=stated)}))


def _on_paper(config: Config) -> Config:
    """Return the configuration in mode paper: history can't be traded at a venue."""
    return config.model_copy(update={"execution": config.execution.model_copy(update={"mode": "paper"})})


def _most_common(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in counts.most_common(_SHOWN_TICKERS))


def _coarse_tick(symbol: str, facts: Mapping[str, object], config: Config) -> str:
    """Return a note if the tick is more than a thousandth of the window's lowest price, else ""."""
    tick, lowest = float(instrument_for(symbol, config).tick_size), float(str(facts["lowest"]))
    if tick <= float(MAX_RELATIVE_TICK) * lowest:
        return ""
    share = f"{tick / lowest:.1%} of its lowest price, {lowest:g}"
    return f"{symbol}: its tick, {tick:g}, is {share}, and rounds fills there by as much"
