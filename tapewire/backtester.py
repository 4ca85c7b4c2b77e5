"""Backtests from a script or a notebook: the same engine and the same result as `tapewire backtest` on the
same data.

>>> result = Backtest("sma_cross", {"BTCUSDT": frame}, params={"fast": 20, "slow": 100}).run()
>>> result.metrics.performance.sharpe
>>> verify(result.run.id).identical
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.analysis.report.verdict import Verdict, verdict_of
from agent.analysis.run_metrics import Metrics
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
from agent.store.runs import Run

if TYPE_CHECKING:
    import pandas as pd

    from agent.analysis.report.report_data import ReportData
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


class BacktestResult:
    """A finished run. It is recorded: `tapewire report` and `tapewire verify` know it by `run.id`."""

    def __init__(self, run: Run, metrics: Metrics, notes: list[str], store: str) -> None:
        self.run, self.metrics, self.notes = run, metrics, notes
        self._store = store

    @cached_property
    def data(self) -> ReportData:
        """All that the report is made of."""
        from agent.analysis.report.report_loader import load_report_data

        with closing(open_database(self._store, create=False)) as database:
            return load_report_data(database, self.run.id)

    @property
    def verdict(self) -> Verdict:
        """What came of it in words, with what to distrust."""
        return verdict_of(self.data)

    @property
    def equity(self) -> pd.Series[float]:
        """The account by time (UTC), thinned to about 4,000 points."""
        import pandas as pd

        times = pd.to_datetime(self.data.equity.ts, unit="ms", utc=True)
        return pd.Series(self.data.equity.values, index=times, name="equity")

    def report(self, page: str | Path) -> Path:
        """Write the HTML report, and its JSON twin beside it."""
        from agent.analysis.report.html import write_report

        return write_report(self.data, Path(page))[0]


class Backtest:
    """Replays bars, and headlines if there are any, through a strategy.

    - `strategy`: a built-in's name, a file (`mine.py`, `mine.py:Class`), `package.module:Class`, or the class
      itself if it is in a file.
    - `klines`: a frame or file of bars, or several by symbol. A frame has open, high, low, close, volume and
      the bars' open time as index or column; its symbol is the key, or `frame.attrs["symbol"]`.
    - `news`: a frame or file of headlines with `title` and `published_at`, best also `currencies` (tickers).
    - `params`: of the strategy, by name.
    - `scorer`: scores the headlines; by default the model that the configuration names.
    - `settings`: sections of config.toml to lay over `config` (by default the one that the command line
      uses), e.g. `{"market": {"category": "equity"}}`.
    - `folder`: where frames are kept as files, so that their runs can be verified.

    Times are aware, or `history.timezone` names their zone. Raises ConfigError and UsageError.
    """

    def __init__(
        self,
        strategy: str | type[Strategy],
        klines: pd.DataFrame | str | Path | Mapping[str, pd.DataFrame | str | Path],
        news: pd.DataFrame | str | Path | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        scorer: NamedScorer | None = None,
        settings: Mapping[str, Any] | None = None,
        config: Config | None = None,
        allow_leakage: bool = False,
        folder: str | Path = "var/frames",
    ) -> None:
        name = strategy if isinstance(strategy, str) else _name_of(strategy)
        own = {"strategy": {"name": name, "params": dict(params or {})}}
        base = with_overrides(config or load(), dict(settings or {}), where="Backtest: settings")
        self.config = with_overrides(base, own, where="Backtest: params")
        self._klines = klines
        self._news = news
        self._scorer = scorer
        self._allow_leakage = allow_leakage
        self._folder = Path(folder)

    def run(self) -> BacktestResult:
        """Replay, record and measure.

        Raises UsageError if the strategy reads headlines and none are given, DataError for data that can't be
        read, and LeakageError if the model was trained on text of this window.
        """
        config, reads, unread = self.config, wants_headlines(self.config), []
        if reads and self._news is None:
            raise UsageError(
                f"strategy {config.strategy.name} reads headlines, and none are given",
                hint="pass them as `news`: a frame or file with title and published_at",
            )
        if self._news is not None and not reads:
            unread = [f"news is not read: strategy {config.strategy.name} uses no headlines"]
        klines = tuple(
            (self._file(data, symbol, "open_time"), symbol)
            for symbol, data in _by_symbol(self._klines).items()
        )
        news = None
        if self._news is not None and reads:
            news = self._file(self._news, "headlines", "published_at")
        history = History(Plan(klines, news, timezone=config.history.timezone or None), config)
        with closing(open_database(config.store.url)) as database:
            scoring = NO_SCORING if news is None else self._scoring(database, history.start)
            done = backtest(
                history, database, scorer=scoring.scorer, stamps=scoring.stamps, versions=scoring.versions
            )
        return BacktestResult(done.run, done.metrics, unread + done.notes, config.store.url)

    def _scoring(self, database: Database, start: int) -> Scoring:
        if self._scorer is None:
            return configured_scoring(self.config, database, start, allow_leakage=self._allow_leakage)
        path = self.config.model.path
        return scoring_with(self._scorer, path, database, start, allow_leakage=self._allow_leakage)

    def _file(self, data: pd.DataFrame | str | Path, name: str, time_column: str) -> Path:
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
        price_data: pd.DataFrame | str | Path | Mapping[str, pd.DataFrame | str | Path],
        news_data: pd.DataFrame | str | Path,
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

    with closing(open_database(store or load().store.url, create=False)) as database:
        return decide_again(database, find_run(database, run), trust_strategy=trust_strategy)


def _name_of(strategy: type[Strategy]) -> str:
    """A name by which `verify` finds the class again. Raises UsageError for a class that is in no file."""
    module = sys.modules[strategy.__module__]
    file = getattr(module, "__file__", None)
    if not file:
        raise UsageError(
            f"{strategy.__qualname__} is in no file, so its runs could not be verified",
            hint="save it to a file, e.g. with %%writefile mine.py, and give its name",
        )
    return f"{file}:{strategy.__qualname__}"


def _by_symbol(
    data: pd.DataFrame | str | Path | Mapping[str, pd.DataFrame | str | Path],
) -> Mapping[str, pd.DataFrame | str | Path]:
    if isinstance(data, str | Path):
        return {KlineFile(data).symbol: data}
    if isinstance(data, Mapping):
        return {symbol.upper(): one for symbol, one in data.items()}
    symbol = data.attrs.get("symbol")
    if not symbol:
        raise UsageError(
            "the frame doesn't say whose prices it has",
            hint='pass {"SPY": frame}, or set frame.attrs["symbol"]',
        )
    return {str(symbol): data}
