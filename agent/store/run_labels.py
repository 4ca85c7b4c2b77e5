"""Tags and notes that a user gives to runs and walk-forwards."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from sqlalchemy import delete, insert, select

from agent.core.errors import UsageError
from agent.data.text import one_line
from agent.store.database import Database
from agent.store.tables import run_notes, run_tags

MAX_TAG: Final = 40
"""Characters of a tag."""

MAX_NOTE: Final = 2_000
"""Characters of a note; the rest is refused."""


class RunLabels(msgspec.Struct, frozen=True):
    """What a user wrote about a run."""

    tags: tuple[str, ...] = ()  # in alphabetical order
    note: str = ""


def read_labels(database: Database) -> dict[str, RunLabels]:
    """Return the labels by the id of the run or walk-forward; those without any are left out."""
    with database.read() as connection:
        tagged = connection.execute(select(run_tags.c.run_id, run_tags.c.tag)).all()
        noted = connection.execute(select(run_notes.c.run_id, run_notes.c.text)).all()
    tags: dict[str, list[str]] = {}
    for run_id, tag in tagged:
        tags.setdefault(run_id, []).append(tag)
    notes = dict[str, str](map(tuple, noted))
    return {
        run_id: RunLabels(tuple(sorted(tags.get(run_id, ()))), notes.get(run_id, ""))
        for run_id in tags.keys() | notes.keys()
    }


def set_tags(database: Database, run_id: str, add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
    """Add tags to a run and remove others. Raises UsageError for a tag that can't be one."""
    added, removed = [check_tag(tag) for tag in add], [check_tag(tag) for tag in remove]
    changed = {*added, *removed}
    with database.write() as connection:
        own = run_tags.c.run_id == run_id
        connection.execute(delete(run_tags).where(own, run_tags.c.tag.in_(changed)))
        rows = [{"run_id": run_id, "tag": tag} for tag in dict.fromkeys(added) if tag not in removed]
        if rows:
            connection.execute(insert(run_tags), rows)


def set_note(database: Database, run_id: str, text: str, now: int) -> None:
    """Replace the note of a run; an empty text removes it. `now` is in UTC ms. Raises UsageError."""
    line = one_line(text, MAX_NOTE + 1)
    if len(line) > MAX_NOTE:
        raise UsageError(f"the note has more than {MAX_NOTE:,} characters", hint="keep it shorter")
    with database.write() as connection:
        connection.execute(delete(run_notes).where(run_notes.c.run_id == run_id))
        if line:
            connection.execute(insert(run_notes), [{"run_id": run_id, "text": line, "written_at": now}])


def check_tag(tag: str) -> str:
    """Return the tag. Raises UsageError unless it is one word of at most `MAX_TAG` printable characters."""
    if not tag or len(tag) > MAX_TAG or not tag.isprintable() or any(c.isspace() or c == "," for c in tag):
        raise UsageError(
            f"{tag!r} is no tag", hint=f"one word of at most {MAX_TAG} characters, without comma"
        )
    return tag
