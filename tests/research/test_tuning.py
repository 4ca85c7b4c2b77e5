"""`tapewire tune` searches in sample, resumes, shares work, and corrects its best value for luck."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from agent.config import load
from agent.core.errors import UsageError
from agent.core.events import DAY_MS
from agent.replay.history import Plan
from agent.research.replay_window import LoadedWindow, with_overrides, with_params
from agent.research.tuning import split
from strategies import source_hash
from tests.cli.conftest import Outcome
from tests.research.market_files import START, write_klines

Tapewire = Callable[..., Outcome]
SEARCH = ("--strategy", "sma_cross", "--range", "fast=2:20", "--range", "slow=10:80", "--embargo", "1d")


@pytest.fixture
def klines(tmp_path: Path) -> Path:
    return write_klines(tmp_path / "BTCUSDT-1h.csv", days=60)


def tuned(tapewire: Tapewire, *args: object) -> dict[str, Any]:
    done = tapewire("tune", "--json", *args)
    assert done.code == 0, done.err
    result: dict[str, Any] = json.loads(done.out)
    return result


def trials(study: str, storage: str = "sqlite:///var/tune.db") -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=study, storage=storage).trials


@pytest.mark.slow
def test_no_trial_sees_the_held_out_time(tapewire: Tapewire, tmp_path: Path, klines: Path) -> None:
    lines = klines.read_text().splitlines()
    cut = 1 + 24 * 45
    other = tmp_path / "other" / klines.name
    other.parent.mkdir()
    calm = lines[cut - 1].split(",")[1:]
    other.write_text(
        "\n".join([*lines[:cut], *(",".join([line.split(",")[0], *calm]) for line in lines[cut:])]) + "\n"
    )
    args = (*SEARCH, "--trials", 6, "--holdout", "15d")
    one = tuned(tapewire, "--klines", klines, *args, "--storage", "sqlite:///one.db")
    two = tuned(tapewire, "--klines", other, *args, "--storage", "sqlite:///two.db")
    assert one["in_sample"] == [START, START + 44 * DAY_MS]
    assert one["held_out"]["folds"][0]["test"] == [START + 45 * DAY_MS, START + 60 * DAY_MS]
    assert (one["params"], one["value"], one["deflated_sharpe"]) == (
        two["params"],
        two["value"],
        two["deflated_sharpe"],
    )
    assert one["held_out"]["evidence"]["total_return"] != two["held_out"]["evidence"]["total_return"]


@pytest.mark.slow
def test_the_same_seed_makes_the_same_trials_and_a_study_is_resumed(tapewire: Tapewire, klines: Path) -> None:
    args = ("--klines", klines, *SEARCH, "--holdout", "15d", "--seed", 3)
    first = tuned(tapewire, *args, "--trials", 4, "--storage", "sqlite:///one.db")
    again = tuned(tapewire, *args, "--trials", 4, "--storage", "sqlite:///two.db")
    study = first["study"]
    assert [t.params for t in trials(study, "sqlite:///one.db")] == [
        t.params for t in trials(study, "sqlite:///two.db")
    ]
    more = tuned(tapewire, *args, "--trials", 7, "--storage", "sqlite:///one.db", "--judge-again")
    assert more["study"] == study
    resumed = trials(study, "sqlite:///one.db")
    assert len(resumed) == 7
    assert [t.params for t in resumed[:4]] == [t.params for t in trials(study, "sqlite:///two.db")]
    assert len({tuple(t.params.items()) for t in resumed}) == 7  # the resumed ones are new
    assert again["value"] == first["value"] <= more["value"]


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3, 50])
def test_a_batch_finds_what_each_of_its_trials_finds_alone(
    tapewire: Tapewire, klines: Path, batch: int
) -> None:
    args = ("--klines", klines, *SEARCH, "--holdout", "15d", "--trials", 7, "--no-prune")
    result = tuned(tapewire, *args, "--batch", batch)
    found = [t for t in trials(result["study"]) if "invalid" not in t.user_attrs]
    assert len(found) == 7 - result["invalid"] > 3
    plan = Plan(((klines, None),))
    config = with_overrides(load(), {"strategy": {"name": "sma_cross"}}, where="test")
    folds, _ = split(START, START + 60 * DAY_MS, holdout=15 * DAY_MS, embargo=DAY_MS, folds=4)
    for fold in folds:
        window = LoadedWindow(
            plan._replace(start=fold.test.start, end=fold.test.end, close_out=True, warmup=0), config
        )
        params = [t.user_attrs["params"] for t in found]
        together = window.replay_batch(params)
        alone = [window.replay(with_params(config, one)).returns for one in params]
        assert [returns.tolist() for returns in together] == [returns.tolist() for returns in alone]
        assert any(returns.any() for returns in alone)


@pytest.mark.slow
def test_trials_of_a_batch_are_drawn_before_any_has_a_result(tapewire: Tapewire, klines: Path) -> None:
    args = ("--klines", klines, *SEARCH, "--holdout", "15d", "--trials", 12, "--seed", 5)
    drawn = {}
    for batch in (1, 12):
        result = tuned(tapewire, *args, "--batch", batch, "--storage", f"sqlite:///{batch}.db")
        drawn[batch] = [t.params for t in trials(result["study"], f"sqlite:///{batch}.db")]
    assert drawn[1][:10] == drawn[12][:10]  # the sampler's first ten are random
    assert drawn[1] != drawn[12]


@pytest.mark.slow
def test_pruned_trials_leave_their_batch(tapewire: Tapewire, klines: Path) -> None:
    args = ("--klines", klines, *SEARCH, "--holdout", "15d", "--trials", 30, "--folds", 4, "--batch", 10)
    result = tuned(tapewire, *args)
    pruned = [
        t
        for t in trials(result["study"])
        if t.state == optuna.trial.TrialState.PRUNED and "invalid" not in t.user_attrs
    ]
    assert len(pruned) == result["pruned"] > 0
    assert all(t.number >= 10 and len(t.intermediate_values) < 4 for t in pruned)  # no median before
    assert all("returns" not in t.user_attrs for t in pruned)


def test_an_error_of_a_strategy_fails_the_trials_of_its_batch(
    tapewire: Tapewire, klines: Path, tmp_path: Path
) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    args = ("--klines", klines, "--strategy", tmp_path / "failing.py", "--range", "depth=0.1:0.9")
    done = tapewire("tune", *args, "--holdout", "15d", "--trials", 3, "--study", "mine")
    assert done.code == 1
    assert "ValueError: no more" in done.err
    assert [t.state for t in trials("mine")] == [optuna.trial.TrialState.FAIL] * 3


FAILING = """
import tapewire as tw


