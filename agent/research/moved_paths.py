"""Pickling of tasks and results between machines on which the same files have other paths.

Wherever a path occurs in a value, whether as a `Path` or inside a text, it is moved while the value is
pickled. A configuration travels without its services and its store, whose URLs may hold secrets; the side
that receives it puts its own in their place.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PosixPath, WindowsPath
from typing import Any, Final

from agent.config import NOT_PERSISTED, Config

Move = Callable[[str], str]
"""Returns a text with the paths in it moved."""

_PATHS: Final = (PosixPath, WindowsPath)
_SECTIONS: Final[ContextVar[Mapping[str, Any]]] = ContextVar("sections")


def dump(value: object, move: Move) -> bytes:
    """Pickle a value with its paths moved by `move`."""
    buffer = io.BytesIO()
    _Pickler(buffer, move).dump(value)
    return buffer.getvalue()


def load(content: bytes, move: Move, sections: Mapping[str, Any]) -> Any:
    """Unpickle a value; moved texts are moved again by `move`. Configurations get `sections`, by name."""
    with _receiving(sections):
        return _Unpickler(io.BytesIO(content), move).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, move: Move) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._move = move

    def persistent_id(self, value: object) -> str | None:
        """Return what stands for a text or path that is moved: its kind and the moved text."""
        if type(value) is str:
            kind, text = "t", value
        elif isinstance(value, _PATHS):
            kind, text = "p", str(value)
        else:
            return None
        moved = self._move(text)
        return None if moved == text else kind + moved

    def reducer_override(self, value: object) -> Any:
        if type(value) is not Config:
            return NotImplemented
        state = value.__getstate__()
        kept = {name: own for name, own in state["__dict__"].items() if name not in NOT_PERSISTED}
        return _restore, (state | {"__dict__": kept},)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, move: Move) -> None:
        super().__init__(file)
        self._move = move

    def persistent_load(self, pid: str) -> str | Path:
        text = self._move(pid[1:])
        return Path(text) if pid[0] == "p" else text


def _restore(state: dict[str, Any]) -> Config:
    config = Config.__new__(Config)
    config.__setstate__(state | {"__dict__": state["__dict__"] | dict(_SECTIONS.get())})
    return config


@contextmanager
def _receiving(sections: Mapping[str, Any]) -> Iterator[None]:
    token = _SECTIONS.set(sections)
    try:
        yield
    finally:
        _SECTIONS.reset(token)
