"""Ranks of `rwtrain train` as forks of a process that has imported everything already: real processes, started in a fraction of a second."""

from __future__ import annotations

import gc
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from rwtrain.cli import main as cli_main

Main = Callable[[list[str]], int]
PRELOADED = ["torch", "deepspeed", "transformers.models.siglip.modeling_siglip", "rwtrain.cli", "rwtrain.train.loop", "rwtrain.train.reshard"]
PRELOADED += ["rwtrain.train.command", "rwtrain.knowledge.store", "deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine", "pandas"]


class Job:
    """The ranks of one `rwtrain` command.

    Args:
        arguments: of `rwtrain`, or of `main`.
        main: an importable function to run instead of `rwtrain`, returning the exit status.

    Attributes:
        output: file that takes standard output and standard error of all ranks.
    """

    def __init__(self, arguments: list[str], *, processes: int, output: Path, main: Main = cli_main) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.output = output
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
        self.ranks: list[BaseProcess] = []
        for rank in map(str, range(processes)):
            process = _server().Process(target=_rank, args=(main, arguments, environment | {"RANK": rank, "LOCAL_RANK": rank}, str(output)))
            process.start()
            self.ranks.append(process)

    def ended(self) -> list[int] | None:
        """The exit statuses if all ranks have ended, else None."""
        codes = [process.exitcode for process in self.ranks]
        return None if any(code is None for code in codes) else [int(code or 0) for code in codes]

    def send(self, number: int, *, ranks: Sequence[int] | None = None) -> None:
        """Send a signal to some ranks, by default to all that are still there."""
        for rank, process in enumerate(self.ranks):
            if (ranks is None or rank in ranks) and process.exitcode is None and process.pid is not None:
                os.kill(process.pid, number)

    def wait(self, timeout_s: float = 240) -> list[int]:
        """The ranks' exit statuses, negative for a signal; ranks still there after `timeout_s` are killed."""
        deadline = time.monotonic() + timeout_s
        for process in self.ranks:
            process.join(max(0.0, deadline - time.monotonic()))
        hanging = [rank for rank, process in enumerate(self.ranks) if process.exitcode is None]
        self.kill()
        if hanging:
            raise TimeoutError(f"ranks {hanging} did not end within {timeout_s} s:\n{self.output.read_text()[-3000:]}")
        return [int(process.exitcode or 0) for process in self.ranks]

    def kill(self) -> None:
        for process in self.ranks:
            if process.exitcode is None:
                process.kill()
            process.join()


def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _rank(main: Main, arguments: list[str], environment: dict[str, str], output: str) -> None:
    os.environ.update(environment)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    gc.freeze()  # DeepSpeed collects garbage, among all that the server has imported
    import torch

    torch.set_num_threads(1)
    sys.exit(main(arguments))
