"""A share of `make fuzz`, everything that it has ever found, and proof that it would notice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from agent.core.errors import DataError
from tests.fuzz import search as searching
from tests.fuzz.damage import Stroke, damaged, in_bytes, in_json, in_words
from tests.fuzz.search import CORPUS, Survival, corpus, quiet, search, survive
from tests.fuzz.targets import TARGETS, Target

FOUND = [(name, path) for name in TARGETS for path in corpus(name)]


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    quiet()
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize(("name", "path"), FOUND, ids=[f"{name}/{path.name}" for name, path in FOUND])
def test_what_was_found_stays_mended(name: str, path: Path) -> None:
    survive(TARGETS[name], path.read_bytes())


def test_the_corpus_belongs_to_targets() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_sound_documents_are_taken(name: str) -> None:
    """Otherwise damage to them would be refused at the first look, and prove nothing of what lies behind it."""
    outcomes = [survive(TARGETS[name], document) for document in TARGETS[name].sound]
    assert outcomes[0]


@pytest.mark.parametrize("name", TARGETS)
def test_damage_is_survived(name: str) -> None:
    heard: list[bool] = []
    search(name, 12, 20_250_303, heard.append)
    assert len(heard) >= 12


# -- the search itself -------------------------------------------------------------------------------------------------


def _breaks_on(part: bytes) -> Target:
    def read(document: bytes) -> None:
        if part in document:
            raise KeyError(part)
        if not document.startswith(b"{"):
            raise DataError("no object")

    return Target(read, (DataError,), [b'{"a":1,"b":{"c":"x"}}'], (in_json, in_words, in_bytes))


def test_what_breaks_a_reader_is_found_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(TARGETS, "weak", _breaks_on(b"Infinity"))  # type: ignore[arg-type]
    monkeypatch.setattr(searching, "CORPUS", tmp_path)
    with pytest.raises(KeyError):
        search("weak", 2_000, 1)
    (kept,) = (tmp_path / "weak").iterdir()
    assert b"Infinity" in kept.read_bytes()


def test_a_reader_that_hangs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "HANGS", 0.05)

    def read(document: bytes) -> None:
        while document:
            pass

    with pytest.raises(Survival, match="seconds of the processor"):
        survive(Target(read, (DataError,), [b"x"], (in_bytes,)), b"x")


def test_a_reader_that_takes_all_memory_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "BLOWS_UP", 1)
    held: list[bytearray] = []

    def read(_: bytes) -> None:
        # what it is now may be far below the largest that it has been
        while searching._largest() < largest + 2:
            held.append(bytearray(b"x") * (1 << 24))

    largest = searching._largest()
    with pytest.raises(Survival, match="MiB"):
        survive(Target(read, (), [b"x"], (in_bytes,)), b"x")


@pytest.mark.parametrize("name", TARGETS)
def test_damage_is_a_function_of_its_strokes(name: str) -> None:
    target = TARGETS[name]
    strokes = [Stroke(deed, 0.4, deed) for deed in (0, 3, 8, 13)]
    changed = damaged(target.sound[0], strokes, target.ways)
    assert changed == damaged(target.sound[0], strokes, target.ways)
    assert changed != target.sound[0]
