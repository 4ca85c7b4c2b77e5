"""What a backtest replays: files, opened, checked and hashed, and the streams of events that the engine will see of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from agent.config import Config
from agent.core.durations import format_duration
from agent.core.errors import DataError, UsageError
from agent.core.events import Command, Event, Funding, News, Sentiment
from agent.core.instruments import instrument_for
from agent.core.symbol_names import symbol_of
from agent.core.symbols import SymbolMapper
from agent.data.columns import content_hash
from agent.data.funding import FundingFile, complete, constant_funding
from agent.data.klines import KlineFile
from agent.data.news import NewsFile
from agent.data.sentiment import NamedScorer, SentimentFile, scored
from agent.data.trading_rules import COARSEST, settle_rules
from agent.replay.fusion_model import check_scorer, open_predictor
from agent.store.runs import InputFile
from agent.system.clock import iso

if TYPE_CHECKING:
    from models.fusion.serve.predictor import FusionPredictor


class Plan(NamedTuple):
    """What a backtest replays. The window is [start, end) in UTC ms of bar open times; None is the files' own.

    A window that is a part of a longer time may begin warm and end flat: `warmup` is how much history (ms) before `start` the engine
    reads without trading, and with `close_out` it opens nothing in the last `CLOSING_BARS` and leaves what it holds.
    """

    klines: tuple[tuple[Path, str | None], ...]  # with the symbol, where the file's name doesn't say it
    news: Path | None = None
    sentiment: Path | None = None  # scored already
    funding: Path | None = None
    start: int | None = None
    end: int | None = None
    timezone: str | None = None  # of times that name none
    warmup: int = 0
    close_out: bool = False
    part_of: str = ""  # the walk-forward that this is a fold of


_SHOWN_TICKERS: Final = 5

CLOSING_BARS: Final = 2
"""Bars at the end of a window that is closed out: one to fill at, one in reserve."""


class History:
    """A plan's files, opened, checked and hashed; `sources` is what the engine will see.

    `config` becomes that of the run: the files state symbols and interval, and the trading rules are settled (`trading_rules`), unless
    it is `recorded`.
    """

    def __init__(self, plan: Plan, config: Config, *, recorded: bool = False) -> None:
        timezone = plan.timezone
        around_the_clock = config.market.category != "equity"
        reads_from = None if plan.start is None else plan.start - plan.warmup
        self.klines = [
            KlineFile(
                path,
                symbol,
                around_the_clock=around_the_clock,
                start=reads_from,
                end=plan.end,
                timezone=timezone,
            )
            for path, symbol in plan.klines
        ]
        if plan.news is not None and plan.sentiment is not None:
            raise UsageError(
                "both headlines and scored headlines are named",
                hint="--news is scored by the model, --sentiment needs none",
            )
        self._plan = plan
        self._scores: SentimentFile | None = None
        self.config = _adapted(config, self.klines)
        settled = list[str]()
        if not recorded:
            self.config, settled = settle_rules(self.config, self.klines)
        described = [file.describe() for file in self.klines]
        empty = next(
            (file for file, facts in zip(self.klines, described, strict=True) if not facts["rows"]), None
        )
        if empty is not None:
            window = f"{_moment(plan.start)} to {_moment(plan.end)}"
            raise DataError(
                f"{empty.path}: no bars between {window}", hint="name a window that the file covers"
            )
        self.bars = sum(int(str(facts["rows"])) for facts in described)
        self.start = plan.start if plan.start is not None else min(int(str(f["first"])) for f in described)
        self.end = max(int(str(facts["end"])) for facts in described)
        self.reads_from = self.start - plan.warmup
        """UTC ms: where what the engine sees begins; trading begins at `start`."""
        self.notes = [
            f"{file.path.name}: {facts['gaps']} gaps, {facts['missing']} bars missing, {facts['duplicates']} duplicates dropped"
            for file, facts in zip(self.klines, described, strict=True)
            if facts["gaps"] or facts["duplicates"]
        ]
        self.notes += [
            f"{file.path.name}: ends at {_moment(int(str(facts['last'])))}, before the run does: {file.symbol} keeps its last price"
            for file, facts in zip(self.klines, described, strict=True)
            if int(str(facts["last"])) < self.end - self.config.market.interval
        ]
        self.notes += [
            note
            for file, facts in zip(self.klines, described, strict=True)
            if (note := _coarse_tick(file.symbol, facts, self.config))
        ]
        self.notes += settled + [note for file in self.klines for note in file.notes]
        if untraded := self.config.untraded_instruments():
            self.notes.append(
                f"the rules of {', '.join(untraded)} in the configuration apply to nothing: not traded in this run"
            )
        self.inputs = [
            InputFile("klines", str(file.path), str(facts["sha256"]), file.symbol, int(str(facts["rows"])))
            for file, facts in zip(self.klines, described, strict=True)
        ]
        history = config.history
        self.news: list[News] = []
        if plan.news is not None:
            file = NewsFile(
                plan.news,
                feed_delay=history.feed_delay,
                start=self.reads_from,
                end=self.end,
                timezone=timezone,
            )
            self.news = list(file)
            self.notes += [
                f"{plan.news.name}: {note}" for note in [*file.stats.notes(), *self._unknown_tickers()]
            ]
            self.inputs.append(
                InputFile("news", str(plan.news), content_hash(plan.news), rows=len(self.news))
            )
        if plan.sentiment is not None:
            self.inputs.append(InputFile("sentiment", str(plan.sentiment), content_hash(plan.sentiment)))
        if plan.funding is not None:
            if not recorded and self.config.market.category != "linear":
                raise UsageError(
                    f"{plan.funding.name}: market.category is {self.config.market.category}, which pays no funding",
                    hint='leave --funding out, or write category = "linear" for perpetuals',
                )
            self.inputs.append(InputFile("funding", str(plan.funding), content_hash(plan.funding)))
            self._funding = self._read_funding(plan.funding)

    def _read_funding(self, path: Path) -> list[Funding]:
        """The file's rates of what is traded; what it lacks is noted, and is the constant."""
        symbols, paper = self.config.market.symbols, self.config.paper
        file = FundingFile(
            path,
            symbols[0] if len(symbols) == 1 and not symbol_of(path) else None,
            timezone=self._plan.timezone,
        )
        rates, notes = complete(
            file,
            symbols,
            float(paper.funding_rate),
            paper.funding_interval,
            self.start,
            self.end,
            name=path.name,
        )
        self.notes += notes
        if file.duplicates:
            self.notes.append(f"{path.name}: {file.duplicates:,} identical rates dropped")
        return rates

    def _unknown_tickers(self) -> list[str]:
        """Says which tickers of the headlines apply to nothing: neither known coins nor traded."""
        mapper = SymbolMapper(self.config.market.symbols, self.config.instruments, ())
        unknown = Counter(
            ticker for item in self.news for ticker in item.currencies if not mapper.knows(ticker)
        )
        if not unknown:
            return []
        names = ", ".join(f"{ticker} ({count:,})" for ticker, count in unknown.most_common(_SHOWN_TICKERS))
        return [f"{unknown.total():,} tickers are of no known coin and not traded: {names}"]

    def notes_on_scores(self) -> list[str]:
        """What the file of scores left out, once it has been replayed, and which of its symbols apply to nothing."""
        if self._scores is None:
            return []
        notes = self._scores.stats.notes()
        untraded = Counter(
            {
                symbol: n
                for symbol, n in self._scores.symbols.items()
                if symbol not in self.config.market.symbols
            }
        )
        if untraded:
            names = ", ".join(
                f"{symbol} ({count:,})" for symbol, count in untraded.most_common(_SHOWN_TICKERS)
            )
            notes.append(f"{untraded.total():,} scores name a symbol that is not traded: {names}")
        return [f"{self._scores.path.name}: {note}" for note in notes]

    @cached_property
    def predictor(self) -> FusionPredictor | None:
        """The fusion model that the configuration names. Raises what `open_predictor` raises."""
        return open_predictor(self.config)

    @property
    def warms_up(self) -> bool:
        """Whether history before `start` is read."""
        return self._plan.warmup > 0

    @property
    def closes_out(self) -> bool:
        """Whether the window ends flat."""
        return self._plan.close_out

    @property
    def window(self) -> dict[str, Any]:
        """What of the plan the inputs don't say; kept with the run."""
        plan = self._plan
        parts = {"warmup": plan.warmup, "close_out": plan.close_out, "part_of": plan.part_of}
        kept = {name: value for name, value in parts.items() if value}
        return {"start": plan.start, "end": plan.end, "timezone": plan.timezone} | kept

    def sources(
        self, *, scorer: NamedScorer | None = None, sentiments: Iterable[Sentiment] = ()
    ) -> list[Iterable[Event]]:
        """Fresh iterators. The news is scored by `scorer`, or was once and `sentiments` are what the store remembers of it."""
        return [*self.market(), *self.wire(scorer=scorer, sentiments=sentiments)]

    def market(self) -> list[Iterable[Event]]:
        """The sources that no model has touched: bars, funding, and what begins and ends the trading of the window."""
        plan, paper = self._plan, self.config.paper
        sources: list[Iterable[Event]] = [*self.klines]
        if plan.funding is not None:
            sources.append(self._funding)
        elif self.config.market.category == "linear" and paper.funding_rate:
            sources.append(
                constant_funding(
                    self.config.market.symbols,
                    float(paper.funding_rate),
                    paper.funding_interval,
                    self.start,
                    self.end,
                )
            )
        if plan.warmup or plan.close_out:
            sources.append(self._commands())
        return sources

    def wire(
        self,
        *,
        scorer: NamedScorer | None = None,
        sentiments: Iterable[Sentiment] = (),
        text: Callable[[News], str] = attrgetter("title"),
    ) -> list[Iterable[Event]]:
        """The sources of headlines and what was made of them; see `sources`. `text` is what of a headline the scorer reads."""
        plan, history = self._plan, self.config.history
        if plan.sentiment is not None:
            self._scores = SentimentFile(
                plan.sentiment,
                history.feed_delay,
                history.inference_latency,
                start=self.reads_from,
                end=self.end,
                timezone=plan.timezone,
            )
            return [self._scores]
        if scorer is not None:
            check_scorer(self.predictor, scorer.fingerprint)
            embedded = self.predictor is not None and self.predictor.reads_embeddings
            return [
                scored(
                    self.news,
                    scorer,
                    history.inference_latency,
                    model=scorer.fingerprint,
                    text=text,
                    embedded=embedded,
                )
            ]
        return [self.news, sentiments]

    def under(self, config: Config) -> History:
        """The same files and window under another configuration, which must agree on `market` and `history`."""
        other = copy(self)
        rules = self.config.instruments | config.instruments
        other.config = _on_paper(
            config.model_copy(update={"market": self.config.market, "instruments": rules})
        )
        other.__dict__.pop("predictor", None)
        return other

    def _commands(self) -> list[Event]:
        """What begins and ends the trading of a window that is part of a longer time."""
        commands: list[Event] = []

        def say(action: str, at: int, **args: str) -> None:
            commands.append(Command(action, at, at, args, by="window"))

        if self._plan.warmup:
            say("warm-up", self.reads_from)
            # after the bar that closes at `start`, which is history still
            say("warm-up-done", self.start + 1)
        if self._plan.close_out:
            say("pause", self.end - CLOSING_BARS * self.config.market.interval, flatten="true")
        return commands


