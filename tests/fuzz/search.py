"""The search for an input that a target doesn't survive, and the corpus of those that were found."""

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

from tests.fuzz.damage import Stroke, damaged
from tests.fuzz.targets import TARGETS, Target

CORPUS: Final = Path(__file__).parent / "corpus"
"""TARGET/NAME: an input, as it came."""

HANGS: Final = 10
"""Seconds of the processor that no input may take: each is a few hundred kB at most, and a sound one takes milliseconds."""

BLOWS_UP: Final = 400
"""MiB by which no input may make the process grow."""


class Survival(AssertionError):
    """An input that the target did not survive: it hangs, or the process has grown."""


def corpus(target: str) -> Sequence[Path]:
    """The inputs that were found, by name."""
    return sorted(path for path in (CORPUS / target).glob("*") if path.is_file())


def survive(target: Target, document: bytes) -> bool:
    """Let the target read the document; whether it took it. Raises what it must not raise, Survival where it hangs or blows up."""
    before = _largest(from_now=True)
    with _limited():
        try:
            target.read(document)
            taken = True
        except target.refusals as error:
            str(error).encode(errors="replace")
            taken = False
    if (grown := _largest() - before) > BLOWS_UP:
        raise Survival(f"{len(document)} bytes made the process grow by {grown} MiB")
    return taken


def search(
    name: str,
    examples: int,
    seed: int,
    heard: Callable[[bool], None] = lambda _: None,
    *,
    shrink: bool = True,
) -> None:
    """Damage sound documents `examples` times. Raises what the smallest damage led to, which is kept in the corpus first.

    `heard` is told of every input whether it was taken.
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
    @given(sound=st.sampled_from(target.sound), strokes=strokes)
    def run(sound: bytes, strokes: list[Stroke]) -> None:
        nonlocal culprit
        document = damaged(sound, strokes, target.ways)
        try:
            heard(survive(target, document))
        except Exception:  # the boundary: whatever comes out is what was looked for
            culprit = document
            raise

    try:
        run()
    except Exception:
        keep(name, culprit)
        raise


strokes: Final = st.lists(
    st.builds(
        Stroke,
        deed=st.integers(0, 255),
        where=st.floats(0, 1, exclude_max=True, allow_subnormal=False),
        value=st.integers(0, 63),
    ),
    min_size=1,
    max_size=6,
)
"""One to six: with more, nothing of a document is left to be read."""


def keep(target: str, document: bytes) -> Path:
    """Put an input into the corpus, under the name that its bytes give it."""
    path = CORPUS / target / hashlib.sha256(document).hexdigest()[:12]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(document)
    return path


def quiet() -> None:
    """The product's own words about each damaged message would be a million lines."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


def _largest(*, from_now: bool = False) -> int:
    """MiB that the process has held at most: ever, or on Linux since `from_now` was last asked for."""
    if (status := Path("/proc/self/status")).exists():
        if from_now:
            Path("/proc/self/clear_refs").write_text("5")
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) >> 10
    # macOS counts bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)


@contextmanager
def _limited() -> Iterator[None]:
    def hangs(_: int, __: FrameType | None) -> NoReturn:
        raise Survival(f"it takes more than {HANGS} seconds of the processor")

    before = signal.signal(signal.SIGVTALRM, hangs)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANGS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
