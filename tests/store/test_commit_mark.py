"""The commit mark survives torn writes, and failed writes don't raise."""

from __future__ import annotations

import stat
from math import inf
from pathlib import Path

import pytest

from agent.core.errors import StoreError
from agent.store.commit_mark import CommitMark, CommitMarkFile, mark_beside, read_mark

SLOT = 512


def write_marks(path: Path, *seqs: int, sync_every: float = 0) -> CommitMarkFile:
    file = CommitMarkFile(path, sync_every=sync_every)
    for seq in seqs:
        file.write(CommitMark("run-1", seq, f"{seq:032x}"))
    return file


def read_seq(path: Path) -> int | None:
    mark = read_mark(path)
    return None if mark is None else mark.seq


@pytest.mark.parametrize("sync_every", [0.0, 1.0, inf])
def test_the_last_written_mark_is_read(tmp_path: Path, sync_every: float) -> None:
    path = tmp_path / "deep" / "store.db.mark"
    assert read_mark(path) is None
    file = write_marks(path, 1, sync_every=sync_every)
    assert read_seq(path) == 1
    for seq in range(2, 8):
        file.write(CommitMark("run-1", seq))
        assert read_seq(path) == seq
    file.close()
    write_marks(path, 3, sync_every=sync_every).close()  # a later process whose run is shorter
    assert read_seq(path) == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("length", [0, 1, 40, SLOT - 1])
def test_after_a_torn_write_the_previous_mark_is_read(tmp_path: Path, length: int) -> None:
    path = tmp_path / "store.db.mark"
    write_marks(path, 7, 8).close()
    before = path.read_bytes()
    write_marks(path, 9).close()
    after = path.read_bytes()
    (slot,) = (n for n in (0, SLOT) if before[n : n + SLOT] != after[n : n + SLOT])
    path.write_bytes(
        before[:slot]
        + after[slot : slot + length]
        + before[slot + length : slot + SLOT]
        + before[slot + SLOT :]
    )
    assert read_seq(path) in ((8,) if length < SLOT - 1 else (8, 9))


def test_a_mark_without_a_valid_slot_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "store.db.mark"
    write_marks(path, 7, 8).close()
    path.write_bytes(path.read_bytes().replace(b"run-1", b"run-2"))
    with pytest.raises(StoreError, match="is damaged: how many events were committed is not known"):
        read_mark(path)
    write_marks(path, 9).close()
    assert read_seq(path) == 9


def test_failed_writes_are_counted_until_a_write_succeeds(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    file = write_marks(tmp_path / "folder" / "store.db.mark", 1, 2)
    assert file.failures == 2
    assert file.error
    (tmp_path / "folder").unlink()
    file.write(CommitMark("run-1", 3))
    assert (file.failures, file.error) == (2, "")
    assert read_seq(tmp_path / "folder" / "store.db.mark") == 3


def test_a_long_restore_note_is_cut_to_the_slot(tmp_path: Path) -> None:
    file = CommitMarkFile(tmp_path / "x.mark", sync_every=0)
    file.write(CommitMark("r" * 40, 10**15, "f" * 32, 10**15, "f" * 32, "ü" * 10_000))
    mark = read_mark(tmp_path / "x.mark")
    assert mark is not None
    assert mark.restored.startswith("üü")


def test_a_store_and_a_link_to_it_share_one_mark(tmp_path: Path) -> None:
    (tmp_path / "store.db").touch()
    (tmp_path / "other.db").symlink_to(tmp_path / "store.db")
    assert mark_beside(tmp_path / "other.db") == mark_beside(tmp_path / "store.db")


def test_a_held_mark_is_not_overwritten_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "store.db.mark"
    write_marks(path, 9).close()
    file = CommitMarkFile(path)
    file.held = True
    file.write(CommitMark("run-1", 3))
    assert read_seq(path) == 9
    file.write(CommitMark("run-1", 4))
    file.release()  # writes the deferred mark at once: the next commit may come much later
    assert read_seq(path) == 4
    file.write(CommitMark("run-1", 5))
    assert read_seq(path) == 5
