"""A bundle decides its run again on any machine; every changed byte is found and named; nothing private is in
it.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import update

from agent.core.errors import DataError
from agent.core.events import Command
from agent.replay.run_bundle import BUNDLED, LEFT_OUT, STORE, bundle_run, open_bundle
from agent.replay.verify import verify
from agent.store import tables
from agent.store.bundle_file import MANIFEST, Manifest, read_bundle, write_bundle
from agent.store.database import open_database, upgrade
from agent.store.journal import encode, read_journal_rows
from agent.store.queries import find_run
from tests.conftest import ROOT

SAMPLES = ROOT / "tests" / "sample_data"
HELPER = "WEIGHT = 0.5\n"
MINE = """
import helper
from tapewire import Strategy


class Mine(Strategy):
    def on_kline(self, kline, market):
        if kline.start // 60_000 % 60 == 0:
            self.target(kline.symbol, weight=helper.WEIGHT if kline.start // 3_600_000 % 2 else 0.0)
"""


def tapewire(folder: Path, *arguments: str | Path, code: int = 0) -> str:
    """Run the program in `folder`; return its standard output, or its standard error if it should fail."""
    command = [sys.executable, "-P", "-m", "agent.cli.main", *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, done.stderr + done.stdout
    return done.stderr if code else done.stdout


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A working folder with a strategy of two files, and prices."""
    home = tmp_path / "home-of-alice"
    home.mkdir()
    (home / "mine.py").write_text(MINE)
    (home / "helper.py").write_text(HELPER)
    shutil.copy(SAMPLES / "BTCUSDT-1m.csv", home / "prices of BTC.csv")
    return home


def backtest(home: Path, strategy: str) -> None:
    tapewire(home, "backtest", "--klines", "BTCUSDT=prices of BTC.csv", "--strategy", strategy)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["mine.py", "mine.py:Mine", "mine:Mine"])
def test_a_backtest_is_decided_again_where_none_of_it_is(home: Path, tmp_path: Path, strategy: str) -> None:
    backtest(home, strategy)
    tapewire(home, "bundle", "--output", tmp_path / "run.tapewire")
    shutil.rmtree(home)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    refused = tapewire(elsewhere, "verify", tmp_path / "run.tapewire", code=3)
    assert "its own strategy" in refused
    assert "strategy/mine.py, strategy/helper.py" in refused
    done = tapewire(elsewhere, "verify", tmp_path / "run.tapewire", "--trust-strategy", "--json")
    found = json.loads(done)
    assert found["identical"]
    assert found["decisions"] > 50
    assert list(elsewhere.iterdir()) == []


@pytest.mark.slow
def test_sleeves_with_strategies_in_files_are_decided_again(home: Path, tmp_path: Path) -> None:
    """Both sleeves have a file of the same name, beside helpers of their own."""
    other = home / "other"
    other.mkdir()
    (other / "mine.py").write_text(MINE)
    (other / "helper.py").write_text("WEIGHT = 0.2\n")
    (home / "config.toml").write_text(
        '[market]\nsymbols = ["BTCUSDT"]\n'
        '[[sleeves]]\nname = "a"\nstrategy = "mine.py"\nshare = 0.5\n'
        f'[[sleeves]]\nname = "b-2"\nstrategy = "{other / "mine.py"}:Mine"\nshare = 0.3\n'
        '[[sleeves]]\nname = "c"\nstrategy = "sma_cross"\nshare = 0.1\n'
    )
    tapewire(home, "backtest", "--klines", "BTCUSDT=prices of BTC.csv")
    tapewire(home, "bundle", "--output", tmp_path / "run.tapewire")
    shutil.rmtree(home)
    assert "strategy-a/mine.py" in tapewire(tmp_path, "verify", "run.tapewire", code=3)
    found = json.loads(tapewire(tmp_path, "verify", "run.tapewire", "--trust-strategy", "--json"))
    assert found["identical"]
    assert found["decisions"] > 100


