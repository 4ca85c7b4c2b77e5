"""Runs `tapewire` in a pseudo-terminal and reads what its screen shows."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
import time
from pathlib import Path

from tests.conftest import ROOT

PATIENCE = 120.0  # seconds until a waiting test fails
_HOME = "\x1b[H"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\r")


class PseudoTerminal:
    """A command in a terminal of `columns` × `rows`; a thread reads its output."""

    def __init__(
        self, *arguments: str | Path, cwd: Path, columns: int, rows: int, **environment: str
    ) -> None:
        self.pid, self._terminal = pty.fork()
        if not self.pid:
            os.chdir(cwd)
            own = {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
            kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
            command = [sys.executable, "-m", "agent.cli.main", *map(str, arguments)]
            os.execve(command[0], command, kept | own)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a read may end within a character
        while True:
            try:
                piece = os.read(self._terminal, 65_536)
            except OSError:  # the command has ended
                return
            if not piece:
                return
            self.output += decoder.decode(piece)

    @property
    def screen(self) -> list[str]:
        """The lines of the last whole screen that a live view has drawn."""
        frames = self.output.split(_HOME)
        frame = frames[-2] if len(frames) > 2 else frames[-1]
        return [line.rstrip() for line in _CONTROL.sub("", frame).split("\n")]

    def wait_for(self, text: str) -> list[str]:
        """Wait until the screen shows `text`; return its lines."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if text in "\n".join(screen := self.screen):
                return screen
            time.sleep(0.05)
        raise AssertionError(f"{text!r} is not on the screen:\n" + "\n".join(self.screen))

    def type(self, keys: str) -> None:
        """Type keys."""
        os.write(self._terminal, keys.encode())

    def wait(self) -> int:
        """Wait for the end of the command and return its exit code."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self._reader.join(PATIENCE)
                os.close(self._terminal)
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        raise AssertionError("the command doesn't end")
