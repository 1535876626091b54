"""What people see of a job: its state, its first error, its logs."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from launch.failure import Outcome
from launch.job import OUTCOME, JobFolder, read_json
from launch.registry import number_of
from launch.supervise import Ledger
from rwtrain.errors import ConfigError

HISTORY_SHOWN = 12
POLL_S = 0.5
TAIL_BYTES = 1 << 16
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "LOST", "UNKNOWN", "REMOVED"}


def describe_job(folder: JobFolder, state: str, *, as_json: bool) -> str:
    """State, progress, the last failure with the failing rank's first error, and the history."""
    job, ledger = folder.job, Ledger.load(folder)
    attempts = folder.attempts()
    outcomes = [Outcome.from_json(values) for path in attempts if (values := read_json(path / OUTCOME)) is not None]
    failures = [outcome for outcome in outcomes if outcome.kind not in ("done", "stopped")]
    metrics = last_metrics(Path(job.output))
    if as_json:
        last = outcomes[-1].to_json() if outcomes else None
        values = {"id": job.id, "number": number_of(folder), "backend": job.backend, "state": state, "folder": str(folder.path)}
        return json.dumps(values | {"attempts": len(attempts), "restarts": ledger.restarts, "excluded": ledger.excluded, "metrics": metrics, "outcome": last})
    lines = [f"{' '.join(job.spec.name.split())}  {job.backend} {number_of(folder)}  {state}", f"folder    {folder.path}"]
    if failures:
        first, *rest = failures[-1].headline().splitlines()
        lines += [f"failure   {first}", *rest]
    lines.append(f"attempts  {len(attempts)}, {ledger.restarts} restarts since the last progress, excluded: {', '.join(ledger.excluded) or 'none'}")
    if metrics is not None:
        lines.append(f"step      {metrics['step']}, loss {metrics.get('loss/total', float('nan')):.4f}")
    lines += [_event_line(event) for event in list(folder.events())[-HISTORY_SHOWN:]]
    return "\n".join(lines)


def _event_line(event: dict[str, Any]) -> str:
    details = ", ".join(f"{key} {value}" for key, value in event.items() if key not in ("time", "event") and value not in ("", [], None))
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(event['time']))}  {event['event']}{': ' + details if details else ''}"


def last_metrics(output: Path) -> dict[str, Any] | None:
    """The last step that the run reported."""
    for line in reversed(tail(output / "metrics.jsonl").splitlines()):
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if "step" in values and "event" not in values:
            return values
    return None


def tail(path: Path, size: int = TAIL_BYTES) -> str:
    """The end of a file; empty if there is none."""
    try:
        with open(path, "rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - size))
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""


def show_logs(folder: JobFolder, arguments: argparse.Namespace) -> int:
    """Print the end of a node's log, and go on with --follow."""
    from launch.backends import backend_of

    attempts = folder.attempts()
    number = arguments.attempt if arguments.attempt is not None else len(attempts) - 1
    path = folder.attempt(max(number, 0)) / f"node-{arguments.node}.log"
    if not path.is_file() and folder.job.backend == "k8s":
        from launch.kubernetes import Kubernetes

        print(Kubernetes().logs(folder, arguments.node, lines=arguments.lines))
        return 0
    if not path.is_file() and not arguments.follow:
        found = ", ".join(entry.name for entry in sorted(folder.path.glob("attempts/*/node-*.log"))[:8])
        waits = " The job has not started yet." if not attempts else f" There are: {found}." if found else ""
        launcher = next((tail(folder.path / name) for name in ("slurm.log", "launcher.log") if tail(folder.path / name)), "")
        raise ConfigError(f"{path}: no such log.{waits}" + (f" The launcher says:\n{launcher[-2000:]}" if launcher else ""))
    print("\n".join(tail(path).splitlines()[-arguments.lines :]), flush=True)
    position = path.stat().st_size if path.is_file() else 0
    while arguments.follow:
        over = backend_of(folder.job.backend).state(folder) in OVER
        newest = folder.attempts()
        if arguments.attempt is None and newest and newest[-1] != path.parent:
            path, position = newest[-1] / path.name, 0
        if path.is_file():
            with open(path, encoding="utf-8", errors="replace") as stream:
                stream.seek(position)
                print(stream.read(), end="", flush=True)
                position = stream.tell()
        if over:
            break
        time.sleep(POLL_S)
    return 0
