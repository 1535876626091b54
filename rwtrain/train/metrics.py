"""What a run reports: one JSON line per step, TensorBoard, and a progress bar."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tqdm import tqdm


class MetricsLog:
    """Writes RUN/metrics.jsonl and RUN/tensorboard on the main rank; does nothing on the others.

    Args:
        start: first step of this process (after a resume: the checkpoint's step); later lines of an earlier process stay in
            the file, so a step that was run twice has two lines, told apart by `process`.
    """

    def __init__(self, run: Path, *, enabled: bool, tensorboard: bool, start: int, steps: int) -> None:
        self._file = self._board = self._bar = None
        if not enabled:
            return
        path = run / "metrics.jsonl"
        self._process = 1 + max((line["process"] for line in _read_lines(run)), default=-1)
        torn = path.is_file() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        self._file = path.open("a", encoding="utf-8")
        if torn:  # by a kill in the middle of a line
            self._file.write("\n")
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run / "tensorboard"), purge_step=start)
        self._bar = tqdm(total=steps, initial=start, desc="train", unit="step", dynamic_ncols=True)

    def write(self, lines: list[dict[str, Any]]) -> None:
        """Write the lines of consecutive steps, oldest first."""
        if self._file is None or self._bar is None or not lines:
            return
        for line in lines:
            self._file.write(json.dumps({"process": self._process, **line}) + "\n")
        self._file.flush()
        last = lines[-1]
        if self._board is not None:
            for name, value in last.items():
                if name != "step":
                    self._board.add_scalar(name, value, last["step"])
        self._bar.set_postfix_str(f"loss {last['loss/total']:.3f}, {last['tokens_per_s']:,.0f} tokens/s", refresh=False)
        self._bar.update(len(lines))

    def event(self, name: str, step: int, message: str) -> None:
        """Record that something out of the ordinary happened behind `step`, beside the lines of the steps."""
        if self._file is not None:
            self._file.write(json.dumps({"process": self._process, "event": name, "step": step, "message": message}) + "\n")
            self._file.flush()

    def close(self) -> None:
        for sink in (self._file, self._board, self._bar):
            if sink is not None:
                sink.close()


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
