"""Backtests from a script or a notebook: the same engine and the same result as `tapewire backtest` on the
same data.

>>> result = Backtest(MyStrategy, {"BTCUSDT": frame}, capital=10_000, params={"fast": 20}).run()
>>> result.trades, result.equity, result.metrics["performance"]["sharpe"]
>>> verify(result.run.id).identical
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from agent.config import Config, load
from agent.core.durations import format_duration
from agent.core.errors import UsageError
from agent.core.events import DAY_MS, Kline
from agent.core.strategy import Strategy
from agent.data.klines import KlineFile
from agent.data.news import NewsFile
from agent.replay.backtest import backtest
from agent.replay.fusion_model import wants_headlines
from agent.replay.history import History, Plan
from agent.research.replay_inputs import NO_SCORING, Scoring, configured_scoring, scoring_with
from agent.research.replay_window import with_overrides
from agent.store.database import Database, open_database
from agent.system.resources import resource
from strategies import BUILT_IN, forget_if_changed
from tapewire.cell_source import MAIN, NotCopiedError, save_source
from tapewire.result import BacktestResult as BacktestResult

if TYPE_CHECKING:
    import pandas as pd

    from agent.data.sentiment import NamedScorer
    from agent.replay.verify import Verification
    from models.sentiment.serve.generator import SentimentSignalGenerator

AGGREGATIONS: Final[dict[str, dict[str, Any]]] = {
    "weighted": {},
    "window": {"half_life": format_duration(3_650 * DAY_MS)},
}
"""How the headlines on a symbol vote. All are weighted by their confidence and forgotten after
`signals.window`:

- `weighted`: a vote also halves with every `signals.half_life`, so that the newest headlines lead;
- `window`: the headlines of the window count alike, however old.
"""


Source: TypeAlias = "pd.DataFrame | str | Path"
"""A frame, or the path of a file."""


class Backtest:
    """Replays bars, and headlines if there are any, through a strategy.

    - `strategy`: a class (of a module, or of the notebook), an instance, whose parameters are used, a
      built-in's name, a file (`mine.py`, `mine.py:Class`), or `package.module:Class`.
    - `klines`: a frame or file of bars, several of them, or a dictionary of them by symbol. A frame has open,
      high, low, close, volume and the bars' open time as index or column; its symbol is the key, or
      `frame.attrs["symbol"]`.
    - `news`: a frame or file of headlines with `title` and `published_at`, best also `currencies` (tickers).
    - `capital`: in the account's currency.
    - `params`: of the strategy, by name.
    - `config`: a configuration, the path of its file, or sections to lay over the one that the command line
      uses, e.g. `{"market": {"category": "equity"}}`.
    - `start`, `end`: of the bars to replay, as text or datetime (UTC if naive); `end` is not included.
    - `settings`: sections to lay over `config`.
    - `scorer`: scores the headlines; by default the model that the configuration names.
    - `folder`: where frames and the source of a notebook's class are kept, so that runs can be verified.

    A class of a notebook is saved as a file with what it uses, and the run uses that file. If that is not
    possible, the run can't be verified, and its `notes` say so. Times are aware, or `history.timezone` names
    their zone. Raises ConfigError and UsageError.
    """

    def __init__(
        self,
        strategy: str | Path | type[Strategy] | Strategy,
        klines: Source | Sequence[Source] | Mapping[str, Source],
        news: Source | None = None,
        *,
        capital: float | None = None,
        params: Mapping[str, Any] | None = None,
        config: Config | str | Path | Mapping[str, Any] | None = None,
        start: Any = None,
        end: Any = None,
        scorer: NamedScorer | None = None,
        settings: Mapping[str, Any] | None = None,
        allow_leakage: bool = False,
        folder: str | Path = "var/frames",
    ) -> None:
        self._folder = Path(folder)
        self._notes: list[str] = []
        given = dict(params or {})
        if isinstance(strategy, Strategy):
            given = strategy.params.model_dump(mode="json") | given
            strategy = type(strategy)
        own: dict[str, Any] = {"strategy": {"name": self._name_of(strategy), "params": given}}
        if capital is not None:
            own["account"] = {"initial_capital": str(capital)}
        sections = dict(settings or {})
        if isinstance(config, Mapping):
            base = with_overrides(load(), dict(config), where="Backtest: config")
        else:
            base = config if isinstance(config, Config) else load(None if config is None else Path(config))
        base = with_overrides(base, sections, where="Backtest: settings")
        if base.sleeves:
            self._notes.append(f"{strategy} takes the place of the {len(base.sleeves)} sleeves")
            own["sleeves"] = []
        self.config = with_overrides(base, own, where="Backtest")
        self._klines = klines
        self._news = news
        self._start, self._end = (_milliseconds(one, name) for one, name in ((start, "start"), (end, "end")))
        self._scorer = scorer
        self._allow_leakage = allow_leakage

    def run(self) -> BacktestResult:
        """Replay, record and measure.

        Raises UsageError if the strategy reads headlines and none are given, DataError for data that can't be
        read, StrategyError if the strategy's own code fails, and LeakageError if the model was trained on
        text of this window.
        """
        config, notes = self.config, [*self._notes]
        forget_if_changed(config.strategy.name)
        reads = wants_headlines(config)
        if reads and self._news is None:
            raise UsageError(
                f"strategy {config.strategy.name} reads headlines, and none are given",
                hint="pass them as `news`: a frame or file with title and published_at",
            )
        if self._news is not None and not reads:
            notes.append(f"news is not read: strategy {config.strategy.name} uses no headlines")
        klines = tuple(
            (self._file(data, symbol, "open_time"), symbol)
            for symbol, data in _by_symbol(self._klines).items()
        )
        news = None
        if self._news is not None and reads:
            news = self._file(self._news, "headlines", "published_at")
        timezone = config.history.timezone or None
        plan = Plan(klines, news, start=self._start, end=self._end, timezone=timezone)
        history = History(plan, config)
        with closing(open_database(config.store.url)) as database:
            scoring = NO_SCORING if news is None else self._scoring(database, history.start)
            done = backtest(
                history,
                database,
                scorer=scoring.scorer,
                stamps=scoring.stamps,
                versions=scoring.versions,
                allow_leakage=self._allow_leakage,
            )
        return BacktestResult(
            done.run, done.metrics, notes + done.notes, config.store.url, standing=done.standing
        )

    def _name_of(self, strategy: str | Path | type[Strategy]) -> str:
        """Return a name by which `verify` finds the class again, and note it if it won't."""
        if isinstance(strategy, str | Path):
            return str(strategy)
        where = f"{strategy.__module__}:{strategy.__qualname__}"
        built_in = next((name for name, place in BUILT_IN.items() if place == where), None)
        if built_in is not None:
            return built_in
        if strategy.__module__ != MAIN:
            file = getattr(sys.modules.get(strategy.__module__), "__file__", None)
            return f"{file}:{strategy.__qualname__}" if file else where
        try:
            path = save_source(strategy, self._folder)
        except NotCopiedError as error:
            if getattr(sys.modules[MAIN], strategy.__name__, None) is not strategy:
                raise UsageError(
                    f"{strategy.__qualname__} can't be run: {error}",
                    hint="define it at the top level of the notebook, or in a file",
                ) from None
            self._notes.append(
                f"the source of {strategy.__name__} can't be kept, so the run can't be verified: {error}; "
                "save it to a file, e.g. with %%writefile mine.py"
            )
            return f"{MAIN}:{strategy.__name__}"
        self._notes.append(f"the source of {strategy.__name__} is kept in {path}, for verify")
        return f"{path}:{strategy.__name__}"

    def _scoring(self, database: Database, start: int) -> Scoring:
        if self._scorer is None:
            return configured_scoring(self.config, database, start, allow_leakage=self._allow_leakage)
        path = self.config.model.path
        return scoring_with(self._scorer, path, database, start, allow_leakage=self._allow_leakage)

    def _file(self, data: Source, name: str, time_column: str) -> Path:
        if isinstance(data, str | Path):
            return Path(data)
        from agent.data.frames import save_frame

        return save_frame(data, name, time_column, self._folder)


