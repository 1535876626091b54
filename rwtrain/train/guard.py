"""Which steps count: losses that are not finite and spikes are skipped, several in a row rewind the run, too many rewinds end it."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from typing import Literal

from rwtrain.config.schema import GuardConfig
from rwtrain.errors import RWTrainError

EXIT_DIVERGED = 86  # rewound as often as allowed, and still no step that counts
SMALLEST_DEVIATION = 0.01  # of the mean: a loss that hardly moves must not turn its own noise into spikes


class Diverged(RWTrainError):
    """Training cannot go on by itself."""


class Guard:
    """Keeps the losses of the steps that counted. All ranks see the same losses, so all decide alike without asking.

    Args:
        history: losses of the last steps that counted, oldest first, after a resume.
    """

    def __init__(self, config: GuardConfig, history: Iterable[float] = ()) -> None:
        self.config = config
        self.losses: deque[float] = deque(history, maxlen=config.spike_window)
        self.skipped_in_row = 0
        self.rewinds = 0

    @property
    def limit(self) -> float:
        """The largest loss that is no spike: mean + sigmas · deviation over the window; infinite until the window is full."""
        if not self.config.spike_sigmas or len(self.losses) < self.config.spike_window:
            return math.inf
        mean = statistics.fmean(self.losses)
        return mean + self.config.spike_sigmas * max(statistics.pstdev(self.losses), SMALLEST_DEVIATION * abs(mean))

    def reason(self, loss: float, limit: float, *, applied: bool) -> str | None:
        """Why a step was skipped, in a word or two; None if it counted.

        Args:
            limit: `limit` as it was when the step was judged.
            applied: whether the optimiser made the update.
        """
        if applied:
            return None
        if not math.isfinite(loss):
            return "loss not finite"
        return "loss spike" if loss > limit else "gradient not finite"

    def note(self, loss: float, reason: str | None) -> Literal["go on", "rewind", "give up"]:
        """Record a step; return what is to be done."""
        if reason is None:
            self.losses.append(loss)
            self.skipped_in_row = 0
            return "go on"
        self.skipped_in_row += 1
        if self.skipped_in_row < self.config.max_skips:
            return "go on"
        self.skipped_in_row = 0
        self.rewinds += 1
        self.losses.clear()  # the losses of an earlier checkpoint are higher, and no spikes
        return "rewind" if self.rewinds <= self.config.max_rewinds else "give up"
