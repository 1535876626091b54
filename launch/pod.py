"""The first process of a pod: `python -m launch.pod JOB_FOLDER --description DIR`. It fills the job's folder on the shared volume, then is a node of the job.

Kubernetes restarts what fails, without looking; node 0 therefore keeps the ledger, and ends the job with a status that is not restarted when
the supervision's limits are reached.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launch import node, task
from launch.environment import ATTEMPT_VARIABLE
from launch.failure import GIVEN_UP
from launch.job import CONFIG, JOB, OUTCOME, TOKEN, JobFolder
from launch.node import NODE_VARIABLES
from launch.supervise import Ledger, decide, final_words, notify, progress_of, read_outcome
from rwtrain.errors import RWTrainError
from rwtrain.files import atomic_path


def fill_folder(folder: Path, description: Path) -> None:
    """Copy the description to the shared volume, whole or not at all: every pod does it, with the same content."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (JOB, CONFIG):
        if (description / name).is_file() and not (folder / name).is_file():
            with atomic_path(folder / name) as temporary:
                shutil.copyfile(description / name, temporary)
    token = os.environ.get("RWTRAIN_TOKEN")
    if token and not (folder / TOKEN).is_file():
        with atomic_path(folder / TOKEN) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(token, encoding="utf-8")


def run(path: str, description: str) -> int:
    """Be a node; on node 0 also judge the attempt."""
    fill_folder(Path(path), Path(description))
    folder = JobFolder.open(path)
    job = folder.job
    if job.spec.array:
        return task.main(path)
    number = next((int(os.environ[name]) for name in NODE_VARIABLES if os.environ.get(name)), 0)
    ledger = Ledger.load(folder)
    if number == 0:
        if ledger.final:
            print(f"launch | {ledger.final}", file=sys.stderr)
            return GIVEN_UP
        ledger.attempts += 1
        ledger.save(folder)
    attempt = int(os.environ.get(ATTEMPT_VARIABLE) or max(ledger.attempts - 1, 0))
    if number == 0:
        (folder.attempt(attempt) / OUTCOME).unlink(missing_ok=True)  # of a pod that was restarted within one attempt
    began = time.monotonic()
    code = node.main([path, "--node", str(number), "--attempt", str(attempt), "--show", "main"])
    outcome = read_outcome(folder.attempt(attempt))
    if number != 0 or outcome is None:
        return code
    lasted_s, progress = time.monotonic() - began, progress_of(Path(job.output))
    decision = decide(outcome, job.spec, ledger, progress=progress, lasted_s=lasted_s, user_stop=False, preflight_only=job.preflight_only)
    if decision.action == "finish" and decision.code:
        ledger.final = decision.reason
    ledger.save(folder)
    folder.event("decision", action=decision.action, reason=decision.reason)
    notify(job, folder, outcome, decision)
    if decision.action == "again":
        return code
    print(final_words(outcome, decision), file=sys.stderr if decision.code else sys.stdout, flush=True)
    return GIVEN_UP if decision.code else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m launch.pod", description="A node of a job in a Kubernetes pod.")
    parser.add_argument("folder", help="the job's folder on a volume that all pods share")
    parser.add_argument("--description", required=True, help="folder with job.json")
    options = parser.parse_args(arguments)
    try:
        return run(options.folder, options.description)
    except RWTrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