class SentimentBacktester:
    """Backtests the `sentiment` strategy with a generator's model; any other strategy is for `Backtest`.

    - `initial_capital`: in the account's currency; `position_size`: fraction of equity a position.
    - `confidence_threshold`: calibrated confidence from which a headline counts and a vote is acted on.
    - `settings`, `config`, `allow_leakage`, `folder`: as for `Backtest`.

    Raises ConfigError for values that are out of range.
    """

    def __init__(
        self,
        generator: SentimentSignalGenerator,
        *,
        initial_capital: float = 10_000,
        position_size: float = 0.1,
        confidence_threshold: float = 0.7,
        settings: Mapping[str, Any] | None = None,
        config: Config | None = None,
        allow_leakage: bool = False,
        folder: str | Path = "var/frames",
    ) -> None:
        own = {
            "model": {"path": generator.name},
            "account": {"initial_capital": str(initial_capital)},
            "signals": {"threshold": confidence_threshold},
            "strategy": {
                "name": "sentiment",
                "params": {"position_size": position_size, "confidence_threshold": confidence_threshold},
            },
        }
        base = with_overrides(config or load(), dict(settings or {}), where="SentimentBacktester: settings")
        self.config = with_overrides(base, own, where="SentimentBacktester")
        self.generator = generator
        self._allow_leakage = allow_leakage
        self._folder = folder

    def run(
        self,
        price_data: Source | Sequence[Source] | Mapping[str, Source],
        news_data: Source,
        signal_aggregation: str = "weighted",
    ) -> BacktestResult:
        """Replay prices and headlines, given as for `Backtest`; `signal_aggregation` is one of
        `AGGREGATIONS`.

        Raises DataError for data that can't be read, LeakageError if the model was trained on text of this
        window, UsageError.
        """
        if signal_aggregation not in AGGREGATIONS:
            raise UsageError(
                f"signal_aggregation {signal_aggregation!r}", hint=f"one of {', '.join(AGGREGATIONS)}"
            )
        return Backtest(
            "sentiment",
            price_data,
            news_data,
            scorer=self.generator.scorer,
            settings={"signals": AGGREGATIONS[signal_aggregation]},
            config=self.config,
            params=self.config.strategy.params,
            allow_leakage=self._allow_leakage,
            folder=self._folder,
        ).run()