class Params(tw.StrategyParams):
    depth: float = 0.5


class Mine(tw.Strategy[Params]):
    def on_kline(self, kline, market):
        if market.price(kline.symbol) > 0:
            raise ValueError("no more")
"""


@pytest.mark.slow
def test_processes_share_a_study(tapewire: Tapewire, klines: Path, database_url: str) -> None:
    args = ("--klines", klines, *SEARCH, "--holdout", "15d", "--trials", 6, "--storage", database_url)
    result = tuned(tapewire, *args, "--workers", 2)
    assert len(trials(result["study"], database_url.replace("postgresql:", "postgresql+psycopg:"))) == 6
    assert result["trials"] + result["invalid"] == 6


@pytest.mark.slow
def test_the_best_of_noise_is_attributed_to_luck(tapewire: Tapewire, klines: Path) -> None:
    result = tuned(
        tapewire, "--klines", klines, *SEARCH, "--holdout", "15d", "--trials", 20, "--no-prune", "--folds", 1
    )
    assert result["pruned"] == 0
    assert result["trials"] == result["overfitting"]["trials"] == 20 - result["invalid"]
    assert result["deflated_sharpe"] < 0.9
    best = max(t.value for t in trials(result["study"]) if t.value is not None)
    assert result["value"] == best
    assert result["held_out"]["verdict"]["tone"] != "good"


@pytest.mark.slow
def test_hopeless_trials_are_pruned(tapewire: Tapewire, klines: Path) -> None:
    result = tuned(tapewire, "--klines", klines, *SEARCH, "--holdout", "15d", "--trials", 16, "--folds", 4)
    states = [t.state for t in trials(result["study"]) if "invalid" not in t.user_attrs]
    assert result["pruned"] == states.count(optuna.trial.TrialState.PRUNED) > 0
    assert result["trials"] == len(states)  # pruned trials count too


@pytest.mark.slow
def test_the_written_toml_is_a_configuration(tapewire: Tapewire, klines: Path) -> None:
    done = tapewire("tune", "--klines", klines, *SEARCH, "--holdout", "15d", "--trials", 3, "-o", "best.toml")
    assert done.code == 0
    assert "luck gives the best of 3 tries" in done.out
    assert "Held out" in done.out
    config = load(Path("best.toml"))
    assert config.strategy.name == "sma_cross"
    assert set(config.strategy.params) == {"fast", "slow"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--holdout", "60d"), "nothing is left in sample: of 60 days, 60 are held out, and 1 before them"),
        (("--storage", "nowhere"), "is not a database URL"),
        (("--range", "fast=90", "--range", "slow=80"), "no trial ran to the end"),
    ],
)
def test_wrong_usage(tapewire: Tapewire, klines: Path, args: tuple[str, ...], message: str) -> None:
    done = tapewire("tune", "--klines", klines, "--strategy", "sma_cross", "--trials", 1, *args)
    assert done.code == 2
    assert message in " ".join(done.err.split())


@pytest.mark.slow
def test_a_study_of_another_search_is_not_mixed(tapewire: Tapewire, klines: Path) -> None:
    search = ("--klines", klines, "--strategy", "sma_cross", "--holdout", "15d", "--trials", 1)
    args = (*search, "--study", "mine")
    assert tapewire("tune", *args, "--range", "fast=2:9").code == 0
    done = tapewire("tune", *args, "--range", "fast=2:8")
    assert done.code == 2
    assert "is of another search" in done.err


def test_in_sample_ends_before_the_embargo() -> None:
    folds, held_out = split(0, 100, holdout=20, embargo=5, folds=3)
    assert folds[0].test.start == 0
    assert folds[-1].test.end == 75
    assert held_out.test == (80, 100)
    with pytest.raises(UsageError):
        split(0, 100, holdout=100, embargo=0, folds=3)


STRATEGY = """
from strategies.sma_cross import SmaCross

