"""Profiler traces of some steps, on request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import torch

ROWS_OF_TABLE = 30


class StepProfiler:
    """Records the operations of the steps from first to last of one rank, with shapes and memory.

    Writes RUN/profile/steps-FIRST-LAST.json, for chrome://tracing or ui.perfetto.dev, and .txt, a table of what took longest. Use as a
    context manager: what was recorded when the loop ends early is written, too.

    Args:
        steps: (first, last), counted from 1; None records nothing.
    """

    def __init__(self, run: Path, steps: Sequence[int] | None) -> None:
        self.run, self.steps = run, steps
        self._profile: torch.profiler.profile | None = None

    def begin(self, step: int) -> None:
        """Step `step` begins."""
        if self.steps is not None and self._profile is None and step == self.steps[0]:
            self._profile = torch.profiler.profile(record_shapes=True, profile_memory=True)
            self._profile.start()

    def end(self, step: int) -> None:
        """Step `step` has ended."""
        if self.steps is not None and step == self.steps[1]:
            self._write()

    def __enter__(self) -> StepProfiler:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._write()

    def _write(self) -> None:
        if self._profile is None or self.steps is None:
            return
        profile, self._profile = self._profile, None
        profile.stop()
        folder = self.run / "profile"
        folder.mkdir(exist_ok=True)
        path = folder / f"steps-{self.steps[0]}-{self.steps[1]}.json"
        profile.export_chrome_trace(str(path))
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        path.with_suffix(".txt").write_text(profile.key_averages().table(sort_by=order, row_limit=ROWS_OF_TABLE), encoding="utf-8")
