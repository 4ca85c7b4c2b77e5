"""Small textual faults in a copy of the tree, each of which must make a test fail.

Faults that no test detects are printed.

    python -m tests.support.mutation [NAME…] [--list]

The copy has no cached bytecode, since only files that git tracks are copied, and runs as plain Python. The
run fails if tests fail without a fault, since they would seem to detect any, and if the text of a fault is
missing in its file. Exit code 1 if a fault survives.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

from tests.mutations import MUTATIONS, Mutation

ROOT: Final = Path(__file__).parents[2]
TIMEOUT: Final = 600  # seconds per fault; a fault that hangs its tests counts as detected


class Outcome(NamedTuple):
    """Result of a fault's tests."""

    mutation: Mutation
    killed: bool
    seconds: float


def copy_tree(target: Path) -> None:
    """Copy the files that git tracks, and new ones that it does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, os.fsdecode(listed.stdout).split("\0")):
        source = ROOT / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(source.read_bytes())


def try_out(mutation: Mutation, tree: Path) -> Outcome:
    """Apply a fault in the copy, run its tests and revert it.

    Raises ValueError unless the fault's text occurs exactly once.
    """
    path = tree / mutation.file
    original = path.read_text(encoding="utf-8")
    if original.count(mutation.old) != 1:
        raise ValueError(
            f"{mutation.name}: {mutation.old!r} occurs {original.count(mutation.old)} times "
            f"in {mutation.file}"
        )
    path.write_text(original.replace(mutation.old, mutation.new), encoding="utf-8")
    began = time.monotonic()
    try:
        return Outcome(mutation, not _pass(mutation.tests, tree), time.monotonic() - began)
    finally:
        path.write_text(original, encoding="utf-8")


def _pass(tests: tuple[str, ...], tree: Path) -> bool:
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
    # Unset, since tests/conftest.py would use the variable to override -B
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    try:
        done = subprocess.run(
            command,
            cwd=tree,
            env=environment | {"PYTHONPATH": str(tree)},
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    if done.returncode not in (0, 1):  # 1: a test failed; other codes: the tests could not run
        sys.stderr.buffer.write(done.stdout + done.stderr)
        raise RuntimeError(f"pytest ended with {done.returncode}")
    return done.returncode == 0


def main() -> int:
    names = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    chosen = [one for one in MUTATIONS if not names or one.name in names]
    if "--list" in sys.argv:
        print(*(f"{one.name:32} {one.file}" for one in chosen), sep="\n")
        return 0
    survivors: list[str] = []
    sound: set[tuple[str, ...]] = set()
    with tempfile.TemporaryDirectory(prefix="tapewire-mutation-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        for mutation in chosen:
            if mutation.tests not in sound and not _pass(mutation.tests, tree):
                raise RuntimeError(f"{', '.join(mutation.tests)} fail without a fault: mend them first")
            sound.add(mutation.tests)
            outcome = try_out(mutation, tree)
            print(
                f"{'killed  ' if outcome.killed else 'SURVIVES'} {outcome.seconds:5.0f} s  {mutation.name}",
                flush=True,
            )
            if not outcome.killed:
                survivors.append(mutation.name)
    print(
        f"{len(chosen) - len(survivors)} of {len(chosen)} killed; survivors: {', '.join(survivors) or 'none'}"
    )
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
