"""Slurm, ssh, Kubernetes and this machine behind one face: render, submit, ask, cancel."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Protocol

from launch import slurm
from launch.drive import Driver, driver_process
from launch.hostfile import choose_hosts, read_hostfile
from launch.job import CANCELLED, Job, JobFolder
from launch.registry import number_of
from launch.ssh import ssh_command
from launch.start import node_command
from rwtrain.errors import ConfigError, RWTrainError
from rwtrain.files import write_text

SCRIPT, LAUNCHER_LOG = "job.sbatch", "launcher.log"
START_S = 10.0


class Backend(Protocol):
    """What starts jobs."""

    def render(self, job: Job, folder: JobFolder) -> str:
        """What would be submitted, for people; nothing is written."""
        ...

    def submit(self, folder: JobFolder, *, after: Sequence[str]) -> str:
        """Submit a job whose folder is complete; return its number.

        Args:
            after: numbers of jobs that must have ended well before.
        """
        ...

    def state(self, folder: JobFolder) -> str:
        """One word such as PENDING, RUNNING or COMPLETED; UNKNOWN once the backend has forgotten the job."""
        ...

    def cancel(self, folder: JobFolder) -> None:
        """Ask the job to save and end, and not to start again."""
        ...


class Slurm:
    """sbatch."""

    def render(self, job: Job, folder: JobFolder) -> str:
        return slurm.job_script(job, folder)

    def submit(self, folder: JobFolder, *, after: Sequence[str]) -> str:
        slurm.require_slurm()
        write_text(folder.path / SCRIPT, self.render(folder.job, folder))
        dependency = [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"] if after else []
        return slurm.submit(folder.path / SCRIPT, options=dependency)

    def state(self, folder: JobFolder) -> str:
        return slurm.describe(number_of(folder)).get("JobState") or last_state(folder)

    def cancel(self, folder: JobFolder) -> None:
        slurm.require_slurm()
        again = (folder.path / CANCELLED).exists()
        (folder.path / CANCELLED).touch()
        slurm.cancel(number_of(folder), gently=not again and not folder.job.spec.array)


class Driven:
    """This machine or ssh hosts: a process of ours stays with the job.

    Args:
        hostfile: replaces the site's.
        detach: return at once instead of showing the job's output to its end.
    """

    def __init__(self, *, hostfile: str | None = None, detach: bool = False) -> None:
        self.hostfile, self.detach = hostfile, detach

    def render(self, job: Job, folder: JobFolder) -> str:
        if job.backend == "local":
            return f"# on this machine, for each of {job.spec.nodes} nodes\n{shlex.join(node_command(job, folder, apptainer=True))}\n"
        hostfile = self.hostfile or job.site.ssh.hostfile
        if hostfile is None:
            raise ConfigError("No hosts are known. Give --hostfile, or name one in the site profile as ssh.hostfile.")
        chosen = choose_hosts(read_hostfile(hostfile), nodes=job.spec.nodes, gpus=job.spec.gpus_per_node, excluded=[])
        commands = [node_command(job, folder, "--node", str(node), apptainer=True) for node in range(len(chosen))]
        lines = [shlex.join(ssh_command(job.site.ssh, host.name, command)) for host, command in zip(chosen, commands, strict=True)]
        return "\n".join(lines) + "\n"

    def submit(self, folder: JobFolder, *, after: Sequence[str]) -> str:
        arguments = [str(folder.path), *([self.hostfile] if self.hostfile else [])]
        with open(folder.path / LAUNCHER_LOG, "ab") as log:
            command = [sys.executable, "-m", "launch.drive", *arguments]
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_S
        while driver_process(folder) is None and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return str(child.pid)

    def stay(self, folder: JobFolder) -> int:
        """Run a job to its end in this process; return its exit status."""
        return Driver(folder, hostfile=self.hostfile).run()

    def state(self, folder: JobFolder) -> str:
        if driver_process(folder) is not None:
            return "RUNNING"
        return last_state(folder)

    def cancel(self, folder: JobFolder) -> None:
        process = driver_process(folder)
        if process is None:
            raise RWTrainError(f"{folder.path}: no launcher of this job runs on this machine. Cancel it where it was started.")
        (folder.path / CANCELLED).touch()
        os.kill(process, signal.SIGTERM)


def last_state(folder: JobFolder) -> str:
    """State of a job that no longer runs, from its own history: LOST if that has no end."""
    events = [event for event in folder.events() if event["event"] in ("attempt", "outcome", "decision")]
    if not events:
        return "UNKNOWN"
    if events[-1]["event"] != "decision" or events[-1]["action"] != "finish":
        return "LOST"
    done = next((event["outcome"] == "done" for event in reversed(events) if event["event"] == "outcome"), False)
    return "COMPLETED" if done else "CANCELLED" if (folder.path / CANCELLED).exists() else "FAILED"


def backend_of(name: str, *, hostfile: str | None = None, detach: bool = False) -> Backend:
    """The backend with a name."""
    if name == "slurm":
        return Slurm()
    if name == "k8s":
        from launch.kubernetes import Kubernetes

        return Kubernetes()
    return Driven(hostfile=hostfile, detach=detach)
