"""A job that is ready to start: the resolved description, and the folder in which everything about it is kept."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.site import Site
from launch.spec import JobSpec
from rwtrain.config.load import Node
from rwtrain.errors import ConfigError, RWTrainError
from rwtrain.files import write_json

JOB, EVENTS, TOKEN, OUTCOME, LEDGER, PREFLIGHT, CANCELLED = "job.json", "events.jsonl", "token", "outcome.json", "ledger.json", "preflight.json", "cancelled"
CODE, CONFIG = "code", "config.yaml"
SLUG_CHARACTERS = 40


class Job(Node):
    """What the nodes read: everything is resolved, and every path is absolute."""

    id: str
    """Names the job's folder."""
    backend: str
    """slurm, ssh, k8s or local."""
    spec: JobSpec
    """As given."""
    site: Site
    """As given."""
    argv: list[str]
    """Program and arguments of a rank."""
    folder: str
    """Working folder."""
    output: str
    """Folder of the results."""
    data: list[str]
    """What must be readable."""
    python: str
    """Python of the nodes."""
    preflight_only: bool = False
    """End after the checks."""


@dataclass(frozen=True)
class JobFolder:
    """OUTPUT/launch/ID: job.json, the code, the configuration, the rendered script, one folder of logs per attempt."""

    path: Path

    @staticmethod
    def open(path: str | Path) -> JobFolder:
        """The folder of a job that was submitted.

        Raises:
            ConfigError: there is none.
        """
        folder = JobFolder(Path(path))
        if not (folder.path / JOB).is_file():
            raise ConfigError(f"{path}: no job was submitted here (no {JOB}). On a node this means that the folder is not shared by all nodes.")
        return folder

    @property
    def job(self) -> Job:
        return Job.model_validate_json((self.path / JOB).read_text(encoding="utf-8"))

    @property
    def token(self) -> str:
        """What the nodes show each other; readable by the user alone."""
        try:
            return (self.path / TOKEN).read_text(encoding="utf-8")
        except OSError:
            return ""

    def attempt(self, number: int) -> Path:
        """Folder of one start of the job."""
        return self.path / "attempts" / f"{number:04d}"

    def attempts(self) -> list[Path]:
        """Folders of all starts, oldest first."""
        return sorted((self.path / "attempts").glob("[0-9]*"))

    def event(self, kind: str, **details: Any) -> None:
        """Add a line to the job's history."""
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **details}, ensure_ascii=False)
        with open(self.path / EVENTS, "a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def events(self) -> Iterator[dict[str, Any]]:
        """The job's history."""
        try:
            text = (self.path / EVENTS).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return
        for line in text.split("\n"):  # not splitlines: JSON may hold U+2028
            try:
                yield json.loads(line)
            except ValueError:  # a line that is being written
                continue

    def create(self, job: Job) -> None:
        """Make the folder and write the description."""
        self.path.mkdir(parents=True)
        write_json(self.path / JOB, job.model_dump(mode="json"))
        descriptor = os.open(self.path / TOKEN, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(secrets.token_hex(16))


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON file's mapping; None if it is not there, or not whole yet."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def slug(name: str, *, longest: int = SLUG_CHARACTERS) -> str:
    """`name` in lower-case letters, digits and single hyphens, beginning with a letter: a name that Slurm, Kubernetes and file systems accept."""
    text = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not text or not text[0].isalpha():
        text = f"job-{text}" if text else "job"
    return text[:longest].strip("-")


def new_id(name: str) -> str:
    """A fresh job id: its time, its name, four random digits."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{slug(name)}-{secrets.token_hex(2)}"


def read_secrets(spec: JobSpec, given: dict[str, str]) -> dict[str, str]:
    """Values of a job's secrets on a node.

    Args:
        given: values that came from the submitting shell or the cluster, by the name of the job's variable.

    Raises:
        RWTrainError: a file cannot be read, or a value did not arrive.
    """
    values = {}
    for name, reference in spec.secrets.items():
        kind, _, place = reference.partition(":")
        if kind == "file":
            try:
                values[name] = Path(place).expanduser().read_text(encoding="utf-8").strip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                raise RWTrainError(f"secrets.{name}: {place} cannot be read on {os.uname().nodename}. Check the path and its permissions.") from error
        elif name in given:
            values[name] = given[name]
        else:
            source = place if kind == "env" else name
            if source not in os.environ:
                raise RWTrainError(
                    f"secrets.{name}: its value did not reach {os.uname().nodename}. Set the variable {source} where you submit, or use file:PATH."
                )
            values[name] = os.environ[source]
    return values
