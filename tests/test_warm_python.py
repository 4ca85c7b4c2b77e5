"""A process forked from a warm interpreter is to its test what a new interpreter is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.warm_python import is_available, warm

pytestmark = pytest.mark.skipif(not is_available(), reason="forks are handed over on Linux only")

WHO = "import os, sys; print(os.getppid(), os.getcwd(), os.getsid(0) == os.getpid(), sys.argv, sys.path[0])"


@pytest.mark.parametrize(
    ("code", "returned"),
    [
        (WHO, 0),
        ("import os; mask = os.umask(0); print(mask, dict(os.environ), input())", 0),
        ("import sys; sys.exit('told')", 1),
        ("import sys; sys.exit(7)", 7),
        ("import atexit; atexit.register(print, 'at the end')", 0),
        ("import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print(1))).start()", 0),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
        ("import os; print(sorted(os.listdir('/proc/self/fd'))[:3], len(os.listdir('/proc/self/fd')))", 0),
    ],
)
@pytest.mark.parametrize("new_session", [False, True])
def test_it_behaves_as_a_new_one(code: str, returned: int, new_session: bool, tmp_path: Path) -> None:
    environment = {"LANG": "C.UTF-8", "ANY": "thing"}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, "one", "two"],
            cwd=tmp_path,
            env=environment,
            umask=0o27,
            start_new_session=new_session,
            input="given\n",
            capture_output=True,
            text=True,
            check=False,
        )

    cold = run()
    with warm():
        forked = run()
    assert forked.returncode == cold.returncode == returned
    assert forked.stdout == cold.stdout
    if code != WHO:
        assert forked.stderr.splitlines()[-1:] == cold.stderr.splitlines()[-1:]


def test_it_has_the_program_imported_and_is_killed_by_its_own_id() -> None:
    code = "import sys, time; print('agent.live.app' in sys.modules, flush=True); time.sleep(60)"
    with warm(), subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"True\n"
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def test_each_draws_other_random_numbers() -> None:
    code = "import random, numpy; print(random.random(), numpy.random.rand())"
    with warm():
        drawn = {subprocess.run([sys.executable, "-c", code], capture_output=True).stdout for _ in range(2)}
    assert len(drawn) == 2
