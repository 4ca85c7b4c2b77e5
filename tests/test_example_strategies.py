"""The strategies of examples/strategies: short and described; each trades and verifies on the sample data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tapewire as tw
from agent.research.parameter_space import default_space, grid
from strategies import load_strategy, strategy_class
from strategies.description import describe_strategy
from tests.conftest import ROOT

FILES = sorted((ROOT / "examples/strategies").glob("*.py"))
SHORTER: dict[str, dict[str, Any]] = {
    "ema_cross": {"fast": 3, "slow": 8},  # the sample has 36 hours
    "news_fade": {"jump": 0, "hours": 1},
    "news_momentum": {"confidence": 0.6},
}
"""Parameters with which a strategy trades within the sample data."""


def test_there_are_twelve() -> None:
    assert len(FILES) == 12


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_short_described_and_its_parameters_are_a_search_space(file: Path) -> None:
    lines = file.read_text().splitlines()
    assert len(lines) < 60
    found = describe_strategy(str(file), strategy_class(str(file)))
    assert found.doc
    space = {item.name for item in default_space(str(file))}
    assert space == {parameter.name for parameter in found.parameters}
    assert grid(default_space(str(file)), str(file), {}, points=2)
    load_strategy(str(file))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_trades_on_the_sample_data_and_verifies(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    news = tw.sample_data("headlines.csv") if file.stem.startswith("news") else None
    klines = [tw.sample_data("BTCUSDT-1m.csv"), tw.sample_data("ETHUSDT-1m.csv")]
    result = tw.Backtest(file, klines, news, params=SHORTER.get(file.stem)).run()
    assert len(result.trades) >= 1
    assert not any("orders re" in note for note in result.notes), result.notes
    assert tw.verify(result.run.id).identical
