"""Moves of BTC and ETH around headlines: in the direction of the model's answer, by label, asset and kind.

Reads columns, not the engine. One observation is a headline and an asset that its title is about, by the
rules of the engine (names, `[signals] macro_keywords`; tickers of the source are ignored: live feeds have
none). Of each story only the first headline counts; stories are found as in the engine, among the headlines
of publishers (`is_social` false). The answer is the one for the asset, or the headline's own if it has none.

A move is a log return in bps, before costs, from the open of the first minute after publication + delay
(`history.feed_delay`, 1 minute) to the open so many minutes later. `before` is the hour up to the minute of
publication. The mean move of the asset over the same time in the window is subtracted (constant-mean-return
model). Intervals are 95 %, from the bootstrap over days. Moves of a day overlap with those of the next day,
so intervals of `1d` are too narrow.

Rule for the default of `[signals] kinds`, fixed before it was applied to a model: a kind of news stops voting
by default if, at confidence ≥ 0.7 and over 60 minutes,

1. in the first half, its mean move in the direction of the answer is ≤ 0, and
2. there its interval is wholly below 4 bps, the two maker fees that are the cheapest round trip, and
3. in the second half its mean is ≤ 0, too.

A kind with fewer than 10 days in a half keeps voting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from agent.analysis.daily import Floats, Ints
from agent.analysis.day_bootstrap import FEW_DAYS, DayBootstrap, band
from agent.core.deduplication import HeadlineDeduplicator
from agent.core.events import MINUTE_MS, News
from agent.core.news_kinds import NEWS_KINDS
from agent.core.settings import SignalsConfig
from agent.core.symbols import AssetFinder, SymbolMapper, base_of
from agent.data.news import NewsFile
from models.labels import LABELS
from models.sentiment.serve.headline_score import HeadlineScore

BEFORE: Final = 60
HORIZONS: Final = {"5m": 5, "15m": 15, "60m": 60, "4h": 240, "1d": 1440}
COLUMNS: Final = ("before", *HORIZONS)
JUDGED: Final = COLUMNS.index("60m")
CONFIDENT: Final = 0.7
THRESHOLDS: Final = (0.0, CONFIDENT)
CHEAPEST_ROUND_TRIP: Final = 4.0
"""Bps: twice the maker fee of linear contracts."""

SIGN: Final = np.array([-1.0, 0.0, 1.0])
"""Direction of each of `LABELS`."""


class Opens(NamedTuple):
    """Opening prices by minute, NaN where there is no bar; `first` is the first one's minute since 1970."""

    first: int
    price: Floats

    def at(self, minutes: Ints) -> Floats:
        """Return the opens of these minutes, NaN outside."""
        rows = minutes - self.first
        inside = (rows >= 0) & (rows < len(self.price))
        return np.where(inside, self.price[np.clip(rows, 0, len(self.price) - 1)], np.nan)

    def drift(self, start: int, end: int) -> float:
        """Return the mean log return of a minute in [start, end), minutes since 1970."""
        prices = self.price[max(start - self.first, 0) : max(end - self.first, 0)]
        known = np.flatnonzero(~np.isnan(prices))
        return float(np.log(prices[known[-1]] / prices[known[0]]) / (known[-1] - known[0]))


class Observations(NamedTuple):
    """One row for each headline and asset, (n,); `moves` (n, COLUMNS) are bps, NaN beyond the bars."""

    published: Ints  # UTC ms
    asset: NDArray[np.str_]
    label: Ints  # index of `LABELS`
    confidence: Floats
    kind: NDArray[np.str_]
    moves: Floats

    def select(self, which: NDArray[np.bool_]) -> Observations:
        """Return these rows."""
        return Observations(*(column[which] for column in self))


def read_opens(path: Path) -> Opens:
    """Read a parquet file of one-minute klines with `open_time` and `open`."""
    table = pq.read_table(path, columns=["open_time", "open"])
    times = table["open_time"].cast(pa.timestamp("ms", "UTC")).cast("int64").to_numpy() // MINUTE_MS
    prices = np.full(int(times.max() - times.min()) + 1, np.nan)
    prices[times - times.min()] = table["open"].to_numpy()
    return Opens(int(times.min()), prices)


def publishers_only(path: Path, target: Path) -> Path:
    """Write the headlines of publishers to `target`: rows whose `is_social`, if there is one, is false."""
    table = pq.read_table(path)
    if "is_social" in table.column_names:
        table = table.filter(pc.invert(pc.fill_null(table["is_social"], True)))
    pq.write_table(table, target)
    return target


def first_of_stories(headlines: Sequence[News]) -> list[News]:
    """Return the first headline of each story, by the engine's defaults; `headlines` are by availability."""
    config = SignalsConfig()
    stories = HeadlineDeduplicator(config.story_similarity, config.story_window)
    return [news for news in headlines if stories.add(news.id, news.title, news.available_at) == news.id]


