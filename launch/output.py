"""What the processes of a node print: into its log with a prefix, to the screen if wanted, secrets blotted out."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from launch.failure import LINES_KEPT

BLOT = "***"
SHORTEST_SECRET = 4  # characters: shorter values would blot out everything
CHUNK = 1 << 16
LONGEST_LINE = 1 << 16


class Output:
    """The log of one node.

    Args:
        path: the log file.
        shown: names of the processes whose lines also go to standard output; None for all.
        secrets: values never to be written.
        label: put before each line on the screen, such as a host's name.
    """

    def __init__(self, path: Path, *, shown: set[str] | None, secrets: Iterable[str] = (), label: str = "") -> None:
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (open as long as the node)
        self._shown, self._label = shown, label
        parts = {part for secret in secrets for part in (secret, *secret.splitlines())}  # a key of several lines appears line by line
        self._secrets = sorted((part for part in parts if len(part) >= SHORTEST_SECRET), key=len, reverse=True)
        self._parts: dict[str, bytes] = {}
        self.tails: dict[str, deque[str]] = {}

    def read(self, name: str, stream: IO[bytes]) -> bool:
        """Take what a process has written; False at its end."""
        chunk = os.read(stream.fileno(), CHUNK)
        *lines, rest = (self._parts.get(name, b"") + chunk).split(b"\n")
        if (not chunk and rest) or len(rest) > LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        self._parts[name] = rest
        for line in lines:
            self.line(name, line.decode("utf-8", "replace"))
        return bool(chunk)

    def line(self, name: str, text: str) -> None:
        """One line of a process, or of the launcher itself."""
        text = self.blot(text.rstrip("\r").rpartition("\r")[2])  # a progress bar's last state
        self.tails.setdefault(name, deque(maxlen=LINES_KEPT)).append(text)
        self._file.write(f"{name} | {text}\n")
        if self._shown is None or name in self._shown:
            sys.stdout.write(f"{self._label}{name} | {text}\n")
            sys.stdout.flush()

    def blot(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, BLOT)
        return text

    def close(self) -> None:
        self._file.close()
