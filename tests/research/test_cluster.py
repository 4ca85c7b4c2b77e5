"""Research in the workers of Dask and Ray: the results and records of one process, though workers are lost.

Dask's workers are processes of their own in empty folders, each with its own folder for received files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from sqlalchemy import select

from agent.config import Config, parse
from agent.core.errors import ConfigError, DataError, UsageError
from agent.core.events import DAY_MS, Fill
from agent.replay.history import History, Plan
from agent.replay.verify import verify
from agent.research.backends import open_backend
from agent.research.cluster_worker import Missing, Returned, run_envelope
from agent.research.fitters import GridFitter
from agent.research.folds import make_folds
from agent.research.moved_paths import load
from agent.research.parallel import run_parallel
from agent.research.parameter_space import parse_ranges
from agent.research.replay_inputs import ReplayInputs
from agent.research.shipment import Shipment
from agent.research.sweep import sweep
from agent.research.walk_forward import Settings, WalkForward, walk_forward
from agent.store import tables
from agent.store.database import open_database
from agent.store.queries import find_run, list_runs, read_rows
from tests.cli.conftest import Outcome
from tests.research.market_files import write_klines
from tests.research.test_parallel import double, double_once_killed
from tests.support.ports import await_server, free_port

CROSS = """
import os
import signal
from pathlib import Path
from helper import side
from tapewire import Strategy, StrategyParams


class Params(StrategyParams):
    every: int = 5
    mark: str = ""  # file; the first process that comes to the middle without it is killed