def observe(
    headlines: Sequence[News],
    scores: Sequence[HeadlineScore],
    opens: Mapping[str, Opens],
    window: tuple[int, int],
) -> tuple[Observations, dict[str, int]]:
    """Return the observations published in `window` (UTC ms) on the symbols of `opens`, and counts.

    `headlines` are the first ones of their stories, with their `scores`. The drift is that of the window.
    """
    mapper = SymbolMapper(tuple(opens), {}, SignalsConfig().macro_keywords)
    start, end = window
    drift = {symbol: own.drift(start // MINUTE_MS, end // MINUTE_MS) for symbol, own in opens.items()}
    rows: list[tuple[int, int, str, int, float, str]] = []
    counts = dict.fromkeys(("headlines", "abstained", "about no traded asset", "without bars around"), 0)
    for news, score in zip(headlines, scores, strict=True):
        if not start <= news.ts < end:
            continue
        counts["headlines"] += 1
        if score.abstained:
            counts["abstained"] += 1
            continue
        symbols = mapper.map(news.title)
        counts["about no traded asset"] += not symbols
        own = {answer.asset: answer for answer in score.assets}
        for symbol in symbols:
            answer = own.get(base_of(symbol), score)
            three = (answer.bearish, answer.neutral, answer.bullish)
            label = three.index(max(three))
            rows.append((news.ts, news.available_at, symbol, label, three[label], score.kind))
    published, available, symbol, label, confidence, kind = zip(*rows, strict=True) if rows else ((),) * 6
    published_at, symbols_of = np.array(published, np.int64), np.array(symbol, np.str_)
    moves = np.full((len(rows), len(COLUMNS)), np.nan)
    for name, own_opens in opens.items():
        which = symbols_of == name
        moves[which] = moves_around(
            own_opens, published_at[which], np.array(available, np.int64)[which], drift[name]
        )
    found = Observations(
        published_at,
        np.array([base_of(name) for name in symbol], np.str_),
        np.array(label, np.int64),
        np.array(confidence),
        np.array(kind, np.str_),
        moves,
    )
    complete = ~np.isnan(moves).any(axis=1)
    counts["without bars around"] = int((~complete).sum())
    return found.select(complete), counts


def moves_around(opens: Opens, published: Ints, available: Ints, drift: float) -> Floats:
    """Return the moves (n, COLUMNS) in bps around headlines published and available at these UTC ms.

    `drift`, the log return of an average minute, is subtracted for each minute of a move.
    """
    known, entry = published // MINUTE_MS, -(-available // MINUTE_MS)
    spans = [(known - BEFORE, known, BEFORE)]
    spans += [(entry, entry + minutes, minutes) for minutes in HORIZONS.values()]
    logs = [np.log(opens.at(end) / opens.at(begin)) - minutes * drift for begin, end, minutes in spans]
    return np.column_stack(logs) * 1e4


def study(rows: Observations) -> dict[str, Any]:
    """Return mean moves with intervals at each threshold: by asset and label, and by kind."""
    days = DayBootstrap(rows.published)
    result: dict[str, Any] = {}
    for threshold in THRESHOLDS:
        sure = rows.confidence >= threshold
        kinds = [kind for kind in NEWS_KINDS if (rows.kind == kind).any()]
        groups = {"all": sure} | {asset: sure & (rows.asset == asset) for asset in np.unique(rows.asset)}
        result[str(threshold)] = {
            "by_asset": {str(name): _figures(rows, days, which) for name, which in groups.items()},
            "by_kind": {kind: _figures(rows, days, sure & (rows.kind == kind)) for kind in kinds},
        }
    return result


def _figures(rows: Observations, days: DayBootstrap, which: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the cells of a group: each label's mean move, in the direction of the answer, and the spread."""
    cells: dict[str, Any] = {}
    draws: dict[str, Floats] = {}
    for number, label in enumerate(LABELS):
        mine = which & (rows.label == number)
        cells[label], draws[label] = _cell(days, mine, rows.moves)
    sign = SIGN[rows.label]
    cells["in direction"], _ = _cell(days, which & (sign != 0), rows.moves * sign[:, None])
    both = [cells["bullish"], cells["bearish"]]
    means = [cell["mean"] for cell in both]
    if all(means):
        spread = draws["bullish"] - draws["bearish"]
        cells["bullish minus bearish"] = _described(
            sum(cell["headlines"] for cell in both),
            min(cell["days"] for cell in both),
            np.subtract(means[0], means[1]),
            spread,
        )
    return cells


def _cell(days: DayBootstrap, which: NDArray[np.bool_], moves: Floats) -> tuple[dict[str, Any], Floats]:
    """Return the mean of the chosen rows of `moves` with its interval, and its draws (draws, COLUMNS)."""
    chosen = np.flatnonzero(which)
    day = days.row_of(chosen)
    sums = np.column_stack(
        [np.bincount(day, weights, days.days) for weights in (np.ones(len(chosen)), *moves[chosen].T)]
    )
    totals = days.of_day_sums(sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = totals[:, 1:] / totals[:, :1]
    mean = moves[chosen].mean(axis=0) if len(chosen) else np.array([])
    return _described(len(chosen), len(np.unique(day)), mean, draws), draws


def _described(headlines: int, days: int, mean: Floats, draws: Floats) -> dict[str, Any]:
    """Return a cell; without an interval if it has few days."""
    cell: dict[str, Any] = {
        "headlines": headlines,
        "days": days,
        "mean": [round(x, 2) for x in mean.tolist()],
    }
    if days >= FEW_DAYS:
        low, high = band(draws)
        cell["low"], cell["high"] = ([round(x, 2) for x in side.tolist()] for side in (low, high))
    return cell


def judge_kinds(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Apply the rule of this module to the studies of both halves.

    Returns for each kind its cells, `fails_first` (conditions 1 and 2), `holds` (condition 3) and `votes`.
    """
    found = {}
    for kind in NEWS_KINDS:
        cells = [
            half[str(CONFIDENT)]["by_kind"].get(kind, {}).get("in direction", {}) for half in (first, second)
        ]
        enough = all("high" in cell for cell in cells)
        fails = bool(
            enough and cells[0]["mean"][JUDGED] <= 0 and cells[0]["high"][JUDGED] < CHEAPEST_ROUND_TRIP
        )
        holds = bool(enough and cells[1]["mean"][JUDGED] <= 0)
        found[kind] = {
            "first": _at_60_minutes(cells[0]),
            "second": _at_60_minutes(cells[1]),
            "enough_days": enough,
            "fails_first": fails,
            "holds": holds,
            "votes": not (fails and holds),
        }
    return found


def _at_60_minutes(cell: Mapping[str, Any]) -> dict[str, Any]:
    names = [name for name in ("mean", "low", "high") if cell.get(name)]
    return {"headlines": cell.get("headlines", 0)} | {name: cell[name][JUDGED] for name in names}


def score_titles(
    model: Path,
    titles: Sequence[str],
    symbols: Sequence[str],
    store: Path,
    progress: Callable[[int, int], None],
) -> tuple[list[HeadlineScore], dict[str, Any]]:
    """Return the scores of the titles and the model's facts; the SQLite database `store` keeps the scores.

    An interrupted call continues where it stopped.
    """
    from agent.store.database import open_database
    from models.sentiment.serve.history_scoring import score_history
    from models.sentiment.serve.score_cache import CachedScorer, SqlScoreCache
    from models.sentiment.serve.scorer import Scorer

    scorer = Scorer.load(model, finder=AssetFinder(symbols, {}))
    with closing(open_database(f"sqlite:///{store}")) as database:
        cached = CachedScorer(scorer, SqlScoreCache(database))
        score_history(cached, titles, progress=progress)
        scores = cached.score(titles)
    card = scorer.card
    return scores, {
        "fingerprint": card.fingerprint[:12],
        "trained_until": card.trained_until_iso,
        "reads_assets": scorer.reads_assets,
        "kinds": list(card.kinds),
    }


def run(
    klines: Mapping[str, Path],
    news: Path,
    model: Path,
    folder: Path,
    *,
    window: tuple[str, str, str],
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> dict[str, Any]:
    """Return the study of the whole window and of its halves; `window` are ISO dates start, cut, end."""
    start, cut, end = (to_ms(day) for day in window)
    own = publishers_only(news, folder / "publishers.parquet")
    source = NewsFile(own, start=start, end=end)
    known = list(source)
    stories = first_of_stories(known)
    opens = {symbol: read_opens(path) for symbol, path in klines.items()}
    scores, facts = score_titles(
        model, [item.title for item in stories], tuple(klines), folder / "judge.db", progress
    )
    result: dict[str, Any] = {
        "model": facts,
        "window": list(window),
        "headlines": len(known),
        "stories": len(stories),
        "notes": source.stats.notes(),
        "columns": list(COLUMNS),
    }
    for name, part in (("all", (start, end)), ("first", (start, cut)), ("second", (cut, end))):
        rows, counts = observe(stories, scores, opens, part)
        result[name] = {"counts": counts, "observations": len(rows.published), "moves": study(rows)}
    result["kinds"] = (
        judge_kinds(result["first"]["moves"], result["second"]["moves"]) if facts["kinds"] else {}
    )
    return result


def to_ms(day: str) -> int:
    """Return the UTC ms of an ISO date."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)
