"""What is installed is what was tested: compiled modules are those of the sources, and a wheel works outside
the checkout.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from agent.core import features
from tests.conftest import ROOT
from tests.support.market import flat_bars

MANIFEST = ROOT / "agent/_compiled.json"


def test_no_compiled_module_is_older_than_its_source() -> None:
    extensions = [path.name for path in ROOT.glob("agent/**/*.so")]
    if not extensions:
        pytest.skip("nothing is compiled here: everything runs as Python")
    for name, digest in json.loads(MANIFEST.read_text())["sources"].items():
        assert hashlib.sha256((ROOT / name).read_bytes()).hexdigest() == digest, (
            f"{name} has changed since: run `make setup`"
        )


def interpreted(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"interpreted_{name}", ROOT / f"agent/core/{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_compiled_features_are_those_of_the_interpreter_to_the_last_bit() -> None:
    if not str(features.__file__).endswith(".so"):
        pytest.skip("nothing is compiled here: everything runs as Python")
    compiled, plain = features.FeatureTracker(), interpreted("features").FeatureTracker()
    closes, x = [], 0.3
    for _ in range(3_000):
        x = 3.9 * x * (1 - x)  # chaotic, so that every bit counts
        closes.append(round(100 + 50 * x, 2))
    for kline in flat_bars(closes):
        assert [v.hex() for v in compiled.update(kline)] == [v.hex() for v in plain.update(kline)]


@pytest.mark.slow
def test_a_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    """Migrations, configuration, samples and the report's page travel in it."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, env={**os.environ, "TAPEWIRE_PURE": "1"})
    (wheel,) = tmp_path.glob("*.whl")
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    assert {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")} == {
        "agent",
        "models",
        "strategies",
        "tapewire",
    }

    def tapewire(*args: str) -> str:
        call = "import sys; sys.path.insert(0, sys.argv.pop(1)); from agent.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-P", "-c", call, str(site), *args],
            cwd=work,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    said = tapewire("backtest", "--strategy", "sma_cross")
    assert str(site / "agent/_resources/sample_data") in said
    assert "identical" in tapewire("verify")
    tapewire("report", "latest", "--output", "report.html")
    assert (work / "report.html").stat().st_size > 100_000
