"""`tapewire events`: what a recorded run was given, in order."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from agent.core.events import Command, Event, Funding, Gap, Kline, News, Provenance, Sentiment
from agent.replay.event_listing import EventSelection, list_events
from agent.store.database import Database, open_database
from agent.store.journal import Journal
from agent.store.queries import find_run, read_decisions
from agent.store.recorder import Recorder
from agent.store.runs import RunKind
from tests.cli.conftest import Outcome
from tests.conftest import ROOT
from tests.store.store_samples import a_run
from tests.support.llm_server import Answer, LlmServer, sound_model

Tapewire = Callable[..., Outcome]
T0 = 1_741_000_000_000  # 2025-03-03T11:06:40Z
MINUTE = 60_000
HOSTILE = "bear\x1b[31m\u202eish\nover\x9b2J"


def bar(number: int, symbol: str = "BTCUSDT") -> Kline:
    start = T0 + number * MINUTE
    return Kline(symbol, MINUTE, start, start + MINUTE, start + MINUTE, 1.0, 2.0, 0.5, 1.5, 10.0)


def score(news: str, at: int, p: tuple[float, float, float], model: str = "fast", **more: Any) -> Sentiment:
    return Sentiment(news, at, at, *p, model, **more)


ANSWERED = Provenance("qwen", "f" * 64, 42, (HOSTILE, "bearish"), reason="Hacked.\x1b[2J")
UNANSWERED = Provenance("qwen", "f" * 64, 42, (), "the server refused the connection")
STORY: list[Event] = [
    Command("life", T0, T0, {"incarnation": "a1"}, "daemon"),
    bar(0),
    bar(0, "ETHUSDT"),
    News("n1", T0, T0 + 2 * MINUTE, "Bitcoin climbs\x1b[31m", publisher="Wire"),
    score("n1", T0 + 2 * MINUTE, (0.1, 0.2, 0.7), provisional=True, kind="price"),
    Funding("ETHUSDT", T0 + 3 * MINUTE, T0 + 3 * MINUTE, 0.0001),
    score("n1", T0 + 3 * MINUTE, (0.8, 0.1, 0.1), "slow", provenance=ANSWERED),
    News("n2", T0, T0 + 3 * MINUTE, "Ether falls", actionable=False),
    score("n2", T0 + 4 * MINUTE, (1 / 3, 1 / 3, 1 / 3), abstained=True, provenance=UNANSWERED),
    Gap("BTCUSDT", MINUTE, T0, T0 + MINUTE, T0 + 4 * MINUTE),
    Command("use-model", T0 + 5 * MINUTE, T0 + 5 * MINUTE, {"folder": "x", "token": "hunter2"}, "me"),
]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(f"sqlite:///{tmp_path / 'var' / 'tapewire.db'}")) as opened:
        yield opened


@pytest.fixture
def live(database: Database) -> str:
    """A live run with the journal of `STORY`."""
    config = {"market": {"symbols": ["BTCUSDT", "ETHUSDT"]}}
    run = a_run("run-1", kind=RunKind.LIVE, config=config)
    Recorder(database, run)
    Journal(database, "run-1").append(STORY)
    return run.id


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", range(1, 12)),
        ("--kind news", [4, 8]),
        ("--kind NEWS --kind sentiment", [4, 5, 7, 8, 9]),
        ("--symbol BTCUSDT", [2, 4, 5, 7, 10]),
        ("--symbol ethusdt", [3, 6, 8, 9]),
        ("--symbol ethusdt --kind sentiment", [9]),
        ("--start 2025-03-03T11:09:40", range(6, 12)),
        ("--end 2025-03-03T11:09:40", range(1, 6)),
        ("--start 2025-03-03T11:08:40 --end 2025-03-03T11:09:41 --kind sentiment", [5, 7]),
        ("--limit 3", [1, 2, 3]),
        ("--limit 2 --newest", [10, 11]),
        ("--kind kline --limit 1 --newest", [3]),
        ("--kind fill", []),
    ],
)
def test_filters(tapewire: Tapewire, live: str, options: str, expected: Iterable[int]) -> None:
    done = tapewire("events", live, *options.split(), "--json")
    assert done.code == 0, done.err
    assert [json.loads(line)["seq"] for line in done.out.splitlines()] == list(expected)
    shown = tapewire("events", live, *options.split())
    numbered = [line.split()[0] for line in shown.out.splitlines() if line[7:9].strip().isdigit()]
    assert [int(number) for number in numbered] == list(expected)


def test_a_revision_shows_both_answers_the_headline_and_how_the_model_came_to_it(
    tapewire: Tapewire, live: str
) -> None:
    shown = tapewire("events", live).out
    assert "bullish 0.70 (price; provisional; by fast): Bitcoin climbs" in shown
    assert "revised: bullish 0.70 → bearish 0.80 (by slow): Bitcoin climbs" in shown
    assert "language model qwen, prompt ffffffffffff, seed 42, 2 answers" in shown
    assert "reason: Hacked." in shown
    assert "abstained (by fast): Ether falls" in shown
    assert "not answered: the server refused the connection" in shown
    assert "Ether falls, too old to trade on" in shown
    assert "hunter2" not in shown
    assert '"' not in shown, "verbatim answers are left out"
    rows = [json.loads(line) for line in tapewire("events", live, "--json").out.splitlines()]
    revision = rows[6]
    assert (revision["event"], revision["headline"], revision["symbols"]) == (
        "Sentiment",
        STORY[3].title,  # type: ignore[union-attr]
        ["BTCUSDT"],
    )
    assert (revision["revises"]["bullish"], revision["revises"]["model"]) == (0.7, "fast")
    assert revision["provenance"]["reason"] == ANSWERED.reason
    assert "answers" not in revision["provenance"]
    assert rows[10]["args"]["token"] != "hunter2"


def test_verbatim_answers_cannot_control_a_terminal(tapewire: Tapewire, live: str) -> None:
    shown = tapewire("events", live, "--full")
    (answer,) = [line.strip() for line in shown.out.splitlines() if "bear" in line and "answer:" in line][:1]
    assert answer == r'answer: "bear\u001b[31m\u202eish\nover\u009b2J"'
    assert json.loads(answer.removeprefix("answer: ")) == HOSTILE
    assert f"prompt: {'f' * 64}" in shown.out
    rows = tapewire("events", live, "--full", "--json")
    assert json.loads(rows.out.splitlines()[6])["provenance"]["answers"] == [HOSTILE, "bearish"]
    for text in (shown.out, rows.out, tapewire("events", live).out):
        assert not {letter for letter in text if not letter.isprintable()} - {"\n"}


def test_a_cut_list_says_so(tapewire: Tapewire, live: str) -> None:
    cut = tapewire("events", live, "--limit", "3")
    assert cut.err == "3 events; there are more: --limit 0 lists all, --newest the last\n"
    assert tapewire("events", live, "--limit", "11").err == "11 events\n"
    assert tapewire("events", live, "--limit", "0").err == "11 events\n"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--kind", "sentimnt"), "did you mean sentiment"),
        (("--kind", "xyz"), "one of kline, news"),
        (("--start", "yesterday"), "is no date"),
        (("--start", "2025-03-04", "--end", "2025-03-03"), "is not before"),
    ],
)
def test_errors_say_what_would_be_right(
    tapewire: Tapewire, live: str, options: tuple[str, ...], told: str
) -> None:
    done = tapewire("events", live, *options)
    assert (done.code, done.out) == (2, "")
    assert told in done.err


def test_a_backtest_lists_its_inputs_scores_and_decisions_and_asks_no_model(
    tapewire: Tapewire, tmp_path: Path, database: Database
) -> None:
    with LlmServer(lambda request: Answer(f"{sound_model(request).text}: so", {"bull": 1.0})) as server:
        (tmp_path / "config.toml").write_text(
            f'[model]\npath = "{server.path}"\n[llm]\nreasons = true\n'
            'cutoffs = { "tiny:1b" = 2025-02-28 }\n'
        )
        news = tmp_path / "news.csv"
        news.write_text("published_at,title\n2025-03-03T10:00:00Z,Bitcoin climbs after the approval\n")
        btc = ROOT / "tests/sample_data/BTCUSDT-1m.csv"
        given = ("--klines", btc, "--news", news, "--strategy", "sentiment", "--json")
        run = json.loads(tapewire("backtest", *given).out)["run"]
        asked = len(server.requests)
        done = tapewire("events", run, "--json", "--decisions", "--full")
        assert done.code == 0, done.err
        assert len(server.requests) == asked
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    made = [own["number"] for row in rows for own in row.get("decisions", [])]
    recorded = list(read_decisions(database, run))
    assert made == [one.seq for one in recorded] != []
    (scored,) = [row for row in rows if row["event"] == "Sentiment"]
    assert scored["headline"] == "Bitcoin climbs after the approval"
    assert scored["provenance"]["answers"]
    assert {own["event"] for own in scored["decisions"]} >= {"Signal"}


@pytest.mark.slow
def test_the_memory_of_a_listing_does_not_grow_with_the_run(database: Database) -> None:
    """Four times the events take the same memory, within a tenth."""
    Recorder(database, a_run("run-1", kind=RunKind.LIVE, config={"market": {"symbols": ["BTCUSDT"]}}))
    journal = Journal(database, "run-1")
    for first in range(0, 40_000, 5_000):
        journal.append([bar(number) for number in range(first, first + 5_000)])
    run = find_run(database, "run-1")

    def peak(count: int) -> int:
        tracemalloc.start()
        listed = sum(1 for _ in islice(list_events(database, run, EventSelection()), count))
        assert listed == count
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(100)  # what is loaded once
    assert peak(40_000) < 1.1 * peak(10_000)
