"""Run the ranks of a job on this machine: start them together, end them together."""

from __future__ import annotations

import os
import signal
import socket
import time

from launch.ranks import Processes, Start, exit_status, rank_variables

GRACE_S = 30.0
POLL_S = 0.05


def run_ranks(command: list[str], *, processes: int) -> int:
    """Run `command` once per rank with torchrun's environment variables, rendezvous on the loopback address.

    When one rank fails the others are ended within `GRACE_S`, since they would wait for it for ever. SIGINT, SIGTERM and
    SIGUSR1 are passed on to the ranks, which stop by agreement.

    Returns:
        128 + signal if a signal killed a rank, else the exit status of a rank that failed, else 0.
    """
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    port = free_port()
    starts = [
        Start(
            command,
            rank_variables(rank=rank, local_rank=rank, world_size=processes, local_world_size=processes, address="127.0.0.1", port=port),
            f"rank {rank}",
        )
        for rank in range(processes)
    ]
    ranks: Processes | None = None

    def forward(number: int, _: object) -> None:
        if ranks is not None:
            ranks.send(signal.SIGTERM if number == signal.SIGINT else number)

    previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        ranks = Processes(starts, environment=os.environ | {"OMP_NUM_THREADS": threads})
        return _wait(ranks)
    finally:
        if ranks is not None:
            ranks.kill()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait(ranks: Processes) -> int:
    while True:
        codes = ranks.codes()
        failed = [code for code in codes if code]
        if failed:
            ranks.end_within(grace_s=GRACE_S)
            while ranks.running():
                ranks.tick()
                time.sleep(POLL_S)
            return exit_status(min(failed))  # a rank that a signal killed (negative) is a cause; others may have failed because of it
        if all(code == 0 for code in codes):
            return 0
        time.sleep(POLL_S)


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port that nothing uses at the moment."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
