"""Run the ranks of a job on this machine: start them together, end them together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time

GRACE_S = 30.0
POLL_S = 0.05


def run_ranks(command: list[str], *, processes: int) -> int:
    """Run `command` once per rank with torchrun's environment variables, rendezvous on the loopback address.

    When one rank fails the others are ended within `GRACE_S`, since they would wait for it for ever. SIGINT, SIGTERM and
    SIGUSR1 are passed on to the ranks, which stop by agreement.

    Returns:
        128 + signal if a signal killed a rank, else the exit status of a rank that failed, else 0.
    """
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes))),
    }
    children: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: object) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM if number == signal.SIGINT else number)

    previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        for rank in map(str, range(processes)):
            child = subprocess.Popen(command, env=environment | {"RANK": rank, "LOCAL_RANK": rank}, start_new_session=True)
            children.append(child)
        return _wait(children)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait(children: list[subprocess.Popen[bytes]]) -> int:
    while True:
        codes = [child.poll() for child in children]
        failed = [code for code in codes if code]
        if failed:
            _end(children)
            first = min(failed)  # a rank that a signal killed (negative) is a cause; others may have failed because of it
            return first if first > 0 else 128 - first
        if all(code == 0 for code in codes):
            return 0
        time.sleep(POLL_S)


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    """Give ranks that are ending by themselves a moment (an agreed stop ends them one after the other), then kill the rest."""
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline and any(child.poll() is None for child in children):
        time.sleep(POLL_S)
    for child in children:
        if child.poll() is None:
            child.terminate()
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and any(child.poll() is None for child in children):
        time.sleep(POLL_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
