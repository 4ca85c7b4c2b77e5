"""`tapewire train fusion`, and backtests with fusion models, run through the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.cli.main import main
from tests.models.fusion.conftest import MarketFiles
from tests.models.fusion.fusion_harness import write_fusion
from tests.research.market_files import START, day

DAY = 86_400_000


@pytest.fixture
def tapewire(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, place: MarketFiles
) -> Callable[..., tuple[int, str]]:
    """Return a function that runs `tapewire ARGS…` with the market's configuration.

    The function returns the exit code and standard output; if the command fails, standard error is appended.
    """
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["tapewire", *map(str, args), "--config", str(place.settings)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        code = int(left.value.code or 0)
        return code, printed.out if code == 0 else printed.out + printed.err

    return run


def files(place: MarketFiles) -> tuple[str | Path, ...]:
    return ("--klines", place.klines, "--news", place.news)


@pytest.mark.slow
@pytest.mark.train
def test_a_trained_model_is_backtested_and_verified_but_refused_on_its_training_window(
    tapewire: Callable[..., tuple[int, str]], place: MarketFiles, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    model = tmp_path / "model"
    training = ("--start", day(0), "--end", day(80), "--test-until", day(120))
    recipe = ("--horizon", "2h", "--half-life", "1h", "--epochs", "3")
    code, out = tapewire("train", "fusion", *files(place), *training, *recipe, "--output", model, "--json")
    assert code == 0, out
    said = json.loads(out)
    assert {"accuracy", "macro_f1", "nll", "brier", "ece"} <= set(said["metrics"]["network"])
    assert said["rows"]["test"] > 0
    window = ("--start", day(80), "--end", day(120), "--strategy", "fusion", "--fusion", model)
    code, out = tapewire("backtest", *files(place), *window, "--json")
    assert code == 0, out
    run = json.loads(out)["run"]
    code, out = tapewire("verify", run)
    assert code == 0, out
    assert "identical" in out
    # A backtest on the training window is refused without --allow-leakage.
    leaking = ("--start", day(40), "--strategy", "fusion", "--fusion", model)
    code, out = tapewire("backtest", *files(place), *leaking)
    assert code == 3, out
    assert "knows the answers" in out
    code, out = tapewire("backtest", *files(place), *leaking, "--allow-leakage", "--json")
    assert json.loads(out)["stamps"] == ["LEAKED"]


@pytest.mark.slow
def test_verification_fails_if_the_fusion_model_has_changed(
    tapewire: Callable[..., tuple[int, str]], place: MarketFiles, tmp_path: Path
) -> None:
    scorer = json.loads((place.model / "card.json").read_text())["fingerprint"]
    write_fusion(tmp_path / "model", scorer=scorer)
    code, out = tapewire(
        "backtest", *files(place), "--strategy", "fusion", "--fusion", tmp_path / "model", "--json"
    )
    assert code == 0, out
    run = json.loads(out)["run"]
    assert tapewire("verify", run)[0] == 0
    write_fusion(tmp_path / "model", scorer=scorer, seed=9)
    code, out = tapewire("verify", run)
    assert code == 1
    assert "another fusion model" in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--strategy", "fusion"), 2, "no model is configured"),
        (("--strategy", "fusion", "--fusion", "nowhere"), 1, "nowhere"),
    ],
)
def test_a_backtest_without_a_usable_fusion_model_fails(
    tapewire: Callable[..., tuple[int, str]],
    place: MarketFiles,
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    done, out = tapewire("backtest", *files(place), *arguments)
    assert (done, words in out) == (code, True), out


def test_a_fusion_model_trained_with_another_sentiment_model_is_refused(
    tapewire: Callable[..., tuple[int, str]], place: MarketFiles, tmp_path: Path
) -> None:
    write_fusion(tmp_path, scorer="somebody else's")
    code, out = tapewire("backtest", *files(place), "--strategy", "fusion", "--fusion", tmp_path)
    assert code == 2, out
    assert "was trained with sentiment model" in out


def test_a_model_of_prices_runs_without_headlines(
    tapewire: Callable[..., tuple[int, str]], place: MarketFiles, tmp_path: Path
) -> None:
    write_fusion(tmp_path, ablation="price", trained_until=START)
    code, out = tapewire(
        "backtest", "--klines", place.klines, "--strategy", "fusion", "--fusion", tmp_path, "--json"
    )
    assert code == 0, out


def test_training_on_text_without_headlines_is_refused(
    tapewire: Callable[..., tuple[int, str]], place: MarketFiles, tmp_path: Path
) -> None:
    code, out = tapewire("train", "fusion", "--klines", place.klines, "--output", tmp_path / "m")
    assert code == 2
    assert "reads headlines" in out


def test_a_folder_with_other_files_is_not_overwritten(
    tapewire: Callable[..., tuple[int, str]], place: MarketFiles, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    code, out = tapewire("train", "fusion", *files(place), "--output", tmp_path)
    assert code == 2
    assert "holds something else" in out
