"""Searches for inputs that make a target fail, and keeps a corpus of those found."""

from __future__ import annotations

import hashlib
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import structlog
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from tests.fuzz.corruption import Corruption, corrupt
from tests.fuzz.fuzz_targets import TARGETS, FuzzTarget

CORPUS: Final = Path(__file__).parent / "corpus"
"""Holds inputs as TARGET/NAME."""

CPU_LIMIT: Final = 10
"""Maximum CPU seconds per input. Inputs have at most a few hundred kB; a valid one takes milliseconds."""

MEMORY_LIMIT: Final = 400
"""Maximum growth of the process per input, in MiB."""


class ResourceLimitExceeded(AssertionError):
    """An input makes the target exceed the CPU or memory limit."""


def corpus(target: str) -> Sequence[Path]:
    """Return the saved inputs of a target, sorted by name."""
    return sorted(path for path in (CORPUS / target).glob("*") if path.is_file())


def run_target(target: FuzzTarget, document: bytes) -> bool:
    """Let the target read the document and return whether it accepted it.

    Raises any unexpected exception, and ResourceLimitExceeded if the target hangs or uses too much memory.
    """
    before = _peak_memory(from_now=True)
    with _cpu_limit():
        try:
            target.read(document)
            accepted = True
        except target.expected_errors as error:
            str(error).encode(errors="replace")
            accepted = False
    if (grown := _peak_memory() - before) > MEMORY_LIMIT:
        raise ResourceLimitExceeded(f"{len(document)} bytes made the process grow by {grown} MiB")
    return accepted


def search(
    name: str,
    examples: int,
    seed: int,
    on_result: Callable[[bool], None] = lambda _: None,
    *,
    shrink: bool = True,
) -> None:
    """Corrupt valid documents `examples` times. Raises the failure of the smallest input, which is saved in
    the corpus.

    `on_result` is called for each input with whether it was accepted.
    """
    target = TARGETS[name]
    culprit = b""
    phases = [Phase.generate, *([Phase.shrink] if shrink else [])]

    @seeded(seed)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=phases,
        verbosity=Verbosity.quiet,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(seed_document=st.sampled_from(target.seeds), corruptions=corruptions)
    def run(seed_document: bytes, corruptions: list[Corruption]) -> None:
        nonlocal culprit
        document = corrupt(seed_document, corruptions, target.corruptors)
        try:
            on_result(run_target(target, document))
        except Exception:  # any exception is a finding
            culprit = document
            raise

    try:
        run()
    except Exception:
        save(name, culprit)
        raise


corruptions: Final = st.lists(
    st.builds(
        Corruption,
        kind=st.integers(0, 255),
        position=st.floats(0, 1, exclude_max=True, allow_subnormal=False),
        value=st.integers(0, 63),
    ),
    min_size=1,
    max_size=6,
)
"""One to six corruptions: more would leave nothing of the document to read."""


def save(target: str, document: bytes) -> Path:
    """Save an input in the corpus under the hash of its bytes."""
    path = CORPUS / target / hashlib.sha256(document).hexdigest()[:12]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(document)
    return path


def silence_log() -> None:
    """Silence the product's log of damaged messages."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


def _peak_memory(*, from_now: bool = False) -> int:
    """Return the peak memory of the process in MiB: ever, or on Linux since the last call with `from_now`."""
    if (status := Path("/proc/self/status")).exists():
        if from_now:
            Path("/proc/self/clear_refs").write_text("5")
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) >> 10
    # macOS reports bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)


@contextmanager
def _cpu_limit() -> Iterator[None]:
    def hangs(_: int, __: FrameType | None) -> NoReturn:
        raise ResourceLimitExceeded(f"more than {CPU_LIMIT} CPU seconds")

    before = signal.signal(signal.SIGVTALRM, hangs)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
