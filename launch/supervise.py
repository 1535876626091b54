"""After an attempt: finish, try again, or give up. The budget is kept in the job's folder, so it outlives requeues."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from launch.failure import DIVERGED, STOPPED, USER_ERROR, Outcome
from launch.job import CANCELLED, LEDGER, OUTCOME, Job, JobFolder, read_json
from launch.spec import JobSpec
from rwtrain.files import write_json

NOTIFY_TIMEOUT_S = 30.0
FINAL = {USER_ERROR, DIVERGED, 126, 127}  # the same command would end in the same way
LATEST = "checkpoints/latest"
HEALTHY_S = 600.0  # a program without checkpoints that ran so long has done something


@dataclass
class Ledger:
    """What earlier attempts cost.

    Attributes:
        attempts: starts so far.
        restarts: of these, charged to the budget since the last progress.
        stuck: failures in a row without progress.
        progress: what progress looked like after the last attempt.
        excluded: hosts that failed a preflight or were lost.
        final: why the job is not started again; empty while it may be.
    """

    attempts: int = 0
    restarts: int = 0
    stuck: int = 0
    progress: str = ""
    excluded: list[str] = field(default_factory=list)
    final: str = ""

    @staticmethod
    def load(folder: JobFolder) -> Ledger:
        return Ledger(**(read_json(folder.path / LEDGER) or {}))

    def save(self, folder: JobFolder) -> None:
        write_json(folder.path / LEDGER, asdict(self))


@dataclass(frozen=True)
class Decision:
    """What to do after an attempt.

    Attributes:
        action: finish with `code`; again, after `wait_s`, charged or not.
        exclude: hosts that the next attempt should not use.
    """

    action: Literal["finish", "again"]
    code: int
    reason: str
    wait_s: float = 0.0
    exclude: tuple[str, ...] = ()


def progress_of(output: Path) -> str:
    """A value that changes when the run has moved on: the name of its latest checkpoint."""
    try:
        return (output / LATEST).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def decide(outcome: Outcome, spec: JobSpec, ledger: Ledger, *, progress: str, lasted_s: float, user_stop: bool, preflight_only: bool = False) -> Decision:
    """Judge an attempt and charge it to the ledger.

    Args:
        progress: `progress_of` now.
        lasted_s: duration of the attempt.
        user_stop: a person wanted the end, so nothing starts again.
        preflight_only: the verdict is what was asked for.
    """
    limits = spec.supervision
    moved = progress != ledger.progress or (spec.train is None and lasted_s >= HEALTHY_S)
    ledger.progress = progress
    if outcome.kind == "done":
        return Decision("finish", 0, outcome.summary)
    if user_stop:
        return Decision("finish", outcome.code, f"{outcome.summary} It is not started again: it was cancelled.")
    if outcome.kind == "stopped":
        if not spec.requeue.on_stop:
            return Decision("finish", STOPPED, f"{outcome.summary} requeue.on_stop is off.")
        ledger.stuck = 0 if moved else ledger.stuck
        return Decision("again", STOPPED, outcome.summary)
    if outcome.kind == "failed" and outcome.code in FINAL:
        return Decision("finish", outcome.code, f"{outcome.summary} Starting again would end in the same way.")
    if outcome.kind == "unfit" and preflight_only:
        return Decision("finish", outcome.code, outcome.summary)
    if outcome.kind == "unfit" and not outcome.hosts:
        return Decision("finish", outcome.code, f"{outcome.summary} No node is to blame alone, so that others would not help.")
    if not spec.requeue.on_failure:
        return Decision("finish", outcome.code, f"{outcome.summary} requeue.on_failure is off.")
    ledger.restarts, ledger.stuck = (1, 1) if moved else (ledger.restarts + 1, ledger.stuck + 1)
    ledger.excluded += [host for host in outcome.hosts if host not in ledger.excluded]
    if ledger.restarts > limits.max_restarts:
        return Decision("finish", outcome.code, f"{outcome.summary} All {limits.max_restarts} restarts are used up (supervision.max_restarts).")
    if ledger.stuck >= limits.crash_loop and outcome.kind == "failed":
        return Decision(
            "finish", outcome.code, f"{outcome.summary} This was the {_ordinal(ledger.stuck)} failure in a row without a newer checkpoint: a crash loop."
        )
    wait = min(limits.backoff_s * 2 ** (ledger.stuck - 1), limits.max_backoff_s)
    return Decision("again", outcome.code, outcome.summary, wait, tuple(outcome.hosts))


def supervise(folder: JobFolder, run_attempt: Callable[[int, Ledger], Outcome], *, again: Callable[[Decision], bool], user_stop: Callable[[], bool]) -> int:
    """Run attempts until one ends the job; return the exit status.

    Args:
        run_attempt: starts attempt N and waits for its end.
        again: called before another attempt; True means that it was handed over, to a queue, and this process is done.
        user_stop: whether a person asked for the end.
    """
    job = folder.job
    while True:
        ledger = Ledger.load(folder)
        ledger.attempts += 1
        ledger.save(folder)
        began = time.monotonic()
        outcome = run_attempt(ledger.attempts - 1, ledger)
        stopped_by_user = user_stop() or (folder.path / CANCELLED).exists()
        lasted_s = time.monotonic() - began
        progress = progress_of(Path(job.output))
        decision = decide(outcome, job.spec, ledger, progress=progress, lasted_s=lasted_s, user_stop=stopped_by_user, preflight_only=job.preflight_only)
        ledger.save(folder)
        folder.event("decision", action=decision.action, reason=decision.reason, wait_s=decision.wait_s, exclude=list(decision.exclude))
        notify(job, folder, outcome, decision)
        if decision.action == "finish":
            print(final_words(outcome, decision), file=sys.stderr if decision.code else sys.stdout, flush=True)
            return decision.code
        print(f"launch | {decision.reason} Another attempt follows{f' in {decision.wait_s:.0f} s' if decision.wait_s else ''}.", flush=True)
        deadline = time.monotonic() + decision.wait_s
        while time.monotonic() < deadline and not user_stop():
            time.sleep(0.1)
        if again(decision):
            return decision.code
        if user_stop():
            return decision.code


def final_words(outcome: Outcome, decision: Decision) -> str:
    """The end of a job, with the first error once at the top."""
    return f"launch | {decision.reason}" + ("\n" + "\n".join(f"launch |     {line}" for line in outcome.error.splitlines()) if outcome.error else "")


def read_outcome(attempt: Path) -> Outcome | None:
    """What node 0 decided about an attempt; None if it could not."""
    values = read_json(attempt / OUTCOME)
    return None if values is None else Outcome.from_json(values)


def notify(job: Job, folder: JobFolder, outcome: Outcome, decision: Decision) -> None:
    """Call the notification program; its failure is reported and changes nothing."""
    command = job.spec.supervision.notify or job.site.notify
    if not command:
        return
    message = {
        "job": job.id,
        "name": job.spec.name,
        "folder": str(folder.path),
        "outcome": outcome.kind,
        "action": decision.action,
        "code": decision.code,
        "reason": decision.reason,
        "error": outcome.error,
    }
    try:
        done = subprocess.run(command, input=json.dumps(message) + "\n", text=True, timeout=NOTIFY_TIMEOUT_S, capture_output=True)
        problem = f"status {done.returncode}: {done.stderr.strip()[-300:]}" if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        print(f"launch | the notification program failed ({problem})", file=sys.stderr, flush=True)


def _ordinal(number: int) -> str:
    return f"{number}{'th' if 10 <= number % 100 <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"
