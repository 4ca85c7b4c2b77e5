"""`import tapewire` gives users everything, imports it late, and refuses packages that take the place of
ours.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import tapewire
from tests.conftest import ROOT

SAMPLE = ROOT / "tests/sample_data"
HOLDER = """
import tapewire as tw


class Params(tw.StrategyParams):
    weight: float = 0.5


class Holder(tw.Strategy[Params]):
    def on_kline(self, kline: tw.Kline, market: tw.Market) -> None:
        if not market.position(kline.symbol):
            self.target(kline.symbol, weight=self.params.weight)
"""


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False
    )


def test_every_public_name_is_there_and_known_to_editors() -> None:
    tree = ast.parse(Path(tapewire.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == set(tapewire.__all__) == set(dir(tapewire))
    for name in tapewire.__all__:
        assert getattr(tapewire, name) is not None
    with pytest.raises(AttributeError, match="Nothing"):
        tapewire.Nothing  # noqa: B018


def test_a_strategy_imports_no_library_that_it_does_not_use(tmp_path: Path) -> None:
    heavy = ("pandas", "torch", "sqlalchemy", "onnxruntime", "aiohttp", "pyarrow")
    found = python(
        f"import sys, tapewire as tw; tw.Strategy, tw.BUY; print([m for m in {heavy} if m in sys.modules])",
        tmp_path,
    )
    assert found.stdout.strip() == "[]", found.stderr


@pytest.mark.parametrize("package", ["agent", "models", "strategies"])
def test_a_folder_that_takes_the_place_of_a_package_is_named_in_one_line(
    tmp_path: Path, package: str
) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    found = python("import tapewire", tmp_path)
    assert found.stderr.splitlines()[-1] == (
        f"ImportError: {tmp_path / package} takes the place of Tapewire's package {package!r}: "
        "rename it, or start Python in another folder"
    )


def test_a_strategy_of_a_file_is_replayed_and_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("holder.py").write_text(HOLDER)
    bars = tapewire.load_klines(SAMPLE / "BTCUSDT-1m.csv").iloc[:300]
    result = tapewire.Backtest("holder.py", bars, params={"weight": 0.25}).run()
    assert result.run.params == {"weight": 0.25}
    assert result.equity["equity"].iloc[-1] != 10_000
    assert tapewire.verify(result.run.id).identical


def test_headlines_that_no_strategy_reads_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bars = tapewire.load_klines(SAMPLE / "BTCUSDT-1m.csv").iloc[:200]
    result = tapewire.Backtest("buy_and_hold", bars, SAMPLE / "headlines.csv").run()
    assert "news is not read: strategy buy_and_hold uses no headlines" in result.notes


def test_a_strategy_that_reads_headlines_is_not_replayed_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bars = tapewire.load_klines(SAMPLE / "BTCUSDT-1m.csv").iloc[:200]
    with pytest.raises(tapewire.UsageError, match="strategy sentiment reads headlines, and none are given"):
        tapewire.Backtest("sentiment", bars).run()


def test_bars_that_a_file_lacks_or_repeats_are_noted(tmp_path: Path) -> None:
    file = tmp_path / "BTCUSDT-1m.csv"
    head, *rows = (SAMPLE / "BTCUSDT-1m.csv").read_text().splitlines()
    file.write_text("\n".join([head, *rows[:20], rows[19], *rows[25:60]]))  # one twice, five missing
    frame = tapewire.load_klines(file)
    assert len(frame) == 20 + 35
    assert frame.attrs["notes"] == ["gaps: 1", "duplicate bars left out: 1"]


@pytest.mark.slow
def test_a_class_without_source_runs_with_the_note_that_it_cannot_be_verified(tmp_path: Path) -> None:
    found = python(
        f"{HOLDER}\nresult = tw.Backtest(Holder, '{SAMPLE / 'BTCUSDT-1m.csv'}').run()\n"
        "print(len(result.trades), result.run.strategy, result.notes)",
        tmp_path,
    )
    assert found.stdout.strip() == (
        "1 __main__:Holder [\"the source of Holder can't be kept, so the run can't be verified: "
        'the source of Holder is not at hand; save it to a file, e.g. with %%writefile mine.py"]'
    ), found.stderr


def test_headlines_are_read_as_a_backtest_reads_them() -> None:
    news = tapewire.load_news(SAMPLE / "headlines.csv")
    assert list(news.columns[:2]) == ["published_at", "title"]
    assert news["published_at"].is_monotonic_increasing
    assert len(news) > 50


def test_parameters_are_those_that_the_class_names() -> None:
    class Params(tapewire.StrategyParams):
        length: int = 7

    class Typed(tapewire.Strategy[Params]):
        pass

    class Nested(tapewire.Strategy):
        class Params(tapewire.StrategyParams):
            length: int = 8

    assert (Typed.Params, Typed().params.length, Nested().params.length) == (Params, 7, 8)


def test_the_former_name_of_on_signal_expired_keeps_working() -> None:
    with pytest.warns(DeprecationWarning, match="on_faded: this method is called on_signal_expired now"):

        class Old(tapewire.Strategy):
            def on_faded(self, signal: tapewire.Signal, market: tapewire.Market) -> None:
                pass

    assert Old.on_signal_expired is Old.on_faded
    assert Old.overrides("on_signal_expired")
    with warnings.catch_warnings(action="error"):

        class New(tapewire.Strategy):
            def on_signal_expired(self, signal: tapewire.Signal, market: tapewire.Market) -> None:
                pass

    assert New.overrides("on_signal_expired")


def test_the_former_module_of_the_strategy_interface_keeps_working() -> None:
    from strategies import base

    assert base.Strategy is tapewire.Strategy
    assert base.BUY is tapewire.BUY
