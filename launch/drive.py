"""The process that starts a job's nodes itself, over ssh or on this machine, and stays with them: `python -m launch.drive JOB_FOLDER`."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from launch.failure import LOST, Outcome
from launch.hostfile import choose_hosts, read_hostfile
from launch.hub import END_S
from launch.job import OUTCOME, JobFolder, read_json
from launch.local import free_port
from launch.ssh import UNREACHABLE, address_of, ssh_command
from launch.start import node_command
from launch.supervise import Ledger, read_outcome, supervise
from rwtrain.errors import RWTrainError
from rwtrain.files import write_json

DRIVER, HOSTS = "driver.json", "hosts.json"
POLL_S, UNEXPLAINED_S, MARGIN_S = 0.05, 3.0, 10.0
PORTS = range(20_000, 30_000)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Driver:
    """Starts attempts one after the other and passes stop requests on."""

    def __init__(self, folder: JobFolder, *, hostfile: str | None = None) -> None:
        self.folder, self.job = folder, folder.job
        self.hostfile = hostfile or self.job.site.ssh.hostfile
        self.requests: list[int] = []
        self.stopped = False

    def run(self) -> int:
        """Supervise the job to its end; return its exit status."""
        previous = {number: signal.signal(number, lambda received, _: self._note(received)) for number in SIGNALS}
        write_json(self.folder.path / DRIVER, {"pid": os.getpid(), "host": os.uname().nodename, "started": _started(os.getpid())})
        try:
            return supervise(self.folder, self._attempt, again=lambda _: False, user_stop=lambda: self.stopped)
        finally:
            (self.folder.path / DRIVER).unlink(missing_ok=True)
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _note(self, number: int) -> None:
        self.stopped = True
        self.requests.append(number)

    def _attempt(self, number: int, ledger: Ledger) -> Outcome:
        attempt = self.folder.attempt(number)
        attempt.mkdir(parents=True, exist_ok=True)
        commands, hosts = self._commands(number, ledger)
        write_json(attempt / HOSTS, hosts)
        self.folder.event("attempt", number=number, hosts=hosts)
        errors = [attempt / f"node-{node}.err" for node in range(len(commands))]
        children = [self._start(command, path) for command, path in zip(commands, errors, strict=True)]
        try:
            codes = self._wait(children, attempt)
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                child.wait()
        return explain(read_outcome(attempt), codes, hosts, [path.read_text(encoding="utf-8", errors="replace").strip() for path in errors])

    def _commands(self, number: int, ledger: Ledger) -> tuple[list[list[str]], list[str]]:
        job, arguments = self.job, ["--attempt", str(number), "--lifeline", "--show", "all"]
        if job.backend == "local":
            hub = f"127.0.0.1:{free_port()}"
            hosts = [os.uname().nodename] * job.spec.nodes
            places = [[*arguments, "--hub", hub, "--node", str(node)] for node in range(job.spec.nodes)]
            return [node_command(job, self.folder, *place, apptainer=True) for place in places], hosts
        if self.hostfile is None:
            raise RWTrainError("No hosts are known. Give --hostfile, or name one in the site profile as ssh.hostfile.")
        chosen = choose_hosts(read_hostfile(self.hostfile), nodes=job.spec.nodes, gpus=job.spec.gpus_per_node, excluded=ledger.excluded)
        hub = f"{address_of(job.site.ssh, chosen[0].name)}:{random.choice(PORTS)}"
        commands = []
        for node, host in enumerate(chosen):
            command = node_command(job, self.folder, *arguments, "--hub", hub, "--node", str(node), "--host", host.name, apptainer=True)
            commands.append(ssh_command(job.site.ssh, host.name, command))
        return commands, [host.name for host in chosen]

    def _start(self, command: list[str], errors: Path) -> subprocess.Popen[bytes]:
        with open(errors, "wb") as stream:
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=stream, start_new_session=True)
        values = {name: os.environ[reference.partition(":")[2]] for name, reference in self.job.spec.secrets.items() if reference.startswith("env:")}
        _say(child, {"secrets": values})
        return child

    def _wait(self, children: list[subprocess.Popen[bytes]], attempt: Path) -> list[int]:
        """Wait until all have ended; stop requests go to the nodes, and nodes that outlive the others by too long are given up."""
        limits = self.job.spec.supervision
        first_end: float | None = None
        asked = 0
        while any(child.poll() is None for child in children):
            if self.requests:
                asked += 1
                number = self.requests.pop(0)
                print(
                    f"launch | {signal.Signals(number).name}: "
                    + ("asking all processes to save and stop; once more ends them" if asked == 1 else "ending all processes"),
                    flush=True,
                )
                for child in children:
                    if asked == 1:
                        _say(child, {"signal": number})
                    else:
                        _hang_up(child)
            now = time.monotonic()
            if first_end is None and any(child.poll() not in (None, 0) for child in children):
                first_end = now
            if first_end is not None:
                decided = (attempt / OUTCOME).is_file()
                if not decided and now - first_end > UNEXPLAINED_S:  # a host that could not be reached: node 0 does not know it yet
                    for child in children:
                        _hang_up(child)
                patience = limits.lost_after_s + limits.kill_after_s + END_S + MARGIN_S + (limits.stop_s if asked == 1 else 0)
                if now - first_end > patience:
                    break
            time.sleep(POLL_S)
        return [LOST if code is None else code for code in (child.poll() for child in children)]


def explain(outcome: Outcome | None, codes: list[int], hosts: list[str], errors: list[str]) -> Outcome:
    """The end of an attempt from what node 0 decided and how the nodes' processes ended.

    Args:
        errors: what each wrote to standard error.
    """
    unreachable = [node for node, code in enumerate(codes) if code == UNREACHABLE]
    if outcome is not None and not (outcome.kind == "lost" and not outcome.hosts):
        return outcome
    if unreachable:
        node = unreachable[0]
        why = errors[node].splitlines()[-1] if errors[node] else "ssh lost the connection"
        return Outcome("lost", LOST, f"Node {node} ({hosts[node]}) cannot be reached: {why}", node=node, hosts=[hosts[node] for node in unreachable])
    if outcome is not None:
        return outcome
    failed = next((node for node, code in enumerate(codes) if code not in (0, LOST)), 0)
    code = codes[failed] if codes[failed] > 0 else LOST
    return Outcome(
        "lost" if code == LOST else "failed",
        code,
        f"The launcher on node {failed} ({hosts[failed]}) ended with status {code}.",
        node=failed,
        error=errors[failed],
    )


def _say(child: subprocess.Popen[bytes], message: dict[str, Any]) -> None:
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError, ValueError):  # gone, or hung up already
        child.stdin.write(json.dumps(message).encode() + b"\n")
        child.stdin.flush()


def _hang_up(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()


def _started(pid: int) -> str:
    """When a process began, in the kernel's ticks: a number that is used again belongs to another process."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state == "Z" else rest[18]


def driver_process(folder: JobFolder) -> int | None:
    """Process id of a job's driver if it runs on this machine, else None."""
    values = read_json(folder.path / DRIVER)
    if values is None or values["host"] != os.uname().nodename:
        return None
    return int(values["pid"]) if values["started"] and _started(values["pid"]) == values["started"] else None


def main(path: str, hostfile: str | None = None) -> int:
    return Driver(JobFolder.open(path), hostfile=hostfile).run()


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except RWTrainError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