@pytest.mark.slow
def test_a_built_in_strategy_needs_no_trust(home: Path, tmp_path: Path) -> None:
    backtest(home, "sma_cross")
    tapewire(home, "bundle", "--output", tmp_path / "run.tapewire")
    assert tapewire(tmp_path, "verify", "run.tapewire").startswith("identical: ")
    with zipfile.ZipFile(tmp_path / "run.tapewire") as archive:
        assert archive.namelist() == [MANIFEST, "inputs/1-prices_of_BTC.csv", "report.html", STORE]
        assert archive.read("inputs/1-prices_of_BTC.csv") == (home / "prices of BTC.csv").read_bytes()


@pytest.mark.slow
def test_inputs_can_stay_outside_and_are_found_by_their_hashes(home: Path, tmp_path: Path) -> None:
    backtest(home, "sma_cross")
    target = tmp_path / "run.tapewire"
    assert "without inputs/1-prices_of_BTC.csv" in tapewire(
        home, "bundle", "--without-inputs", "--output", target
    )
    assert "--inputs FOLDER" in tapewire(tmp_path, "verify", target, code=2)
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.csv").write_text("something else")
    assert "no file with the SHA-256" in tapewire(tmp_path, "verify", target, "--inputs", other, code=2)
    shutil.copy(home / "prices of BTC.csv", other / "renamed.csv")
    assert tapewire(tmp_path, "verify", target, "--inputs", other).startswith("identical")


@pytest.mark.slow
def test_no_path_of_the_machine_is_inside(home: Path, tmp_path: Path) -> None:
    backtest(home, str(home / "mine.py"))
    tapewire(home, "bundle", "--output", tmp_path / "run.tapewire")
    bundle = read_bundle(tmp_path / "run.tapewire")
    everything = b"".join(bundle.members.values()) + gzip.decompress(bundle.members[STORE])
    for private in (b"home-of-alice", str(tmp_path).encode(), str(ROOT).encode(), b"tapewire-bundle-"):
        assert private not in everything
    assert b"strategy/mine.py" in everything


@pytest.mark.slow
def test_a_key_of_the_environment_inside_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "helper.py").write_text('KEY = "a-key-of-the-venue"\n' + HELPER)
    backtest(home, "mine.py")
    monkeypatch.setenv("TAPEWIRE_API_KEY", "a-key-of-the-venue")
    refused = tapewire(home, "bundle", "--output", tmp_path / "run.tapewire", code=3)
    assert "strategy/helper.py" in refused
    assert "TAPEWIRE_API_KEY" in refused
    assert "a-key-of-the-venue" not in refused
    assert not (tmp_path / "run.tapewire").exists()


@pytest.mark.slow
def test_a_changed_input_or_strategy_is_not_bundled(home: Path, tmp_path: Path) -> None:
    backtest(home, "mine.py")
    prices = (home / "prices of BTC.csv").read_bytes()
    (home / "prices of BTC.csv").write_bytes(prices + b"\n")
    assert "has changed since the run" in tapewire(home, "bundle", code=1)
    (home / "prices of BTC.csv").write_bytes(prices)
    (home / "mine.py").write_text(MINE + "\n")
    assert "has changed since the run" in tapewire(home, "bundle", code=3)


@pytest.fixture
def live_store(tmp_path: Path) -> str:
    """A store with a live run with one restart, at a sandbox."""
    store = tmp_path / "store.db"
    recorded = ROOT / "tests" / "store" / "recorded" / "live-0007.db.gz"
    store.write_bytes(gzip.decompress(recorded.read_bytes()))
    upgrade(f"sqlite:///{store}")
    return f"sqlite:///{store}"


def bundled(url: str, target: Path) -> Path:
    with closing(open_database(url)) as database:
        bundle_run(database, find_run(database), target, render=lambda *_: "<html>")
    return target


