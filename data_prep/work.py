"""Units of work and the folder of their results, found again by the hash of everything they depend on."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import xxhash

from data_prep.hashing import hash128_hex
from data_prep.inputs import is_remote, version_of
from rwtrain.errors import RWTrainError
from rwtrain.files import content_hash, write_json

USED_CODE = ("rwtrain/data/shards.py", "rwtrain/data/tokenizer.py")


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of work.

    Attributes:
        stage: name of the stage it belongs to.
        key: hash of everything its result depends on.
        weight: how much work it is, in input bytes.
        what: what it works on, for messages.
        arguments: passed to the stage's function.
    """

    stage: str
    key: str
    weight: int
    what: str
    arguments: Any


UnitFunction = Callable[[Any, Path], dict[str, Any]]


def run_unit(function: UnitFunction, unit: Unit, folder: Path) -> dict[str, Any]:
    """Do one unit and record it as finished; the result says how long it took."""
    work = WorkFolder(folder)
    prefix = work.path(unit.stage, unit.key, "")
    prefix.parent.mkdir(parents=True, exist_ok=True)
    cpu_seconds, seconds = time.process_time(), time.perf_counter()
    result = function(unit.arguments, prefix)
    result["cpu_seconds"] = round(time.process_time() - cpu_seconds, 4)
    result["seconds"] = round(time.perf_counter() - seconds, 4)
    work.finish(unit.stage, unit.key, result)
    return result


class WorkFolder:
    """Results by stage and key. A result is a JSON file, written last, beside the unit's output files.

    Args:
        folder: created if it does not exist.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.used: set[str] = set()

    def path(self, stage: str, key: str, suffix: str) -> Path:
        """Where a unit's output of this kind lies."""
        return self.folder / stage / f"{key}{suffix}"

    def finished(self, stage: str, key: str) -> dict[str, Any] | None:
        """The result of a finished unit, None if it has to be done."""
        self.used.add(key)
        try:
            return json.loads(self.path(stage, key, ".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def finish(self, stage: str, key: str, result: dict[str, Any]) -> None:
        """Record a unit as finished; its other files have to be complete."""
        write_json(self.path(stage, key, ".json"), result)

    def remove_unused(self) -> None:
        """Delete results that this run neither made nor reused."""
        for path in self.folder.glob("*/*"):
            if path.is_file() and path.name.partition(".")[0] not in self.used:
                path.unlink()

    def hash_of_input(self, path: str) -> str:
        """Content hash of an input file, remembered as long as its size and time of change stay the same; for a URL, hash of its version."""
        key = key_of("input", *version_of(path))
        if is_remote(path):
            return key
        found = self.finished("input", key)
        if found is None:
            found = {"hash": content_hash(path), "path": path}
            self.finish("input", key, found)
        return found["hash"]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of this folder; the lock goes away with the process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RWTrainError(f"{self.folder}: another `rwtrain prep` is writing here. Wait for it, or choose another --out.") from error
            yield


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files and folders that a killed run left below `folder`; only one process may work there."""
    for path in folder.rglob(".*.tmp"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def key_of(*parts: Any) -> str:
    """A short hash of JSON-like values."""
    return hash128_hex(json.dumps(parts, sort_keys=True))


@lru_cache(maxsize=1)
def code_hash() -> str:
    """Hash of this package's source and of what writes its output: results of another version of the code are not reused."""
    digest = xxhash.xxh3_128()
    package = Path(__file__).parent
    for path in [*sorted(package.rglob("*.py")), *(package.parent / name for name in USED_CODE)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()