class Cross(Strategy[Params]):
    Params = Params
    bars = 0

    def on_bar(self, bar, market):
        self.bars += 1
        if self.bars == 150 and self.params.mark and not Path(self.params.mark).exists():
            Path(self.params.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.bars % self.params.every == 0:
            self.target(bar.symbol, weight=side(bar))
"""
HELPER = """
def side(bar):
    return 0.5 if bar.close > bar.open else -0.5
"""


@pytest.fixture(scope="module")
def dask_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
    with ExitStack() as stack:
        scheduler = stack.enter_context(
            distributed.LocalCluster(n_workers=0, dashboard_address=None, silence_logs=50)
        )
        for number in range(2):
            folder = tmp_path_factory.mktemp(f"worker-{number}")
            command = (sys.executable, "-m", "distributed.cli.dask_worker", scheduler.scheduler_address)
            options = ("--nthreads", "1", "--no-dashboard", "--local-directory", str(folder))
            environment = os.environ | {"TAPEWIRE_CACHE": str(folder / "received"), "HOME": str(folder)}
            environment |= {"PYTHONPATH": str(Path(__file__).parents[2])}
            process = subprocess.Popen(
                [*command, *options],
                cwd=folder,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
        yield scheduler.scheduler_address


@pytest.fixture(scope="module")
def ray_is_running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    before = os.environ.get("TAPEWIRE_CACHE")
    os.environ["TAPEWIRE_CACHE"] = str(tmp_path_factory.mktemp("ray"))
    from agent.research.ray_cluster import open_ray

    with open_ray(None, 2):  # takes many seconds, so that the tests share it
        yield
    os.environ.pop("TAPEWIRE_CACHE")
    if before is not None:
        os.environ["TAPEWIRE_CACHE"] = before


Backend = Callable[[], Any]


@pytest.fixture(params=["loky", "dask", "ray"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Return what opens a backend for a `with` block."""
    if request.param == "loky":
        return nullcontext
    if request.param == "dask":
        address = request.getfixturevalue("dask_address")
        return lambda: open_backend("dask", address, 0)
    request.getfixturevalue("ray_is_running")
    return running_ray


@contextmanager
def running_ray() -> Iterator[None]:
    from agent.research.parallel import use_cluster
    from agent.research.ray_cluster import RayCluster

    with use_cluster(RayCluster()):
        yield


def inputs_in(folder: Path, name: str, **params: Any) -> ReplayInputs:
    """Return settled inputs of 40 days; the files have relative paths, so a worker doesn't find them."""
    Path("cross.py").write_text(CROSS)
    Path("helper.py").write_text(HELPER)
    write_klines(Path("BTCUSDT-1h.csv"), days=40)
    config = parse(
        {"strategy": {"name": name, "params": params}, "store": {"url": f"sqlite:///{folder}/store.db"}},
        where="test",
    )
    history = History(Plan(((Path("BTCUSDT-1h.csv"), None),)), config)
    return ReplayInputs(history.plan._replace(start=history.start, end=history.end), history.config)


class Judged(NamedTuple):
    """A walk-forward without what differs from one to the next, and its runs."""

    result: dict[str, Any]
    runs: list[dict[str, Any]]
    equity: list[list[Any]]
    fills: list[list[Any]]
    files: dict[str, bytes]


def judge(inputs: ReplayInputs, folder: Path, *, jobs: int = 2, refit: bool = False) -> Judged:
    """Walk forward over three folds, and read what was recorded."""
    window = inputs.whole_window
    folds = make_folds(window.start, window.end, train=10 * DAY_MS, test=10 * DAY_MS)
    ranges = parse_ranges(["every=5,9"], inputs.config.strategy.name) if refit else []
    fitter = GridFitter(inputs, ranges, 2)
    done: list[None] = []
    result = walk_forward(
        inputs,
        folds,
        fitter,
        Settings("refit", DAY_MS, jobs=jobs),
        folder=folder,
        advance=lambda: done.append(None),
    )
    assert len(done) == len(folds)
    return read_judged(result, inputs, folder)


def read_judged(result: WalkForward, inputs: ReplayInputs, folder: Path) -> Judged:
    plain = msgspec.to_builtins(result)
    for name in ("id", "seconds"):
        del plain[name]
    plain["settings"].pop("jobs")
    for fold in plain["folds"]:
        for name in ("run", "fit_seconds", "test_seconds"):
            del fold[name]
    runs, equity, fills = [], [], []
    with closing(open_database(inputs.config.store.url)) as database:
        for fold in result.folds:
            run = msgspec.to_builtins(find_run(database, fold.run))
            assert run["config"]["window"].pop("part_of") == f"{result.id} fold {fold.number}"
            assert verify(database, find_run(database, fold.run)).identical
            for name in ("id", "started_at", "finished_at", "chain_head"):
                del run[name]
            runs.append(run)
            query = select(tables.equity).where(tables.equity.c.run_id == fold.run)
            with database.read() as connection:
                equity.append([tuple(row)[1:] for row in connection.execute(query)])
            fills.append(
                [(fill.ts, fill.side, fill.qty, fill.price) for fill in read_rows(database, fold.run, Fill)]
            )
    own = folder / result.id
    files = {str(path.relative_to(own)): path.read_bytes() for path in own.glob("fold-*/*")}
    return Judged(plain, runs, equity, fills, files)


@pytest.mark.slow
def test_a_walk_forward_is_the_same_on_each_backend(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Returns, evidence, the recorded runs with their paths, equity, fills, and the files of the folds."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").mkdir()
    alone = judge(inputs_in(tmp_path / "one", "cross.py"), tmp_path / "one", jobs=1, refit=True)
    with backend():
        there = judge(inputs_in(tmp_path / "other", "cross.py"), Path("other"), refit=True)
    assert there == alone
    assert alone.runs[0]["inputs"][0]["path"] == "BTCUSDT-1h.csv"
    assert alone.runs[0]["versions"]["strategy_file"] == str(tmp_path / "cross.py")
    assert sorted(alone.files) == [f"fold-{number:02}/search.json" for number in (1, 2, 3)]
    assert all(alone.fills)


@pytest.mark.slow
def test_a_sweep_is_the_same_on_each_backend(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inputs = inputs_in(tmp_path, "sma_cross")
    variants = [{"fast": fast, "slow": 24} for fast in (3, 6, 12)]
    alone = sweep(inputs, variants, digests=True)
    with backend():
        there = sweep(inputs, variants, jobs=2, digests=True)
    assert there == alone
    assert len({one.digest for one in there}) == 3


@pytest.mark.slow
def test_a_worker_that_is_killed_midway_loses_nothing(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "killed"
    with backend():
        there = judge(inputs_in(tmp_path / "other", "cross.py", mark=str(mark)), tmp_path / "other")
    assert mark.exists()  # so that nothing is killed now
    alone = judge(inputs_in(tmp_path / "one", "cross.py", mark=str(mark)), tmp_path / "one", jobs=1)
    assert there == alone
    with closing(open_database(f"sqlite:///{tmp_path}/other/store.db")) as database:
        assert len(list_runs(database)) == 3  # and no half of one


@pytest.mark.slow
def test_order_errors_and_lost_workers(backend: Backend, tmp_path: Path) -> None:
    with backend():
        tasks = [(tmp_path, value) for value in range(6)]
        assert run_parallel(double_once_killed, tasks, jobs=2) == [0, 2, 4, 6, 8, 10]
        with pytest.raises(DataError, match=r"-1 is negative \(use another one\)"):
            run_parallel(double, [1, -1, 2], jobs=2)


@pytest.mark.slow
def test_the_commands_use_a_cluster(
    dask_address: str, tapewire: Callable[..., Outcome], tmp_path: Path
) -> None:
    """The files have relative paths, and the scores of the sample data's headlines are sent with them."""
    write_klines(Path("BTCUSDT-1h.csv"), days=40)
    cross = ("--klines", "BTCUSDT-1h.csv", "--strategy", "sma_cross", "--set", "fast=6", "--set", "slow=24")
    there = ("--backend", "dask", "--address", dask_address)
    found = []
    for where in (("-j", 1), there):
        done = tapewire("walkforward", *cross, "--train", "10d", "--test", "10d", "--json", *where)
        assert done.code == 0, done.err
        found.append(json.loads(done.out))
    assert found[0]["returns"] == found[1]["returns"]
    assert found[0]["evidence"] == found[1]["evidence"]
    for fold in found[1]["folds"]:
        assert tapewire("verify", fold["run"]).code == 0
    for check in (
        ("placebo", "--strategy", "sentiment", "--draws", 19),
        ("lookahead", *cross, "--cuts", 2),
    ):
        alone, shipped = (tapewire("check", *check, "--json", *where) for where in (("-j", 1), there))
        assert json.loads(alone.out) == json.loads(shipped.out), shipped.err


@pytest.fixture
def ray_address(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the address of a Ray cluster that wants a token, for its own machines. Not the one for others,
    ray://…: on a busy machine Ray takes longer to start its server than it waits for it.
    """
    pytest.importorskip("ray", reason="the extra ray is not installed")
    home = tmp_path_factory.mktemp("r")  # a short path: Ray's sockets lie below it
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("c0ffee" * 10)
    for name, value in {"HOME": home, "TAPEWIRE_CACHE": home / "cache", "RAY_USAGE_STATS_ENABLED": 0}.items():
        monkeypatch.setenv(name, str(value))
    port = free_port()
    start = f"start --head --block --num-cpus=2 --include-dashboard=false --temp-dir={home}"
    ports = f"--port={port} --ray-client-server-port={free_port()} --min-worker-port=0 --max-worker-port=0"
    ray = Path(sys.executable).with_name("ray")
    process = subprocess.Popen([ray, *start.split(), *ports.split()], stdout=subprocess.DEVNULL)
    try:
        await_server(process, port, 120.0)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()  # not `ray stop`, which stops the clusters of other tests too
        process.wait(60)


@pytest.mark.slow
def test_the_commands_use_a_ray_cluster(ray_address: str, tmp_path: Path) -> None:
    write_klines(tmp_path / "BTCUSDT-1h.csv", days=40)
    cross = ("--klines", "BTCUSDT-1h.csv", "--strategy", "sma_cross", "--json")
    sweep = ("sweep", *cross, "--range", "fast=3:9:3", "--digests")
    costs = ("check", "costs", *cross, "--set", "fast=6", "--set", "slow=24")
    for command in (sweep, costs):
        found = []
        for where in (("-j", "1"), ("--backend", "ray", "--address", ray_address)):
            line = [sys.executable, "-m", "agent.cli.main", *command, *where]
            done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
            assert done.stdout, done.stderr
            found.append(json.loads(done.stdout))
        assert found[0] == found[1]


@pytest.mark.slow
def test_without_an_address_dask_starts_workers(
    tapewire: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    pytest.importorskip("optuna", reason="the extra research is not installed")
    monkeypatch.setenv("TAPEWIRE_CACHE", str(tmp_path / "received"))
    klines = write_klines(tmp_path / "BTCUSDT-1h.csv", days=40)
    search = ("--strategy", "sma_cross", "--range", "fast=3:9", "--trials", 4, "--batch", 2, "--folds", 2)
    found = []
    for where in ((), ("--backend", "dask")):
        storage = f"sqlite:///{len(where)}.db"
        done = tapewire("tune", "--klines", klines, *search, "--storage", storage, "--json", *where)
        assert done.code == 0, done.err
        found.append(json.loads(done.out))
    assert [one["params"] for one in found[1]["tried"]] == [one["params"] for one in found[0]["tried"]]
    assert found[1]["value"] == found[0]["value"]
    refused = tapewire(
        "tune", "--klines", klines, *search, "--backend", "dask", "--address", "tcp://127.0.0.1:1"
    )
    assert refused.code == 2
    assert "no Dask scheduler answers at 127.0.0.1:1" in refused.err


# -- what needs no cluster ----------------------------------------------------------------------------------


def test_a_worker_with_another_program_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPEWIRE_CACHE", str(tmp_path))
    run, envelope = Shipment(double, None, None, refuse_to_publish).call(1)
    other = msgspec.structs.replace(
        envelope, program=msgspec.structs.replace(envelope.program, version="0.0.1", core="1")
    )
    returned = run(other)
    assert isinstance(returned, Returned)
    outcome, _ = load(returned.payload, str, {})
    with pytest.raises(UsageError, match=r"runs another program: version .* instead of 0\.0\.1, core"):
        raise outcome.error


def refuse_to_publish(content: bytes) -> Callable[[], bytes]:
    raise AssertionError("nothing is to be sent")


def test_content_is_sent_once_and_no_secret_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second worker process of the machine finds the files; the configuration has no URL of a service."""
    monkeypatch.setenv("TAPEWIRE_CACHE", str(tmp_path / "received"))
    monkeypatch.chdir(tmp_path)
    inputs = inputs_in(tmp_path, "cross.py")
    sent: list[bytes] = []

    def publish(content: bytes) -> Callable[[], bytes]:
        sent.append(content)
        return lambda: content

    shipment = Shipment(store_of, inputs, None, publish)
    task = (inputs, "x")
    first = run_envelope(shipment.call(task)[1])
    assert isinstance(first, Missing)
    assert shipment.receive(task, first) is None
    files = {Path(name).read_bytes() for name in ("helper.py", "cross.py", "BTCUSDT-1h.csv")}
    assert files < set(sent)
    assert len(sent) == 4  # with the store of scores
    envelope = shipment.call(task)[1]
    assert str(inputs.config.store.url).encode() not in envelope.payload
    for _ in range(2):
        outcome = shipment.receive(task, run_envelope(envelope))
        assert outcome is not None
        assert outcome.error is None
    assert str(tmp_path / "received" / "stores") in outcome.result[0]
    assert outcome.result[1] == inputs.config  # with the URL of this machine's store
    assert len(sent) == 4
    Path("BTCUSDT-1h.csv").write_text("changed")
    assert isinstance(run_envelope(Shipment(store_of, inputs, None, publish).call(task)[1]), Missing)


def store_of(task: tuple[ReplayInputs, str]) -> tuple[str, Config]:
    return " " + task[0].config.store.url, task[0].config


def test_a_strategy_whose_code_can_not_be_sent_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inputs = inputs_in(tmp_path, "sma_cross")
    strategy = inputs.config.strategy.model_copy(update={"name": "tests.research.cheats:Cheat"})
    installed = inputs._replace(config=inputs.config.model_copy(update={"strategy": strategy}))
    with pytest.raises(ConfigError, match="can't be sent to other machines"):
        Shipment(store_of, installed, None, refuse_to_publish)


@pytest.mark.parametrize(
    ("name", "address", "reason"),
    [
        ("spark", None, "there is no such backend"),
        ("loky", "tcp://127.0.0.1:1", "loky runs on this machine"),
    ],
)
def test_a_backend_that_can_not_be_used_is_refused(name: str, address: str | None, reason: str) -> None:
    with pytest.raises(UsageError, match=reason), open_backend(name, address, 1):
        raise AssertionError("not reached")