def test_a_live_run_is_decided_again_from_its_journal(live_store: str, tmp_path: Path) -> None:
    bundle = read_bundle(bundled(live_store, tmp_path / "live.tapewire"))
    folder = tmp_path / "unpacked"
    folder.mkdir()
    database, run = open_bundle(bundle, folder)
    with closing(database):
        proof = verify(database, run)
    assert proof.identical
    assert proof.chain_head == bundle.manifest.chain_head
    assert proof.events == bundle.manifest.events > 100


def test_commands_lose_the_folders_of_their_paths(live_store: str, tmp_path: Path) -> None:
    with closing(open_database(live_store)) as database:
        run = find_run(database).id
        last = list(read_journal_rows(database, run))[-1]
        at = last.available_at
        changed = encode(Command("use-model", at, at, {"path": "/home/alice/models/7"}))
        here = (tables.journal.c.run_id == run) & (tables.journal.c.seq == last.seq)
        with database.write() as connection:
            connection.execute(update(tables.journal).where(here).values(payload=changed))
            connection.execute(tables.journal_digests.delete())
    bundle = read_bundle(bundled(live_store, tmp_path / "live.tapewire"))
    store = gzip.decompress(bundle.members[STORE])
    assert b"alice" not in store
    assert bundle.manifest.notes == ("commands whose paths are shortened: 1",)


@pytest.mark.slow
def test_every_changed_byte_is_found_and_named(live_store: str, tmp_path: Path) -> None:
    path = bundled(live_store, tmp_path / "live.tapewire")
    content = path.read_bytes()
    rng = random.Random(7)
    ends = [*range(200), *range(len(content) - 700, len(content))]
    damaged = tmp_path / "damaged.tapewire"
    for place in (*ends, *(rng.randrange(len(content)) for _ in range(400))):
        changed = bytearray(content)
        changed[place] ^= 1 << rng.randrange(8)
        damaged.write_bytes(changed)
        with pytest.raises(DataError):
            read_bundle(damaged)
    for place in (0, 10, len(content) // 2, len(content) - 1):
        damaged.write_bytes(content[:place])
        with pytest.raises(DataError):
            read_bundle(damaged)
    damaged.write_bytes(content + b"x")
    with pytest.raises(DataError):
        read_bundle(damaged)


@pytest.mark.parametrize("name", [STORE, "report.html"])
def test_a_changed_member_is_named(live_store: str, tmp_path: Path, name: str) -> None:
    path = bundled(live_store, tmp_path / "live.tapewire")
    content = bytearray(path.read_bytes())
    body = read_bundle(path).members[name]
    content[content.index(body) + len(body) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_bundle(path)


def test_a_manifest_of_another_run_is_refused(live_store: str, tmp_path: Path) -> None:
    bundle = read_bundle(bundled(live_store, tmp_path / "live.tapewire"))
    forged = Manifest(
        bundle.manifest.run, "live", bundle.manifest.version, bundle.manifest.events, 1, "00" * 16
    )
    write_bundle(tmp_path / "forged.tapewire", forged, bundle.members)
    (folder := tmp_path / "unpacked").mkdir()
    with pytest.raises(DataError, match="not the one that its manifest describes"):
        open_bundle(read_bundle(tmp_path / "forged.tapewire"), folder)


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/b/c", "strategy/../../x", ".hidden", "a\\b"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    write_bundle(tmp_path / "x.tapewire", Manifest("r", "live", "1", 0, 0, ""), {name: b"x"})
    with pytest.raises(DataError, match="not allowed"):
        read_bundle(tmp_path / "x.tapewire")


@pytest.mark.slow
def test_a_bundle_replaces_nothing(live_store: str, home: Path, tmp_path: Path) -> None:
    backtest(home, "sma_cross")
    (home / "taken").write_text("mine")
    assert "taken exists" in tapewire(home, "bundle", "--output", "taken", code=2)
    assert (home / "taken").read_text() == "mine"


def test_each_table_of_the_store_is_bundled_or_left_out_on_purpose() -> None:
    copied = {tables.runs, tables.journal, tables.journal_digests, tables.prompts, tables.strategy_sources}
    assert {*BUNDLED, *LEFT_OUT, *copied} == set(tables.metadata.tables.values())