def _adapted(config: Config, files: Sequence[KlineFile]) -> Config:
    """The files say which symbols and which interval are traded."""
    symbols = [file.symbol for file in files]
    if not symbols:
        raise UsageError(
            "no klines to replay", hint="name files with --klines, or history.klines in the configuration"
        )
    twice = next((s for s in symbols if symbols.count(s) > 1), None)
    if twice is not None:
        raise UsageError(
            f"two kline files for {twice}", hint="one file a symbol; SYMBOL=FILE names the symbol of a file"
        )
    first = files[0]
    for file in files:
        if file.interval != first.interval:
            raise DataError(
                f"{file.path} has bars of {format_duration(file.interval)}, {first.path} of {format_duration(first.interval)}",
                hint="all files of a run share one interval",
            )
    calendar_bars = any(file.calendar for file in files)
    market = config.market.model_copy(
        update={"symbols": tuple(symbols), "interval": first.interval, "calendar_bars": calendar_bars}
    )
    return _on_paper(config.model_copy(update={"market": market}))


def _on_paper(config: Config) -> Config:
    """No venue answers in a replay: whatever the agent trades at live, history is traded on paper."""
    return config.model_copy(update={"execution": config.execution.model_copy(update={"mode": "paper"})})


def _moment(ms: int | None) -> str:
    return "the beginning" if ms is None else iso(ms)


def _coarse_tick(symbol: str, facts: Mapping[str, object], config: Config) -> str:
    """A note if the tick is more than a thousandth of the lowest price of the window; else empty."""
    tick, lowest = float(instrument_for(symbol, config).tick_size), float(str(facts["lowest"]))
    if tick <= float(COARSEST) * lowest:
        return ""
    return f"{symbol}: its tick, {tick:g}, is {tick / lowest:.1%} of its lowest price, {lowest:g}, and rounds fills there by as much"
