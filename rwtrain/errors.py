"""Errors a user can act on. The command line prints them as one sentence and exits with status 2."""

from __future__ import annotations

from functools import partial
from pathlib import Path


class RWTrainError(Exception):
    """A problem the user can fix; its message says what is wrong and what to change."""


class ConfigError(RWTrainError):
    """One or more settings are wrong; the message lists all of them."""


class DataError(RWTrainError):
    """Input that cannot be used: names the file, the record and the remedy.

    Args:
        file: the offending file or folder.
        problem: what is wrong with it, without a full stop.
        remedy: what the user can do, an imperative sentence without a full stop.
        record: which record inside the file, if one is to blame (a number, an offset or an id).
    """

    def __init__(self, file: str | Path, problem: str, remedy: str, *, record: str | int | None = None) -> None:
        where = f"{file}" if record is None else f"{file}, record {record}"
        super().__init__(f"{where}: {problem}. {remedy}.")
        self._given = file
        self.file, self.record, self.problem, self.remedy = Path(file), record, problem, remedy

    def __reduce__(self):  # an exception is made again from its message alone, and this one comes back from worker processes
        return partial(type(self), record=self.record), (self._given, self.problem, self.remedy)
