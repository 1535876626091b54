"""What a run reports: one JSON line per step, TensorBoard, Weights & Biases, and a progress bar."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from rwtrain.config.schema import LoggingConfig
from rwtrain.errors import RWTrainError


class MetricsLog:
    """Writes RUN/metrics.jsonl, and what `config` asks for beside it, on the main rank; does nothing on the others.

    Numbers that are not finite are written as null, which every JSON reader accepts.

    Args:
        start: first step of this process (after a resume: the checkpoint's step); later lines of an earlier process stay in
            the file, so a step that was run twice has two lines, told apart by `process`.
    """

    def __init__(self, run: Path, config: LoggingConfig, *, enabled: bool, start: int, steps: int) -> None:
        self._file = self._board = self._bar = self._wandb = None
        if not enabled:
            return
        path = run / "metrics.jsonl"
        self._process = 1 + max((line["process"] for line in _read_lines(run)), default=-1)
        torn = path.is_file() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        self._file = path.open("a", encoding="utf-8")
        if torn:  # by a kill in the middle of a line
            self._file.write("\n")
        if config.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run / "tensorboard"), purge_step=start)
        if config.wandb:
            self._wandb = _start_wandb(run, config.wandb_project)
        self._bar = tqdm(total=steps, initial=start, desc="train", unit="step", dynamic_ncols=True)

    def write(self, lines: list[dict[str, Any]]) -> None:
        """Write the lines of consecutive steps, oldest first."""
        if self._file is None or self._bar is None or not lines:
            return
        self._append([{name: _finite(value) for name, value in line.items()} for line in lines])
        last = lines[-1]
        numbers = {name: value for name, value in last.items() if name != "step" and isinstance(value, int | float)}
        if self._board is not None:
            try:
                for name, value in numbers.items():
                    self._board.add_scalar(name, value, last["step"])
            except OSError as error:
                print(f"warning: TensorBoard gets no more figures ({error})", file=sys.stderr, flush=True)
                self._board = None
        if self._wandb is not None:
            self._wandb.log({"step": last["step"], **numbers})
        speed = f"{last['tokens_per_s']:,.0f} tokens/s" + (f", MFU {last['mfu']:.1%}" if "mfu" in last else "")
        self._bar.set_postfix_str(f"loss {last['loss/total']:.3f}, {speed}", refresh=False)
        self._bar.update(len(lines))

    def event(self, name: str, step: int, message: str) -> None:
        """Record that something out of the ordinary happened behind `step`, beside the lines of the steps."""
        if self._file is not None:
            self._append([{"event": name, "step": step, "message": message}])

    def _append(self, lines: list[dict[str, Any]]) -> None:
        """Write lines; on a full disk they wait in memory for the next time, and the training goes on."""
        assert self._file is not None
        try:
            for line in lines:
                self._file.write(json.dumps({"process": self._process, **line}) + "\n")
            self._file.flush()
        except OSError as error:
            print(f"warning: {self._file.name}: not written ({error})", file=sys.stderr, flush=True)

    def close(self) -> None:
        for sink in (self._file, self._board, self._bar):
            if sink is not None:
                with contextlib.suppress(OSError):  # a full disk has been reported
                    sink.close()
        if self._wandb is not None:
            self._wandb.finish()


def _start_wandb(run: Path, project: str) -> Any:
    """A Weights & Biases run in RUN/wandb: kept there unless WANDB_MODE says online; later starts of the run continue it when it is uploaded."""
    try:
        import wandb
    except ImportError as error:
        raise RWTrainError("logging.wandb needs the package wandb. Install it with: pip install 'rwtrain[wandb]'") from error
    from xxhash import xxh3_64_hexdigest

    identifier = xxh3_64_hexdigest(str(run.resolve()).encode())
    settings = wandb.Settings(silent=True, console="off", x_disable_stats=True)
    mode: Any = os.environ.get("WANDB_MODE", "offline")
    started = wandb.init(project=project, name=run.name, id=identifier, resume="allow", dir=str(run), mode=mode, settings=settings)
    started.define_metric("*", step_metric="step")  # steps that are run again after a resume are points like others
    return started


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def throughput(*, tokens: int, samples: int, flops: float, seconds: float, world_size: int, peak_tflops: float | None) -> dict[str, float]:
    """Speed of one step.

    Args:
        tokens, samples: of the global batch: places of all rows; rows.
        flops: operations of all ranks (rwtrain.train.flops).
        peak_tflops: of one device; without it there is no MFU.
    """
    per_device = flops / seconds / world_size / 1e12
    found = {"tokens_per_s": tokens / seconds, "samples_per_s": samples / seconds, "tflops_per_device": per_device}
    return found | ({"mfu": per_device / peak_tflops} if peak_tflops else {})


def peak_memory_gb() -> float:
    """The largest memory of this process so far in 10⁹ bytes: the GPU's if there is one, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e9
    return 0.0


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The steps' lines of RUN/metrics.jsonl; a last line torn by a kill is left out."""
    return [line for line in _read_lines(run) if "event" not in line]


def read_events(run: Path) -> list[dict[str, Any]]:
    """The events in RUN/metrics.jsonl: process, event, step, message."""
    return [line for line in _read_lines(run) if "event" in line]


def _read_lines(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines
