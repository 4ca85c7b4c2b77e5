"""A backtest from a script or a notebook: frames in, the same engine, the same result as `tapewire backtest` on the same data.

>>> backtester = SentimentBacktester(generator, initial_capital=10_000, position_size=0.1, confidence_threshold=0.7)
>>> result = backtester.run({"BTCUSDT": prices}, headlines, signal_aggregation="weighted")
>>> result.metrics.performance.sharpe
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.analysis.metrics import Metrics
from agent.analysis.report.verdict import Verdict, verdict_of
from agent.config import Config, load, parse
from agent.core.durations import format_duration
from agent.core.errors import UsageError
from agent.core.events import DAY_MS
from agent.data.klines import KlineFile
from agent.replay.backtest import backtest
from agent.replay.history import History, Plan
from agent.research.material import scoring_by
from agent.store.database import open_database
from agent.store.runs import Run

if TYPE_CHECKING:
    import pandas as pd

    from agent.analysis.report.data import ReportData
    from models.sentiment.serve.generator import SentimentSignalGenerator

AGGREGATIONS: Final[dict[str, dict[str, Any]]] = {
    "weighted": {},
    "window": {"half_life": format_duration(3_650 * DAY_MS)},
}
"""How the headlines on a symbol vote. All are weighted by their confidence and forgotten after `signals.window`:

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
        from agent.analysis.report.load import load_report_data

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
        from agent.analysis.report.write import write_report

        return write_report(self.data, Path(page))[0]


class SentimentBacktester:
    """Trades the `sentiment` strategy on what a model says of headlines.

    - `initial_capital`: in the account's currency; `position_size`: fraction of equity a position.
    - `confidence_threshold`: calibrated confidence from which a headline counts and a vote is acted on.
    - `settings`: sections of config.toml to lay over `config` (default: as for the command line), e.g.
      `{"market": {"category": "equity"}, "strategy": {"params": {"allow_short": True}}}`.
    - `folder`: where frames are kept as files, so that their runs can be verified.

    Raises ConfigError for what can't be.
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
        base = (config or load()).model_dump(mode="json")
        self.config = parse(_laid_over(_laid_over(base, settings or {}), own), where="SentimentBacktester")
        self.generator = generator
        self._allow_leakage = allow_leakage
        self._folder = Path(folder)

    def run(
        self,
        price_data: pd.DataFrame | str | Path | Mapping[str, pd.DataFrame | str | Path],
        news_data: pd.DataFrame | str | Path,
        signal_aggregation: str = "weighted",
    ) -> BacktestResult:
        """Replay prices and headlines: frames or files, prices by symbol where they don't name it themselves.

        Prices have open, high, low, close, volume and the bars' open time as index or column; headlines have `title` and
        `published_at`, best also `currencies` (tickers). Times are aware, or `history.timezone` names their zone.

        Raises DataError for data that can't be read, LeakageError where the model was trained on text of this window, UsageError.
        """
        if signal_aggregation not in AGGREGATIONS:
            raise UsageError(
                f"signal_aggregation {signal_aggregation!r}", hint=f"one of {', '.join(AGGREGATIONS)}"
            )
        votes = {"signals": AGGREGATIONS[signal_aggregation]}
        config = parse(_laid_over(self.config.model_dump(mode="json"), votes), where="SentimentBacktester")
        klines = tuple(
            (self._file(data, symbol, "open_time"), symbol) for symbol, data in _by_symbol(price_data).items()
        )
        news = self._file(news_data, "headlines", "published_at")
        history = History(Plan(klines, news, timezone=config.history.timezone or None), config)
        with closing(open_database(config.store.url)) as database:
            scorer, stamps, versions = scoring_by(
                self.generator.scorer,
                self.generator.name,
                database,
                history.start,
                allow_leakage=self._allow_leakage,
            )
            done = backtest(history, database, scorer=scorer, stamps=stamps, versions=versions)
        return BacktestResult(done.run, done.metrics, done.notes, config.store.url)

    def _file(self, data: pd.DataFrame | str | Path, name: str, time_column: str) -> Path:
        if isinstance(data, str | Path):
            return Path(data)
        from agent.data.frames import save_frame

        return save_frame(data, name, time_column, self._folder)


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


def _laid_over(base: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `base`, table by table."""
    merged = dict(base)
    for key, value in above.items():
        inside = merged.get(key)
        merged[key] = (
            _laid_over(inside, value) if isinstance(value, Mapping) and isinstance(inside, Mapping) else value
        )
    return merged
