"""The batch step of a Slurm job: `python -m launch.slurm_job JOB_FOLDER`, on the job's first node.

It starts attempts with srun and decides after each: a crash is tried again in the same allocation, a stop before the time limit, a preemption and
a lost node go back into the queue. It never sees the signals meant for the training: Slurm sends those to the steps.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from launch import slurm
from launch.environment import ATTEMPT_VARIABLE, HUB_VARIABLE
from launch.failure import LOST, Outcome
from launch.hub import END_S
from launch.job import CANCELLED, JobFolder
from launch.local import free_port
from launch.supervise import Decision, Ledger, read_outcome, supervise
from rwtrain.errors import RWTrainError

POLL_S, MARGIN_S = 0.1, 10.0
RUNNING = {"RUNNING", "CONFIGURING", "SUSPENDED", ""}


class BatchStep:
    """Attempts of one allocation."""

    def __init__(self, folder: JobFolder) -> None:
        self.folder, self.job = folder, folder.job
        self.number = os.environ["SLURM_JOB_ID"]
        self.cancelled = False

    def run(self) -> int:
        # A preemption or scancel may signal this step as well; what it means is read from the outcome and the job's state.
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCONT):
            signal.signal(number, lambda *_: None)
        self.folder.event(
            "batch step", slurm_job=self.number, nodes=os.environ.get("SLURM_JOB_NODELIST", ""), restart=os.environ.get("SLURM_RESTART_COUNT", "0")
        )
        code = supervise(self.folder, self._attempt, again=self._again, user_stop=lambda: self.cancelled)
        if (self.folder.path / CANCELLED).exists():
            slurm.cancel(self.number)  # so that Slurm calls it cancelled, not failed
        return code

    def _attempt(self, number: int, ledger: Ledger) -> Outcome:
        attempt = self.folder.attempt(number)
        attempt.mkdir(parents=True, exist_ok=True)
        hosts = slurm.host_names(os.environ["SLURM_JOB_NODELIST"])
        self.folder.event("attempt", number=number, hosts=hosts)
        variables = {HUB_VARIABLE: f"{slurm.address_of(hosts[0])}:{free_port('')}", ATTEMPT_VARIABLE: str(number)}
        child = subprocess.Popen(slurm.srun_command(self.job, self.folder), env=os.environ | variables, stdin=subprocess.DEVNULL, start_new_session=True)
        code = self._wait(child, attempt)
        outcome = read_outcome(attempt)
        state = slurm.describe(self.number).get("JobState", "")
        self.cancelled = state not in RUNNING and state != "PREEMPTED"
        if outcome is not None:
            return outcome
        return Outcome("lost", LOST, f"srun ended with status {code} before node 0 reported an end.", hosts=[])

    def _wait(self, child: subprocess.Popen[bytes], attempt: Path) -> int:
        """Wait for srun; once an end is decided, it may not take longer than the nodes themselves need."""
        limits = self.job.spec.supervision
        decided: float | None = None
        while child.poll() is None:
            if decided is None and (outcome := read_outcome(attempt)) is not None:
                decided = time.monotonic() + limits.kill_after_s + END_S + (limits.stop_s if outcome.kind == "stopped" else 0)
            if decided is not None and time.monotonic() > decided:
                child.kill()  # a node that is gone does not answer srun either
            time.sleep(POLL_S)
        return child.returncode

    def _again(self, decision: Decision) -> bool:
        stopped = decision.wait_s == 0 and decision.reason.startswith("Stopped")
        if not stopped and not decision.exclude:
            return False  # a crash: the same nodes can do it
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # inherited: requeueing ends this step's processes, and scontrol must finish its work
        slurm.requeue(self.number, exclude=decision.exclude)
        self.folder.event("requeue", slurm_job=self.number, exclude=list(decision.exclude))
        time.sleep(MARGIN_S)  # Slurm ends this step; should it be slow, the status says that the job goes on
        return True


def main(path: str) -> int:
    try:
        return BatchStep(JobFolder.open(path)).run()
    except RWTrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
