"""Some inputs of `make fuzz`, everything that it has ever found, and proof that it detects failures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from agent.core.errors import DataError
from tests.fuzz import search as searching
from tests.fuzz.corruption import Corruption, corrupt, corrupt_bytes, corrupt_json, corrupt_tokens
from tests.fuzz.fuzz_targets import TARGETS, FuzzTarget
from tests.fuzz.search import CORPUS, ResourceLimitExceeded, corpus, run_target, search, silence_log

CORPUS_FILES = [(name, path) for name in TARGETS for path in corpus(name)]


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    silence_log()
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("name", "path"), CORPUS_FILES, ids=[f"{name}/{path.name}" for name, path in CORPUS_FILES]
)
def test_saved_inputs_no_longer_fail(name: str, path: Path) -> None:
    run_target(TARGETS[name], path.read_bytes())


def test_every_corpus_folder_has_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_valid_documents_are_accepted(name: str) -> None:
    """Corruption of a document that is rejected at once would test nothing."""
    outcomes = [run_target(TARGETS[name], document) for document in TARGETS[name].seeds]
    assert outcomes[0]


@pytest.mark.parametrize("name", TARGETS)
def test_target_survives_corrupted_documents(name: str) -> None:
    on_result: list[bool] = []
    search(name, 12, 20_250_303, on_result.append)
    assert len(on_result) >= 12


# -- the search itself -------------------------------------------------------------------------------------


def _fails_on(part: bytes) -> FuzzTarget:
    def read(document: bytes) -> None:
        if part in document:
            raise KeyError(part)
        if not document.startswith(b"{"):
            raise DataError("no object")

    return FuzzTarget(
        read, (DataError,), [b'{"a":1,"b":{"c":"x"}}'], (corrupt_json, corrupt_tokens, corrupt_bytes)
    )


@pytest.mark.slow
def test_failing_input_is_found_and_saved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(TARGETS, "weak", _fails_on(b"Infinity"))  # type: ignore[arg-type]
    monkeypatch.setattr(searching, "CORPUS", tmp_path)
    with pytest.raises(KeyError):
        search("weak", 2_000, 1)
    (kept,) = (tmp_path / "weak").iterdir()
    assert b"Infinity" in kept.read_bytes()


def test_hanging_reader_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "CPU_LIMIT", 0.05)

    def read(document: bytes) -> None:
        while document:
            pass

    with pytest.raises(ResourceLimitExceeded, match="CPU seconds"):
        run_target(FuzzTarget(read, (DataError,), [b"x"], (corrupt_bytes,)), b"x")


def test_excessive_memory_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "MEMORY_LIMIT", 1)
    held: list[bytearray] = []

    def read(_: bytes) -> None:
        while searching._peak_memory() < largest + 2:  # current memory may be far below the peak
            held.append(bytearray(b"x") * (1 << 24))

    largest = searching._peak_memory()
    with pytest.raises(ResourceLimitExceeded, match="MiB"):
        run_target(FuzzTarget(read, (), [b"x"], (corrupt_bytes,)), b"x")


@pytest.mark.parametrize("name", TARGETS)
def test_corruption_is_deterministic(name: str) -> None:
    target = TARGETS[name]
    corruptions = [Corruption(kind, 0.4, kind) for kind in (0, 3, 8, 13)]
    changed = corrupt(target.seeds[0], corruptions, target.corruptors)
    assert changed == corrupt(target.seeds[0], corruptions, target.corruptors)
    assert changed != target.seeds[0]
