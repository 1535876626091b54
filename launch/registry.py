"""Which jobs this user has submitted from this machine: one line each, so that `rwtrain launch status 42` finds the folder."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from launch.job import JOB, JobFolder, read_json
from rwtrain.errors import ConfigError
from rwtrain.files import write_json

SUBMISSION = "submission.json"


def registry_file() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "rwtrain" / "jobs.jsonl"


def record(folder: JobFolder, *, number: str) -> None:
    """Note a submission, in the job's folder and in the user's list."""
    write_json(folder.path / SUBMISSION, {"number": number, "time": time.time()})
    job = folder.job
    line = {"number": number, "backend": job.backend, "id": job.id, "name": job.spec.name, "folder": str(folder.path)}
    try:
        registry_file().parent.mkdir(parents=True, exist_ok=True)
        with open(registry_file(), "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
    except OSError as error:  # the job's folder is enough to find it
        print(f"warning: {registry_file()} cannot be written ({error.strerror}): name the job by its folder")


def submitted(limit: int | None = None) -> list[dict[str, str]]:
    """The user's submissions, newest first."""
    try:
        text = registry_file().read_text(encoding="utf-8")
    except OSError:
        return []
    found = []
    for line in reversed(text.splitlines()):
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found[:limit]


def find_job(word: str) -> JobFolder:
    """The job that a number, an id or a folder names; a run's folder stands for its newest job.

    Raises:
        ConfigError: there is none.
    """
    path = Path(word)
    if (path / JOB).is_file():
        return JobFolder(path.absolute())
    inside = sorted((path / "launch").glob(f"*/{JOB}"), key=lambda file: file.stat().st_mtime) if path.is_dir() else []
    if inside:
        return JobFolder(inside[-1].parent.absolute())
    for line in submitted():
        if word in (line["number"], line["id"]) and Path(line["folder"], JOB).is_file():
            return JobFolder(Path(line["folder"]))
    raise ConfigError(f"{word}: no such job. Give its number, its id or its folder; `rwtrain launch status` lists what was submitted from here.")


def number_of(folder: JobFolder) -> str:
    """The backend's number of the newest submission."""
    return str((read_json(folder.path / SUBMISSION) or {}).get("number", ""))
