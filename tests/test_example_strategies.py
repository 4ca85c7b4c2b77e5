"""The strategies of examples/strategies: short, described, honest; each trades, and its runs verify."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

import tapewire as tw
from agent.research.parameter_space import default_space, grid
from strategies import load_strategy, strategy_class
from strategies.description import describe_strategy
from tests.cli.conftest import Outcome, tapewire
from tests.conftest import ROOT
from tests.support.effort import usual
from tests.support.long_sample import SYMBOLS, write_long_sample

__all__ = ["tapewire"]

FOLDER = ROOT / "examples/strategies"
FILES = sorted(FOLDER.glob("*.py"))
SAMPLE = [ROOT / f"tests/sample_data/{symbol}-1m.csv" for symbol in SYMBOLS]


class Market(NamedTuple):
    """Bars that a strategy is tested on: of `minutes`, `passes` times the sample's 36 hours long, in a long
    run `long` times.
    """

    minutes: int
    passes: int
    long: int
    params: Mapping[str, Any] = MappingProxyType({})


MARKETS = {
    "break_even": Market(15, 8, 40),
    "dca": Market(15, 8, 40, {"hours": 24}),
    "donchian_breakout": Market(15, 8, 40),
    "dual_thrust": Market(15, 8, 40),
    "ema_cross": Market(1, 3, 6, {"fast": 2, "slow": 4}),  # 50 hours of warm-up instead of 626
    "grid": Market(5, 4, 12),
    "news_fade": Market(1, 1, 1),
    "pairs": Market(15, 6, 40),
    "regime_switch": Market(15, 10, 40),
    "rsi_reversion": Market(5, 4, 12),
    "squeeze": Market(15, 8, 40),
    "supertrend": Market(60, 60, 60),
    "volatility_target": Market(15, 10, 40),
}
ON_THE_SAMPLE = set(MARKETS) - {"break_even", "dual_thrust", "ema_cross", "supertrend"}
"""Strategies whose indicators have enough bars within 36 hours."""


def needs_ta_lib(file: Path) -> None:
    if "self.ta" in file.read_text():
        talib = pytest.importorskip("talib", reason="TA-Lib, the extra `ta`, is not installed")
        if file.stem == "supertrend" and "SUPERTREND" not in talib.get_functions():
            pytest.skip("this TA-Lib has no SUPERTREND: it came with 0.7")


def arguments(file: Path, folder: Path) -> list[str]:
    """Return the command line's options for a strategy and its market."""
    market = MARKETS[file.stem]
    passes = usual(market.passes, long=market.long)
    klines = write_long_sample(folder, market.minutes, passes) if passes > 1 else SAMPLE
    config = folder / "config.toml"  # the sample's swing of 10 %, again and again, would halt any strategy
    config.write_text("[risk]\nmax_daily_loss = 1\nmax_drawdown = 1\n")
    options = [f"--klines={path}" for path in klines] + [
        "--strategy",
        str(file),
        "--json",
        f"--config={config}",
    ]
    if file.stem.startswith("news"):
        options.append(f"--news={ROOT / 'tests/sample_data/headlines.csv'}")
    return options + [f"--set={name}={value}" for name, value in market.params.items()]


each = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def test_there_are_at_least_twelve() -> None:
    assert {file.stem for file in FILES} == set(MARKETS)
    assert len(FILES) >= 12


@each
def test_it_is_short_described_and_its_parameters_are_a_search_space(file: Path) -> None:
    assert len(file.read_text().splitlines()) < 60
    found = describe_strategy(str(file), strategy_class(str(file)))
    assert found.doc
    space = {item.name for item in default_space(str(file))}
    assert space == {parameter.name for parameter in found.parameters}
    assert grid(default_space(str(file)), str(file), {}, points=2)
    load_strategy(str(file))


def code_lines(source: str) -> int:
    """Return the number of lines with code, without comments, docstrings and empty lines."""
    documented: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            documented |= {*range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.string.strip() and token.type != tokenize.COMMENT:
            lines |= {*range(token.start[0], token.end[0] + 1)}
    return len(lines - documented)


def test_the_documented_lengths_are_counted() -> None:
    page = (ROOT / "docs/coming-from.md").read_text(encoding="utf-8")
    stated = re.findall(r"\| \d+ \| `(\w+)\.py` \| (\d+) \|", page)
    assert len(stated) == 3
    for name, lines in stated:
        assert code_lines((FOLDER / f"{name}.py").read_text()) == int(lines), name


@pytest.mark.slow
@each
def test_it_trades_and_verifies(file: Path, tmp_path: Path, tapewire: Callable[..., Outcome]) -> None:
    needs_ta_lib(file)
    done = tapewire("backtest", *arguments(file, tmp_path))
    assert done.code == 0, done.err
    run = json.loads(done.out)
    assert run["metrics"]["fills"] >= 5
    assert not any("orders refused" in note for note in run["notes"]), run["notes"]
    assert tapewire("verify", "latest").out.startswith("identical")


@pytest.mark.parametrize("name", sorted(ON_THE_SAMPLE))
def test_it_trades_on_the_sample_with_its_defaults(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_ta_lib(FOLDER / f"{name}.py")
    monkeypatch.chdir(tmp_path)
    news = tw.sample_data("headlines.csv") if name.startswith("news") else None
    result = tw.Backtest(FOLDER / f"{name}.py", SAMPLE, news).run()
    assert len(result.trades) >= 2
    assert not any("orders refused" in note for note in result.notes), result.notes


@pytest.mark.slow
@each
def test_more_warm_up_does_not_change_its_decisions(
    file: Path, tmp_path: Path, tapewire: Callable[..., Outcome]
) -> None:
    needs_ta_lib(file)
    done = tapewire("check", "startup", *arguments(file, tmp_path))
    assert done.code == 0, done.out + done.err
    result = json.loads(done.out)
    assert len(result["trials"]) > 1
    assert result["trials"][0]["decisions"] >= 5


@pytest.mark.slow
@each
def test_it_does_not_read_the_future(file: Path, tmp_path: Path, tapewire: Callable[..., Outcome]) -> None:
    needs_ta_lib(file)
    done = tapewire("check", "lookahead", "--jobs=1", "--cuts=2", *arguments(file, tmp_path))
    assert done.code == 0, done.out + done.err
    assert json.loads(done.out)["passed"]
