"""Start runs of `rwtrain train` in real processes and read what they reported."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from benchmarks.forked_ranks import Job, Main
from rwtrain.cli import main as cli_main


def write_settings(run: Path, settings: dict, **changes: object) -> Path:
    """Write the configuration of a run in folder `run` beside it."""
    path = run.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({**settings, "run": str(run), **changes}))
    return path


def start(run: Path, settings: dict, *flags: str, processes: int = 2, main: Main = cli_main, **changes: object) -> Job:
    """Start the ranks of a run in folder `run`; what they print goes to RUN.output. `main` replaces `rwtrain train`, with the configuration's path."""
    path = write_settings(run, settings, **changes)
    arguments = ["train", str(path), *flags] if main is cli_main else [str(path)]
    return Job(arguments, processes=processes, output=run.with_suffix(".output"), main=main)


def train(run: Path, settings: dict, *flags: str, processes: int = 2, **changes: object) -> str:
    """Train to the end and return what was printed."""
    job = start(run, settings, *flags, processes=processes, **changes)
    codes = job.wait()
    printed = job.output.read_text()
    assert codes == [0] * processes, printed[-3000:]
    return printed


def lines(run: Path, process: int = 0) -> dict[int, dict[str, float]]:
    """Step → everything reported for it by the run's `process`-th start."""
    found = []
    for text in (run / "metrics.jsonl").read_text().splitlines():
        try:
            found.append(json.loads(text))
        except ValueError:  # torn by a kill
            continue
    return {line["step"]: line for line in found if line["process"] == process and "event" not in line}


def losses(run: Path, process: int = 0) -> dict[int, dict[str, float]]:
    """Step → every loss."""
    return {step: {key: value for key, value in line.items() if key.startswith("loss/")} for step, line in lines(run, process).items()}


def compare(found: dict[int, dict[str, float]], expected: dict[int, dict[str, float]], *, relative: float) -> None:
    assert found.keys() == expected.keys()
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=relative, abs=1e-5), f"step {step}"


def wait_for_step(run: Path, step: int, ended: Callable[[], object], process: int = 0, timeout_s: float = 120) -> None:
    """Wait until the run's `process`-th start has reported `step`; fail when `ended()` is not None before."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        over = ended() is not None
        if (run / "metrics.jsonl").is_file() and max(lines(run, process), default=0) >= step:
            return
        assert not over, f"the run ended before step {step}"
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached in {timeout_s} s")