class Mine(SmaCross):
    EDGE = {edge}
"""


@pytest.mark.slow
def test_a_study_is_resumed_only_by_the_same_search(tapewire: Tapewire, tmp_path: Path, klines: Path) -> None:
    """A search with other files or another configuration never reuses the trials of the first study."""

    def search(*args: object, study: object = "") -> Outcome:
        named = ("--study", study) if study else ()
        window = ("--embargo", "1d", "--holdout", "15d", "--trials", 3, "--judge-again")
        ranges = ("--range", "fast=2:20", "--range", "slow=10:80", *window)
        return tapewire("tune", "--json", "--strategy", "mine:Mine", *ranges, *named, *args)

    def search_again(*args: object) -> tuple[str, int]:
        done = search(*args)
        assert done.code == 0, done.err
        found = json.loads(done.out)
        return found["study"], found["reused"]

    Path("mine.py").write_text(STRATEGY.format(edge=1))
    (tmp_path / "other").mkdir()
    other = write_klines(tmp_path / "other" / klines.name, days=60, seed=9)
    funding = tmp_path / "BTCUSDT-funding.csv"
    funding.write_text("ts,rate\n" + "".join(f"{START + n * 8 * 3_600_000},0.001\n" for n in range(180)))
    small = tmp_path / "small.toml"
    small.write_text("[account]\ninitial_capital = 500\n")

    first, reused = search_again("--klines", klines)
    assert reused == 0
    assert search_again("--klines", klines) == (first, 3)
    changes = [
        ("--klines", other),
        ("--klines", klines, "--funding", funding),
        ("--klines", klines, "-c", small),
    ]
    found = {first, *(study for study, reused in (search_again(*args) for args in changes) if reused == 0)}
    assert len(found) == 4
    refused = search("--klines", other, study=first)
    assert refused.code == 2
    assert (
        "is of another search: config, klines differ" in refused.err
    )  # with the tick and lot that the file shows


def test_another_source_of_the_strategy_is_another_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("one_of_mine.py").write_text(
        "from strategies.sma_cross import SmaCross\nimport beside\n\nclass Mine(SmaCross): pass\n"
    )
    Path("beside.py").write_text("EDGE = 1\n")
    before = source_hash("one_of_mine:Mine")
    assert source_hash("one_of_mine:Mine") == before
    Path("beside.py").write_text("EDGE = 2\n")
    assert source_hash("one_of_mine:Mine") != before
    assert source_hash("sma_cross") != source_hash("buy_and_hold")
