"""`bench/judge.py`: parts are computed once, and the tables say what was found."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agent.core.news_kinds import NEWS_KINDS
from bench.judge import PARTS, run_command, settings, voting_kinds
from bench.judge_tables import markdown, sentences

COUNT = "import json, pathlib; p = pathlib.Path('calls'); n = len(p.read_text()) if p.exists() else 0; "
COUNT += "p.write_text('x' * (n + 1)); print(json.dumps({'call': n + 1}))"
START = datetime(2024, 8, 18, tzinfo=UTC)
DAYS = 30


def test_a_command_runs_once_for_the_same_inputs(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COUNT]
    path = tmp_path / "part.json"
    assert run_command(path, command, ["model-1"], tmp_path)["result"] == {"call": 1}
    assert run_command(path, command, ["model-1"], tmp_path)["result"] == {"call": 1}
    assert run_command(path, command, ["model-2"], tmp_path)["result"] == {"call": 2}
    assert run_command(path, [*command, "--more"], ["model-2"], tmp_path)["result"] == {"call": 3}


def test_a_failed_command_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "part.json"
    with pytest.raises(subprocess.CalledProcessError):
        run_command(path, [sys.executable, "-c", "raise SystemExit(3)"], [], tmp_path)
    assert not path.exists()


def test_the_number_of_processes_changes_no_result(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COUNT]
    path = tmp_path / "part.json"
    for jobs in ("1", "8"):
        assert run_command(path, [*command, "--jobs", jobs], [], tmp_path)["result"] == {"call": 1}


def test_the_configuration_of_a_part_names_the_shared_scores_and_the_kinds_that_vote(tmp_path: Path) -> None:
    found = tomllib.loads(settings(tmp_path, ["failure", "access"]))
    assert found == {
        "store": {"url": f"sqlite:///{tmp_path}/judge.db"},
        "signals": {"kinds": ["failure", "access"]},
    }


@pytest.mark.parametrize(
    ("part", "failing", "voting"),
    [
        ("sentiment", {"price"}, set(NEWS_KINDS)),  # all vote, whatever the default
        ("sentiment_kinds", {"price", "opinion"}, set(NEWS_KINDS) - {"price", "opinion"}),
        ("sentiment_kinds", set(), set()),  # the same as `sentiment`: not computed
        ("sentiment_kinds", set(NEWS_KINDS), set()),
    ],
)
def test_the_rule_of_the_first_half_says_which_kinds_vote(
    part: str, failing: set[str], voting: set[str]
) -> None:
    study = {"kinds": {kind: {"fails_first": kind in failing} for kind in NEWS_KINDS}}
    assert set(voting_kinds(PARTS[part], study)) == voting


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 30 days of one-minute klines and two headlines a day.

    Each headline "bitcoin soars" follows a rise of 20 bps in the hour before; then the price stands still.
    """
    folder = tmp_path_factory.mktemp("market")
    times = [START + timedelta(minutes=minute) for minute in range(DAYS * 1440)]
    rises = np.zeros(len(times))
    rises[13 * 60 - 30 :: 1440] = 20e-4
    prices = 100 * np.exp(np.cumsum(rises))
    columns = dict.fromkeys(("open", "high", "low", "close"), prices)
    pq.write_table(
        pa.table({"open_time": times, **columns, "volume": np.full(len(times), 1e6)}), folder / "btc.parquet"
    )
    news = [
        (START + timedelta(days=day, hours=13, minutes=late), f"bitcoin {verb} {day} {verb} {day * 7 + late}")
        for day in range(DAYS - 2)
        for verb, late in (("soars", 0), ("lists", 40))
    ]
    table = {"published_at": [at for at, _ in news], "title": [title for _, title in news]}
    pq.write_table(pa.table(table), folder / "news.parquet")
    return folder