def load_klines(path: str | Path, symbol: str | None = None, *, timezone: str | None = None) -> pd.DataFrame:
    """Read a bar file into a frame indexed by open time (UTC): open, high, low, close, volume, turnover.

    `symbol` is needed if neither the file nor its name states one; `timezone` names the zone of times without
    one. `frame.attrs["notes"]` counts gaps and duplicates, and states what of the file is not used. Raises
    DataError and UsageError.
    """
    from agent.data.frames import klines_frame

    file = KlineFile(path, symbol, timezone=timezone)
    bars = [event for event in file if isinstance(event, Kline)]
    rows = [(b.start, b.open, b.high, b.low, b.close, b.volume, b.turnover) for b in bars]
    frame = klines_frame(rows, file.symbol)
    counts = {"gaps": file.stats.gaps, "duplicate bars left out": file.stats.duplicates}
    frame.attrs["notes"] = [*file.notes, *(f"{what}: {n:,}" for what, n in counts.items() if n)]
    return frame


def load_news(path: str | Path, *, timezone: str | None = None) -> pd.DataFrame:
    """Read a file of headlines into a frame, oldest first: published_at, title, summary, publisher, url,
    currencies, id.

    Headlines that a backtest leaves out (without a time or title, duplicates) are left out;
    `frame.attrs["notes"]` counts them. Raises DataError.
    """
    import pandas as pd

    file = NewsFile(path, 0, timezone=timezone)
    columns = ("ts", "title", "summary", "publisher", "url", "currencies", "id")
    rows = [[getattr(news, name) for name in columns] for news in file]
    frame = pd.DataFrame(rows, columns=["published_at", *columns[1:]])
    frame["published_at"] = pd.to_datetime(frame["published_at"], unit="ms", utc=True)
    frame.attrs["notes"] = file.stats.notes()
    return frame


def verify(run: str = "latest", *, store: str | None = None, trust_strategy: bool = False) -> Verification:
    """Decide a recorded run again from its inputs and compare every decision.

    `run` is its id, the beginning of it, or `latest`; `store` the URL of the store, by default the configured
    one. Raises UsageError if there is no such run, DataError if an input file has changed, SafetyError if the
    strategy's file has changed (`trust_strategy` imports it anyway).
    """
    from agent.replay.verify import verify as decide_again
    from agent.store.queries import find_run

    settled = load()
    with closing(open_database(store or settled.store.url, create=False)) as database:
        return decide_again(
            database, find_run(database, run), trust_strategy=trust_strategy, folder=settled.live.folder
        )


def sample_data(name: str) -> Path:
    """Return the path of a file of the sample data: BTCUSDT-1m.csv, ETHUSDT-1m.csv or headlines.csv."""
    path = resource("sample_data") / name
    if not path.is_file():
        names = sorted(one.name for one in path.parent.glob("*.csv"))
        raise UsageError(f"no sample {name!r}", hint=f"one of {', '.join(names)}")
    return path


def _by_symbol(data: Source | Sequence[Source] | Mapping[str, Source]) -> dict[str, Source]:
    """Return the bars of each symbol. Raises UsageError if a symbol is unknown or named twice."""
    if isinstance(data, Mapping):
        return {symbol.upper(): one for symbol, one in data.items()}
    found: dict[str, Source] = {}
    parts: Sequence[Any] = data if isinstance(data, list | tuple) else [data]
    for part in parts:
        if isinstance(part, str | Path):
            path, stated = KlineFile.parse_argument(str(part))
            symbol, one = stated or KlineFile(path).symbol, path
        else:
            symbol, one = str(part.attrs.get("symbol") or ""), part
        if not symbol:
            raise UsageError(
                "the frame doesn't say whose prices it has",
                hint='pass {"SPY": frame}, or set frame.attrs["symbol"]',
            )
        if symbol in found:
            raise UsageError(f"klines hold {symbol} twice")
        found[symbol] = one
    return found


def _milliseconds(moment: Any, name: str) -> int | None:
    """Return UTC ms of a text or datetime. Raises UsageError."""
    if moment is None:
        return None
    import pandas as pd

    try:
        time = pd.Timestamp(moment)
    except (ValueError, TypeError):
        raise UsageError(f"{name}={moment!r} is no date", hint="write 2025-01-31 or a datetime") from None
    return int((time.tz_localize("UTC") if time.tzinfo is None else time).timestamp() * 1000)
