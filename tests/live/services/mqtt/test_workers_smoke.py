"""A short run of `bench/workers.py`: a daemon, a real broker, two worker processes, and kill -9."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.support.mosquitto import needs_mosquitto


@needs_mosquitto
@pytest.mark.slow
def test_each_headline_is_scored_once_if_a_worker_is_killed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.workers", "--headlines", "128"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=700,  # each of the three phases has a limit of its own
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    line = json.loads(done.stdout)
    assert [line[phase]["once"] for phase in ("one", "two", "killed")] == [128] * 3
    assert [line[phase]["own_model"] for phase in ("one", "two", "killed")] == [0] * 3
    assert line["verify"] == "identical"
    assert line["ratio_two_to_one"] > 0
