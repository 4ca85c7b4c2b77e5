"""What-if: without a change both lives are the recorded run; a change from the beginning is a backtest with
it; a change from a later event on leaves everything before it as it was.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.config import Config, parse
from agent.core.errors import ConfigError, UsageError
from agent.core.events import HOUR_MS, Decision, Fill, News, Order, RiskEvent, Sentiment, Signal
from agent.replay.backtest import backtest
from agent.replay.history import History, Plan
from agent.replay.recorded_inputs import RecordedInputs, load_inputs
from agent.replay.what_if import Change, FoldedLife, changed_event, fold_on
from agent.research.story_results import StoryResult, story_results
from agent.store.database import Database, open_database, upgrade
from agent.store.queries import find_run, read_decisions, read_rows
from agent.store.runs import RunStatus
from models.sentiment.serve.headline_score import HeadlineScore
from tests.conftest import ROOT
from tests.support.live import SAMPLES, Words
from tests.support.recorded_venue import Venue, configuration, record

KLINES = ((SAMPLES / "BTCUSDT-1m.csv", None), (SAMPLES / "ETHUSDT-1m.csv", None))
KLINES_START = 1_740_916_800_000  # 2025-03-02T12:00Z, when the sample bars begin
PARAMS = {"position_size": 0.5, "allow_short": True}


def config_of(folder: Path, **sections: object) -> Config:
    given = {
        "strategy": {"name": "sentiment", "params": PARAMS},
        "store": {"url": f"sqlite:///{folder / 'store.db'}"},
    }
    return parse(given | sections, where="test")


def run_of(
    database: Database, config: Config, headlines: Path = SAMPLES / "headlines.csv", scorer: Any = None
) -> RecordedInputs:
    done = backtest(History(Plan(KLINES, headlines), config), database, scorer=scorer or Words())
    return load_inputs(database, done.run)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, Config, RecordedInputs]]:
    """A store with a backtest of the sample data by the sentiment strategy."""
    config = config_of(tmp_path_factory.mktemp("what-if"))
    with closing(open_database(config.store.url)) as database:
        yield database, config, run_of(database, config)


@pytest.fixture
def source(store: tuple[Database, Config, RecordedInputs]) -> RecordedInputs:
    return store[2]


def decisions(life: FoldedLife, before: int | None = None) -> list[Decision]:
    return [made.decision for made in life.decisions if before is None or made.event_seq < before]


def without_ids(all_of_them: Sequence[Decision]) -> list[str]:
    """Decisions as text, without the order ids, which are hashes of the run's id."""
    return [str({k: v for k, v in _fields(one).items() if "id" not in k}) for one in all_of_them]


def _fields(one: Decision) -> dict[str, Any]:
    return {"kind": type(one).__name__} | {name: getattr(one, name) for name in one.__struct_fields__}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.37, 0.5, 0.73, 1.0])
def test_without_a_change_both_lives_are_the_recorded_run(source: RecordedInputs, share: float) -> None:
    begins = max(1, round(share * len(source.events)))
    found = fold_on(source, Change(), begins=begins)
    assert found.as_recorded is True
    assert found.difference is None
    assert found.changed.decisions == found.as_it_was.decisions
    assert found.changed.metrics == found.as_it_was.metrics
    assert msgspec.to_builtins(found.as_it_was.metrics) == source.run.metrics
    assert (found.changed.times, found.changed.equity) == (found.as_it_was.times, found.as_it_was.equity)
    assert found.changed.final_equity == source.run.final_equity
    assert len(found.changed.decisions) == source.run.decisions > 50


