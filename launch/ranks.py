"""The processes of a job on one machine: they start together and end together."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

QUIET_S = 2.0  # an agreed stop ends the ranks one after the other, and a failure is seen by all: they may end by themselves
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Start:
    """One process: its command, the variables beside those of all, and how it is called in logs."""

    command: Sequence[str]
    environment: Mapping[str, str]
    name: str


class Processes:
    """Children in sessions of their own, which die with this process.

    Args:
        starts: what to run.
        environment: variables of all; None for this process's own.
        folder: working folder.
        pipes: give standard output and error of each as one pipe (`children[i].stdout`) instead of this process's own.
    """

    def __init__(self, starts: Sequence[Start], *, environment: Mapping[str, str] | None = None, folder: str | None = None, pipes: bool = False) -> None:
        common = dict(os.environ if environment is None else environment)
        self.names = [start.name for start in starts]
        self.children: list[subprocess.Popen[bytes]] = []
        self._deadlines: list[tuple[float, int]] = []
        try:
            for start in starts:
                self.children.append(
                    subprocess.Popen(
                        start.command,
                        env=common | dict(start.environment),
                        cwd=folder,
                        stdin=subprocess.DEVNULL if pipes else None,
                        stdout=subprocess.PIPE if pipes else None,
                        stderr=subprocess.STDOUT if pipes else None,
                        start_new_session=True,
                        preexec_fn=_die_with_parent,
                    )
                )
        except OSError:
            self.kill()
            raise

    def codes(self) -> list[int | None]:
        """Exit statuses, negative for a signal, None for what still runs."""
        return [child.poll() for child in self.children]

    def running(self) -> bool:
        return any(code is None for code in self.codes())

    def send(self, number: int) -> None:
        """Send a signal to all that still run."""
        for child in self.children:
            if child.poll() is None:
                child.send_signal(number)

    def end_within(self, *, quiet_s: float = QUIET_S, grace_s: float) -> None:
        """Let the processes end by themselves for `quiet_s`, then ask them to, then after `grace_s` kill them; `tick` does it. The last call holds."""
        now = time.monotonic()
        self._deadlines = [(now + quiet_s, signal.SIGTERM), (now + quiet_s + grace_s, signal.SIGKILL)]

    def tick(self) -> None:
        """Do what is due; to be called often."""
        now = time.monotonic()
        while self._deadlines and now >= self._deadlines[0][0]:
            _, number = self._deadlines.pop(0)
            if number == signal.SIGKILL:
                self.kill()
            else:
                self.send(number)

    def kill(self) -> None:
        """Kill everything that the processes started in their sessions, too, and wait for them."""
        for child in self.children:
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                child.poll()
            child.wait()


def exit_status(code: int) -> int:
    """What a shell would call a process's return code: 128 + n for signal n."""
    return code if code >= 0 else 128 - code


def rank_variables(*, rank: int, local_rank: int, world_size: int, local_world_size: int, address: str, port: int) -> dict[str, str]:
    """torchrun's variables for one rank."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(local_world_size),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
