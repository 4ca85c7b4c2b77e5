"""What a remote caller may ask for: names that the server knows, within bounds, as arguments of a command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.config import parse
from agent.core.errors import ConfigError, UsageError
from agent.jobs.data_folders import DataFolders
from agent.jobs.job_requests import JobRequest, JobSurroundings
from agent.jobs.known_strategies import KnownStrategies
from agent.system.resources import resource

STRATEGY = '''
import tapewire as tw


class Mine(tw.Strategy[tw.StrategyParams]):
    """Does nothing."""

    def on_kline(self, kline: tw.Kline, market: tw.Market) -> None:
        raise SystemExit("it was run")
'''


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobSurroundings:
    """A project with two data folders, a strategy, and files that no job may read."""
    monkeypatch.chdir(tmp_path)
    for folder in ("var/klines/more", "data", "strategies", "secret"):
        (tmp_path / folder).mkdir(parents=True)
    for file in (
        "var/klines/BTCUSDT-1m.parquet",
        "var/klines/more/x.csv.gz",
        "data/news.jsonl",
        "secret/a.csv",
    ):
        (tmp_path / file).write_text("x")
    (tmp_path / "var/api-tokens.json").write_text("{}")
    (tmp_path / "data/notes.txt").write_text("x")
    (tmp_path / "data/link.csv").symlink_to(tmp_path / "secret/a.csv")
    (tmp_path / "data/inside").symlink_to(tmp_path / "secret")
    (tmp_path / "strategies/mine.py").write_text(STRATEGY)
    (tmp_path / "secret/evil.py").write_text("raise SystemExit")
    data = DataFolders(("var/klines", "data"))
    return JobSurroundings(data, KnownStrategies(Path()), Path("var/jobs"), "mainnet")


def arguments(project: JobSurroundings, **request: Any) -> tuple[str, ...]:
    decoded: Any = msgspec.json.decode(msgspec.json.encode(request), type=JobRequest)
    return tuple(decoded.arguments(project))


def test_a_request_is_a_command_whose_values_are_no_options(project: JobSurroundings) -> None:
    found = arguments(
        project,
        kind="backtest",
        strategy="strategies/mine.py",
        params={"fast": 10, "weight": 0.5, "short": True, "note": "--report=x"},
        klines=["klines/BTCUSDT-1m.parquet", "ETH/USDT=klines/more/x.csv.gz"],
        news="data/news.jsonl",
        start="2025-03-03",
        symbols=["BTCUSDT"],
    )
    at = Path.cwd()
    assert found == (
        "backtest",
        "--strategy=strategies/mine.py",
        "--set=fast=10",
        "--set=weight=0.5",
        "--set=short=true",
        "--set=note=--report=x",
        f"--klines={at}/var/klines/BTCUSDT-1m.parquet",
        f"--klines=ETHUSDT={at}/var/klines/more/x.csv.gz",
        f"--news={at}/data/news.jsonl",
        "--symbol=BTCUSDT",
        "--start=2025-03-03",
        "--json",
    )


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"kind": "check-lookahead", "cuts": 5}, "check lookahead --cuts=5 --jobs=1 --seed=0 --json"),
        ({"kind": "check-costs"}, "check costs --margin=1.5 --jobs=1 --json"),
        (
            {"kind": "sweep", "ranges": ["fast=5:9:2"], "store": True},
            "--store --range=fast=5:9:2 --jobs=1 --json",
        ),
        ({"kind": "walkforward", "train": "20d", "test": "5d"}, "walkforward --train=20d --test=5d"),
        ({"kind": "tune", "trials": 9, "prune": False}, "tune --trials=9 --batch=8 --folds=4"),
        ({"kind": "download", "symbol": "btcusdt", "start": "2025-01-01"}, "--json -- btcusdt"),
        ({"kind": "import", "file": "data/news.jsonl", "name": "mine"}, "/data/news.jsonl"),
    ],
)
def test_each_kind_has_its_command(project: JobSurroundings, request_: dict[str, Any], expected: str) -> None:
    assert expected in " ".join(arguments(project, **request_))


def test_files_are_written_into_the_servers_own_folders_only(project: JobSurroundings) -> None:
    at = Path.cwd()
    download = arguments(project, kind="download", symbol="btcusdt", start="2025-01-01", interval="60m")
    assert f"--output={at}/var/klines/BTCUSDT-1h.parquet" in download
    assert "--url=mainnet" in download
    tune = arguments(project, kind="tune")
    assert f"--storage=sqlite:///{at}/var/jobs/tune.db" in tune
    brought = arguments(project, kind="import", file="data/news.jsonl", name="mine")
    assert f"--output={at}/var/klines/mine.parquet" in brought
    (at / "var/klines/mine.parquet").write_text("x")
    with pytest.raises(UsageError, match=r"klines/mine.parquet is there already"):
        arguments(project, kind="import", file="data/news.jsonl", name="mine")
    (at / "var/klines/ETHUSDT-1m.parquet").symlink_to(at / "secret/a.csv")
    with pytest.raises(UsageError, match="there already"):
        arguments(project, kind="download", symbol="ETHUSDT", start="2025-01-01")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/etc/passwd", "no data file that jobs may read"),
        ("../secret/a.csv", "no data file that jobs may read"),
        ("klines/../../secret/a.csv", "no data file that jobs may read"),
        ("klines/./BTCUSDT-1m.parquet", "no data file that jobs may read"),
        ("klines/.old/BTCUSDT-1m.parquet", "no data file that jobs may read"),
        ("klines//BTCUSDT-1m.parquet", "no data file that jobs may read"),
        ("klines/a/b/c/d/e.csv", "no data file that jobs may read"),
        ("klines/x\0.csv", "no data file that jobs may read"),
        ("klines\\..\\x.csv", "no data file that jobs may read"),
        ("var/api-tokens.json", "no data file that jobs may read"),
        ("secret/a.csv", "no data file that jobs may read"),
        ("data/notes.txt", "unknown kind of file"),
        ("data/link.csv", "a link is not followed"),
        ("data/inside/a.csv", "a link is not followed"),
        ("klines/more", "unknown kind of file"),
        ("data/new.jsonl", "did you mean data/news.jsonl"),
    ],
)
def test_a_file_outside_the_data_folders_is_refused(project: JobSurroundings, name: str, why: str) -> None:
    for field in ({"klines": [name]}, {"news": name}, {"funding": f"{name}"}):
        with pytest.raises(UsageError, match=r".*") as refused:
            arguments(project, kind="backtest", **field)
        assert why in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        "secret/evil.py",
        "evil",
        "os:system",
        "strategies.sma_cross:SmaCross",
        "/tmp/x.py",
        "../x.py",
        "mine.py",
    ],
)
def test_a_strategy_that_is_not_listed_is_refused(project: JobSurroundings, name: str) -> None:
    with pytest.raises(UsageError, match=r"unknown strategy"):
        arguments(project, kind="backtest", strategy=name)


@pytest.mark.parametrize(
    "request_",
    [
        {"kind": "backtest", "model": "openai:http://10.0.0.1#x"},
        {"kind": "backtest", "allow_leakage": True},
        {"kind": "backtest", "report": "x.html"},
        {"kind": "backtest", "params": {"--report": "x"}},
        {"kind": "backtest", "params": {"fast": "1\n2"}},
        {"kind": "backtest", "params": {"fast": [1]}},
        {"kind": "backtest", "start": "--json"},
        {"kind": "sweep", "limit": 2_001},
        {"kind": "sweep", "ranges": ["--store"]},
        {"kind": "tune", "trials": 0},
        {"kind": "tune", "storage": "sqlite:///x"},
        {"kind": "walkforward", "fit": "fusion"},
        {"kind": "walkforward", "train": "-1d"},
        {"kind": "check-placebo", "draws": 18},
        {"kind": "download", "symbol": "../x", "start": "2025-01-01"},
        {"kind": "download", "symbol": "BTCUSDT", "start": "2025-01-01", "url": "http://10.0.0.1"},
        {"kind": "import", "file": "data/news.jsonl", "name": "../x"},
        {"kind": "train"},
        {"kind": "verify", "run": "latest"},
        {},
    ],
)
def test_what_a_caller_may_not_choose_is_refused(request_: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(request_), type=JobRequest)


def test_strategies_and_files_are_listed_without_running_code_or_naming_paths(
    project: JobSurroundings,
) -> None:
    listed = {one.name: one for one in project.strategies.all()}
    assert listed["sma_cross"].built_in
    assert listed["sma_cross"].parameters["fast"] == "20"
    assert (listed["strategies/mine.py"].built_in, listed["strategies/mine.py"].doc) == (
        False,
        "Does nothing.",
    )
    files, left_out = project.data.files()
    samples = [one.name for one in files if one.name.startswith("sample/")]
    assert "sample/BTCUSDT-1m.csv" in samples
    others = [one.name for one in files if one.name not in samples]
    assert others == ["data/news.jsonl", "klines/BTCUSDT-1m.parquet", "klines/more/x.csv.gz"]
    assert left_out == 0
    sample = project.data.find("sample/BTCUSDT-1m.csv")
    assert sample == (resource("sample_data") / "BTCUSDT-1m.csv").absolute()


@pytest.mark.parametrize("folders", [[], ["a/data", "b/data"], ["."], ["var/sample"]])
def test_data_folders_need_names_of_their_own(folders: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"data"):
        parse({"jobs": {"data": folders}}, where="test")


def test_the_folder_of_strategies_may_lie_elsewhere(project: JobSurroundings, tmp_path: Path) -> None:
    elsewhere = KnownStrategies(tmp_path / "strategies")
    assert elsewhere.find("mine.py") == str(tmp_path / "strategies/mine.py")
    assert [one.name for one in KnownStrategies(tmp_path / "none").all() if not one.built_in] == []
