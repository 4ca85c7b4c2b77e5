"""The mark survives a torn write, and a mark that can't be written stops nothing."""

from __future__ import annotations

import stat
from math import inf
from pathlib import Path

import pytest

from agent.core.errors import StoreError
from agent.store.mark import Mark, MarkFile, mark_beside, read_mark

SLOT = 512


def written(path: Path, *seqs: int, sync_every: float = 0) -> MarkFile:
    file = MarkFile(path, sync_every=sync_every)
    for seq in seqs:
        file.write(Mark("run-1", seq, f"{seq:032x}"))
    return file


def found(path: Path) -> int | None:
    mark = read_mark(path)
    return None if mark is None else mark.seq


@pytest.mark.parametrize("sync_every", [0.0, 1.0, inf])
def test_the_last_mark_written_is_the_one_read(tmp_path: Path, sync_every: float) -> None:
    path = tmp_path / "deep" / "store.db.mark"
    assert read_mark(path) is None
    file = written(path, 1, sync_every=sync_every)
    assert found(path) == 1
    for seq in range(2, 8):
        file.write(Mark("run-1", seq))
        assert found(path) == seq
    file.close()
    written(path, 3, sync_every=sync_every).close()  # a later life, whose run is shorter
    assert found(path) == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("length", [0, 1, 40, SLOT - 1])
def test_a_torn_write_leaves_the_mark_before_it(tmp_path: Path, length: int) -> None:
    path = tmp_path / "store.db.mark"
    written(path, 7, 8).close()
    before = path.read_bytes()
    written(path, 9).close()
    after = path.read_bytes()
    (slot,) = (n for n in (0, SLOT) if before[n : n + SLOT] != after[n : n + SLOT])
    path.write_bytes(
        before[:slot]
        + after[slot : slot + length]
        + before[slot + length : slot + SLOT]
        + before[slot + SLOT :]
    )
    assert found(path) in ((8,) if length < SLOT - 1 else (8, 9))


def test_a_mark_of_which_nothing_is_sound_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "store.db.mark"
    written(path, 7, 8).close()
    path.write_bytes(path.read_bytes().replace(b"run-1", b"run-2"))
    with pytest.raises(StoreError, match="is damaged: how far the run was recorded is not known"):
        read_mark(path)
    written(path, 9).close()
    assert found(path) == 9


def test_a_mark_that_cannot_be_written_is_counted_and_heals(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    file = written(tmp_path / "folder" / "store.db.mark", 1, 2)
    assert file.failures == 2
    assert file.error
    (tmp_path / "folder").unlink()
    file.write(Mark("run-1", 3))
    assert (file.failures, file.error) == (2, "")
    assert found(tmp_path / "folder" / "store.db.mark") == 3


def test_a_long_text_fits(tmp_path: Path) -> None:
    file = MarkFile(tmp_path / "x.mark", sync_every=0)
    file.write(Mark("r" * 40, 10**15, "f" * 32, 10**15, "f" * 32, "ü" * 10_000))
    mark = read_mark(tmp_path / "x.mark")
    assert mark is not None
    assert mark.restored.startswith("üü")


def test_two_names_of_one_store_have_one_mark(tmp_path: Path) -> None:
    (tmp_path / "store.db").touch()
    (tmp_path / "other.db").symlink_to(tmp_path / "store.db")
    assert mark_beside(tmp_path / "other.db") == mark_beside(tmp_path / "store.db")


def test_a_mark_that_has_still_to_be_dealt_with_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "store.db.mark"
    written(path, 9).close()
    file = MarkFile(path)
    file.held = True
    file.write(Mark("run-1", 3))
    assert found(path) == 9
    file.write(Mark("run-1", 4))
    file.release()  # nothing else may be committed for a while: what verify reads must not lie meanwhile
    assert found(path) == 4
    file.write(Mark("run-1", 5))
    assert found(path) == 5