def test_the_metrics_of_a_window_begin_after_its_warm_up(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    start = KLINES_START + 12 * HOUR_MS
    plan = Plan(KLINES, SAMPLES / "headlines.csv", start=start, warmup=6 * HOUR_MS, close_out=True)
    with closing(open_database(config.store.url)) as database:
        done = backtest(History(plan, config), database, scorer=Words())
        source = load_inputs(database, done.run)
        for begins in (1, len(source.events) // 2):
            found = fold_on(source, Change(), begins=begins)
            assert found.as_recorded is True
            assert found.as_it_was.metrics == found.changed.metrics == done.metrics
            assert found.as_it_was.times[0] > start


def test_a_run_that_did_not_complete_is_not_compared(source: RecordedInputs) -> None:
    run = msgspec.structs.replace(source.run, status=RunStatus.INTERRUPTED, chain_head="")
    assert fold_on(source._replace(run=run), Change()).as_recorded is None


def test_a_recorded_live_run_at_a_venue_is_folded_on_paper(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    recorded = ROOT / "tests" / "store" / "recorded" / "live-0007.db.gz"
    (tmp_path / "store.db").write_bytes(gzip.decompress(recorded.read_bytes()))
    upgrade(url)
    with closing(open_database(url)) as database:
        source = load_inputs(database, find_run(database))
    found = fold_on(source, Change(), begins=len(source.events) // 2)
    assert found.as_recorded is None
    assert found.on_paper is False
    assert found.difference is None
    assert any(isinstance(one, Fill) for one in decisions(found.as_it_was))


def test_the_capital_of_a_run_at_a_venue_is_the_balance_that_the_venue_stated(tmp_path: Path) -> None:
    account = {"initial_capital": 2_000}  # the venue has 100,000
    config = configuration(
        ("BTCUSDT",), {"name": "sma_cross", "params": {"fast": 3, "slow": 7}}, account=account
    )
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as database:
        run = record(database, config, Venue(), minutes=90)
        source = load_inputs(database, run)
        first = next(iter(read_rows(database, run.id, Order)))
    found = fold_on(source, Change())
    assert 90_000 < found.as_it_was.final_equity < 110_000
    assert next(one for one in decisions(found.as_it_was) if isinstance(one, Order)).qty == first.qty


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("signals", "threshold", "0.95"),
        ("signals", "half_life", "5m"),
        ("paper", "half_spread_bps", "25"),
        ("paper", "latency", "90s"),
        ("paper", "taker_fee", '"0.002"'),
        ("risk", "max_position", "0.1"),
        ("risk", "max_drawdown", "0.002"),
    ],
)
def test_a_setting_from_the_beginning_is_a_backtest_with_it(
    store: tuple[Database, Config, RecordedInputs], tmp_path: Path, section: str, key: str, value: str
) -> None:
    found = fold_on(store[2], Change({f"{section}.{key}": value}))
    config = config_of(tmp_path, **{section: {key: value.strip('"')}})
    with closing(open_database(config.store.url)) as database:
        other = run_of(database, config)
        expected = [made.decision for made in read_decisions(database, other.run.id)]
    assert found.changed.final_equity == other.run.final_equity
    assert without_ids(decisions(found.changed)) == without_ids(expected)
    assert without_ids(expected) != without_ids(decisions(found.as_it_was))


def test_other_parameters_and_another_strategy_are_backtests_with_them(
    store: tuple[Database, Config, RecordedInputs], tmp_path: Path
) -> None:
    config = config_of(tmp_path)
    params = config.strategy.model_copy(update={"params": PARAMS | {"position_size": 0.2}})
    crossing = config.strategy.model_copy(update={"name": "sma_cross", "params": {"fast": 5}})
    for change, strategy in (
        (Change(params={"position_size": "0.2"}), params),
        (Change(strategy="sma_cross", params={"fast": "5"}), crossing),
    ):
        found = fold_on(store[2], change)
        other = config.model_copy(update={"strategy": strategy})
        with closing(open_database(config.store.url)) as database:
            assert found.changed.final_equity == run_of(database, other).run.final_equity
        assert found.difference is not None


@pytest.mark.parametrize(
    "settings",
    [
        {"signals.threshold": 0.95},
        {"signals.half_life": "5m"},
        {"paper.half_spread_bps": 25},
        {"paper.latency": "90s"},
        {"paper.taker_fee": "0.002"},
        {"risk.max_position": 0.1},
    ],
    ids=str,
)
def test_a_setting_from_an_event_on_changes_nothing_before_it(
    source: RecordedInputs, settings: dict[str, Any]
) -> None:
    begins = len(source.events) // 2
    found = fold_on(source, Change(settings), begins=begins)
    assert decisions(found.changed, begins) == decisions(found.as_it_was, begins)
    assert found.difference is not None
    assert found.difference.event_seq >= begins
    at_once = fold_on(source, Change(settings))
    assert at_once.changed.final_equity != found.changed.final_equity != found.as_it_was.final_equity


def test_fills_pay_the_other_spread_from_the_event_on(source: RecordedInputs) -> None:
    """25 bps instead of 0.5 bps: a fill that reaches the other life at the same price costs 24.5 bps more."""
    begins = len(source.events) // 2
    found = fold_on(source, Change({"paper.half_spread_bps": 25}), begins=begins)
    before, after = (
        [one for one in decisions(life) if isinstance(one, Fill)] for life in (found.as_it_was, found.changed)
    )
    first = next(i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a.price != b.price)
    a, b = before[first], after[first]
    assert (a.qty, a.side, a.ts) == (b.qty, b.side, b.ts)
    worse = a.side.sign * (float(b.price) / float(a.price) - 1)
    assert worse == pytest.approx(0.00245, abs=2e-6)  # prices are on the tick


def test_a_closer_drawdown_limit_halts_where_equity_crosses_it(source: RecordedInputs) -> None:
    """The peak is that of the whole run, also of the part before the change."""
    begins = len(source.events) // 2
    limit = 0.003
    found = fold_on(source, Change({"risk.max_drawdown": limit}), begins=begins)
    halted = next(one for one in decisions(found.changed) if isinstance(one, RiskEvent))
    assert halted.rule == "max_drawdown"
    peak = 10_000.0
    falls = []
    for ts, equity in zip(found.as_it_was.times, found.as_it_was.equity, strict=True):
        peak = max(peak, equity)
        if ts >= found.begins_at and equity <= peak * (1 - limit):
            falls.append(ts)
    assert 0 <= falls[0] - halted.ts < 3_600_000  # there is a sample an hour


def test_a_removed_headline_is_a_backtest_without_it(
    store: tuple[Database, Config, RecordedInputs], tmp_path: Path
) -> None:
    source = store[2]
    voted = next(one for one in decisions(fold_on(source, Change()).as_it_was) if isinstance(one, Signal))
    gone = voted.sources[0]
    title = next(one.title for one in source.events if isinstance(one, News) and one.id == gone)
    lines = (SAMPLES / "headlines.csv").read_text().splitlines(keepends=True)
    kept = [line for line in lines if title not in line]
    assert len(kept) == len(lines) - 1
    (tmp_path / "fewer.csv").write_text("".join(kept))
    found = fold_on(source, Change(removed=frozenset({source.headline(gone[:10])})))
    config = config_of(tmp_path)
    with closing(open_database(config.store.url)) as database:
        assert found.changed.final_equity == run_of(database, config, tmp_path / "fewer.csv").run.final_equity
    assert found.difference is not None
    assert found.difference.as_it_was == voted


def test_a_flipped_headline_is_read_the_other_way_round(
    store: tuple[Database, Config, RecordedInputs], tmp_path: Path
) -> None:
    class FlipsOne(Words):
        def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
            scores = super().score(texts)
            return [
                HeadlineScore(one.bullish, one.neutral, one.bearish) if text.startswith(title) else one
                for text, one in zip(texts, scores, strict=True)
            ]

    source = store[2]
    voted = next(one for one in decisions(fold_on(source, Change()).as_it_was) if isinstance(one, Signal))
    flipped = voted.sources[0]
    title = next(one.title for one in source.events if isinstance(one, News) and one.id == flipped)
    found = fold_on(source, Change(flipped=frozenset({flipped})))
    config = config_of(tmp_path)
    with closing(open_database(config.store.url)) as database:
        other = run_of(database, config, scorer=FlipsOne())
    assert found.changed.final_equity == other.run.final_equity
    event = next(e for e in source.events if isinstance(e, Sentiment) and e.news_id == flipped)
    again = changed_event(event, Change(flipped=frozenset({flipped})))
    assert isinstance(again, Sentiment)
    assert (again.bearish, again.bullish) == (event.bullish, event.bearish)


REFUSED: list[tuple[Change, int, type[Exception], str]] = [
    (Change({"signals.treshold": "0.9"}), 1, ConfigError, "signals.threshold"),
    (Change({"signals.threshold": "7"}), 1, ConfigError, "signals.threshold"),
    (Change({"market.interval": "1h"}), 1, ConfigError, "signals, risk, paper, sleeves"),
    (Change({"paper": "1"}), 1, ConfigError, "signals, risk, paper, sleeves"),
    (Change(params={"size": "1"}), 1, ConfigError, "size"),
    (Change({"sleeves.trend.share": "0.5"}), 1, ConfigError, "the run has one strategy, and no sleeves"),
    (Change(params={"fast": "5"}, sleeve="trend"), 1, UsageError, "leave out --sleeve"),
    (Change(), 0, UsageError, "events 1 to"),
    (Change(), 10**9, UsageError, "events 1 to"),
]


@pytest.mark.parametrize(("change", "begins", "kind", "text"), REFUSED)
def test_what_cannot_be_changed_is_an_error(
    source: RecordedInputs, change: Change, begins: int, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind) as raised:
        fold_on(source, change, begins=begins)
    assert text in f"{raised.value} {getattr(raised.value, 'hint', '')}"


def test_headlines_and_times_are_found_or_refused(source: RecordedInputs) -> None:
    first = next(one for one in source.events if isinstance(one, News))
    assert source.headline(first.id[:12]) == first.id
    with pytest.raises(UsageError, match="no headline"):
        source.headline("zzzz")
    with pytest.raises(UsageError, match="headlines with an id"):
        source.headline("")
    number = source.event_at(first.available_at)
    assert (
        source.events[number - 1].available_at == first.available_at > source.events[number - 2].available_at
    )
    with pytest.raises(UsageError, match="ends before"):
        source.event_at(source.events[-1].available_at + 1)


FIXED = """
from tapewire import Strategy


class Fixed(Strategy):
    def on_signal(self, signal, market):
        if signal.actionable and signal.score:
            self.target(signal.symbol, qty=0.02 if signal.score > 0 else -0.02)

    def on_signal_expired(self, signal, market):
        self.target(signal.symbol, weight=0)
"""


@pytest.mark.slow
def test_with_fixed_sizes_a_story_earned_what_the_run_lacks_without_it(tmp_path: Path) -> None:
    """The account's size then matters to no order, so the life that ends early has the whole difference."""
    (tmp_path / "fixed.py").write_text(FIXED)
    config = config_of(tmp_path, strategy={"name": str(tmp_path / "fixed.py")})
    with closing(open_database(config.store.url)) as database:
        source = run_of(database, config)
    found = story_results(source)
    ended = [one for one in found.stories if one.until is not None]
    assert len(ended) >= 5
    assert any(one.contribution > 0 for one in ended)
    assert any(one.contribution < 0 for one in ended)
    for story in found.stories:
        if story.headlines == 1:
            lives = fold_on(source, Change(removed=frozenset({story.story})))
            assert story.contribution == lives.as_it_was.final_equity - lives.changed.final_equity
            assert (lives.difference is None) == (story.contribution == 0 and not story.orders)
    headlines = {one.id for one in source.events if isinstance(one, News)}
    assert sum(one.headlines for one in found.stories) + found.silent <= len(headlines)


def test_a_story_of_a_strategy_that_sizes_by_equity(source: RecordedInputs) -> None:
    """Other sizes later on are left out: the whole difference deviates a little."""
    found = story_results(source)
    assert [one.contribution for one in found.stories] == sorted(
        (one.contribution for one in found.stories), reverse=True
    )
    largest = max(found.stories, key=lambda one: abs(one.contribution))
    headlines = _headlines_of(source, largest)
    lives = fold_on(source, Change(removed=headlines))
    whole = lives.as_it_was.final_equity - lives.changed.final_equity
    assert float(largest.contribution) == pytest.approx(float(whole), rel=0.05)


def _headlines_of(source: RecordedInputs, story: StoryResult) -> frozenset[str]:
    """Return the ids of the story's headlines: those within it that have its title's words."""
    ids = {one.id for one in source.events if isinstance(one, News) and one.id == story.story}
    assert story.headlines == len(ids) == 1
    return frozenset(ids)


def tapewire(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent.cli.main", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_the_commands_print_both_lives_and_the_stories(
    store: tuple[Database, Config, RecordedInputs], tmp_path: Path
) -> None:
    _, config, source = store
    (tmp_path / "config.toml").write_text(f'[store]\nurl = "{config.store.url}"\n')
    given = ("--config", str(tmp_path / "config.toml"))
    done = tapewire(ROOT, "whatif", "--change", "signals.threshold=0.95", "--json", *given)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["as_recorded"] is True
    assert found["identical"] is False
    assert found["first_difference"]["event"] > 1
    assert found["result_of_the_change"] == pytest.approx(
        found["changed"]["final_equity"] - found["as_it_was"]["final_equity"]
    )
    shown = tapewire(ROOT, "whatif", *given).stdout
    assert "the change makes no difference, from event 1 of" in shown
    table = tapewire(ROOT, "stories", "--most", "2", *given).stdout
    assert len([line for line in table.splitlines() if " 2025-03-0" in line]) == 4
    assert "stories that voted changed the result" in table
    every = json.loads(tapewire(ROOT, "stories", "--json", *given).stdout)
    assert every["run"] == source.run.id
    assert len(every["stories"]) > 5
    assert tapewire(ROOT, "whatif", "--change", "signals.threshold", *given).returncode == 2
