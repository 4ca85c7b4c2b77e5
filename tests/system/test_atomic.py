"""Files and folders are complete or absent, even if the writing process is killed."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from agent.core.errors import StoreError
from agent.system.atomic import replaced_file, replaced_folder, settled, write_bytes
from tests.models.sentiment.kill_training import die_before


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_once_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_bytes(path, b"old")
    with replaced_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    with pytest.raises(ZeroDivisionError), replaced_file(path) as file:
        file.write(bytes([1 // 0]))
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["file"]


def test_a_file_keeps_its_mode_and_a_link_its_target(tmp_path: Path) -> None:
    write_bytes(tmp_path / "file", b"old")
    (tmp_path / "file").chmod(0o600)
    (tmp_path / "link").symlink_to("file")
    write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_a_pipe_is_written_to_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_bytes(tmp_path / "pipe", b"words")
    reader.join(20)
    assert found == [b"words"]


def test_the_error_names_the_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"below can't be written"):
        write_bytes(tmp_path / "file" / "below", b"")
    with pytest.raises(StoreError, match="can't be written"), replaced_folder(tmp_path / "file" / "below"):
        pass


def fill(folder: Path, version: str) -> None:
    with replaced_folder(folder, keep=lambda name: name == "notes") as new:
        for name in ("card", "weights"):
            (new / name).write_text(version)


def test_a_folder_is_unchanged_if_writing_fails(tmp_path: Path) -> None:
    fill(tmp_path / "model", "old")
    with pytest.raises(ZeroDivisionError), replaced_folder(tmp_path / "model") as new:
        (new / "card").write_text(str(1 // 0))
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "card").read_text() == "old"


@pytest.mark.slow
def test_a_folder_holds_old_or_new_files_after_a_kill_before_any_operation(tmp_path: Path) -> None:
    pristine = tmp_path / "pristine"
    fill(pristine / "model", "old")
    (pristine / "model" / "notes").mkdir()
    (pristine / "model" / "notes" / "mine").touch()
    (pristine / "model" / "stale").touch()
    between = 0
    found: list[str] = []
    for operation in range(100):
        work = tmp_path / str(operation)
        shutil.copytree(pristine, work)
        child = os.fork()
        if not child:
            die_before(operation, work, os.open(os.devnull, os.O_WRONLY))
            fill(work / "model", "new")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        between += not (work / "model").exists()
        folder = settled(work / "model")
        versions = {(folder / name).read_text() for name in ("card", "weights")}
        assert len(versions) == 1, operation
        found += versions
        assert (folder / "notes" / "mine").exists()
        assert (folder / "stale").exists() == (versions == {"old"})
        fill(work / "model", "newer")  # remains of the killed process don't matter
        assert names(work) == ["model"]
        assert (work / "model" / "notes" / "mine").exists()
        assert (work / "model" / "card").read_text() == "newer"
        if not os.WIFSIGNALED(status):
            break
    assert found == sorted(found, reverse=True)
    assert set(found) == {"old", "new"}
    assert len(found) > 10
    assert between, "also between the two renames"