def judge(market: Path, model: Path, folder: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.judge", "--klines", f"BTCUSDT={market / 'btc.parquet'}"]
    command += ["--news", str(market / "news.parquet"), "--model", str(model), "--start", "2024-08-18"]
    command += ["--end", "2024-09-17", "--folder", str(folder), "--output", str(folder / "out"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_the_study_and_a_walk_forward_are_computed_once_and_told_together(
    market: Path, tmp_path: Path, write_reader: Callable[..., Path]
) -> None:
    model = write_reader(tmp_path / "model")
    first = judge(market, model, tmp_path, "--only", "study")
    assert first["missing"] == list(PARTS)
    figures = first["study"]["all"]["moves"]["0.7"]["by_kind"]["price"]["in direction"]
    assert figures["headlines"] == 28
    # 20 bps before, less the mean move: 20 bps a day, of which an hour has 1/24
    assert figures["mean"][0] == pytest.approx(20 - 20 / 24, abs=0.1)
    assert figures["mean"][3] == pytest.approx(-20 / 24, abs=0.1)
    # Known at 13:41, so the move of the next day is inside the day after it
    assert figures["mean"][5] == pytest.approx(0, abs=0.7)
    study = tmp_path / "study.json"
    computed = study.stat().st_mtime_ns

    both = judge(
        market,
        model,
        tmp_path,
        "--judge",
        "2024-08-18",
        "--only",
        "sentiment",
        "--placebo",
        "1",
        "--jobs",
        "1",
    )
    assert study.stat().st_mtime_ns == computed
    assert both["study"] == first["study"]
    part = both["walk_forward"]["sentiment"]
    assert part["evidence"]["trades"] == 28
    text = (tmp_path / "out" / "judge.md").read_text("utf-8")
    assert "In the hour before publication the price moved +19.2" in text
    assert "| sentiment |" in text
    assert part["verdict"]["headline"] in text

    again = judge(market, model, tmp_path, "--judge", "2024-08-18", "--only", "study", "--placebo", "2")
    assert again["missing"] == list(PARTS), "a part with other arguments isn't this judgement's"


def cell(mean: list[float], low: list[float], high: list[float]) -> dict[str, Any]:
    return {"headlines": 100, "days": 50, "mean": mean, "low": low, "high": high}


def study_with(figures: dict[str, Any], kinds: dict[str, Any]) -> dict[str, Any]:
    moves = {"by_asset": {"all": {"in direction": figures}}, "by_kind": {"price": {"in direction": figures}}}
    return {"all": {"moves": {"0.7": moves}}, "kinds": kinds}


def kind(*, fails: bool, votes: bool, enough: bool = True) -> dict[str, Any]:
    return {"fails_first": fails, "votes": votes, "enough_days": enough}


@pytest.mark.parametrize(
    ("mean", "low", "high", "said"),
    [
        (
            [6, 0, 0, 0, 0, 0],
            [5] + [-1] * 5,
            [7] + [1] * 5,
            "No move in the direction of the answer is shown",
        ),
        ([6, 3, 0, 0, 0, 0], [5, 2] + [-1] * 4, [7, 4] + [1] * 4, "at 5m; its mean is below the cheapest"),
        ([6, 5, 0, 0, 0, 0], [5, 2] + [-1] * 4, [7, 9] + [1] * 4, "at 5m; at 5m its mean is above the cheap"),
        ([6, 0, 0, -3, 0, 0], [5] + [-5] * 5, [7, 1, 1, -1, 1, 1], "against the answer is shown at 60m"),
    ],
)
def test_the_verdict_follows_from_the_intervals(
    mean: list[float], low: list[float], high: list[float], said: str
) -> None:
    found = sentences(study_with(cell(mean, low, high), {}))
    assert any(said in sentence for sentence in found), found
    assert "The model doesn't tell kinds of news apart" in found[-1]


def test_the_verdict_names_the_kinds_that_vote() -> None:
    kinds = {
        "failure": kind(fails=False, votes=True),
        "price": kind(fails=True, votes=False),
        "opinion": kind(fails=True, votes=True),
        "macro": kind(fails=False, votes=True, enough=False),
    }
    found = sentences(study_with(cell([0] * 6, [-1] * 6, [1] * 6), kinds))
    assert found[-4:] == [
        "For no kind of news the 60-minute interval excludes 0; of 1 kinds, 0.1 are expected to by chance.",
        "Kinds that fail the rule in the first half: price, opinion. The second half confirms: price.",
        "Too few days for a judgement: macro.",
        'The default that follows is `kinds = ["failure", "opinion", "macro"]`.',
    ]


def test_parts_that_were_not_computed_are_named() -> None:
    summary = {
        "model": "abc",
        "klines": ["a"],
        "news": "b",
        "missing": ["study", "fusion"],
        "study": None,
        "walk_forward": {},
    }
    assert "Not computed: study, fusion." in markdown(summary)
