"""Stop requests: a signal to any rank becomes, at the next step, an agreed stop of all."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """Remembers SIGTERM and SIGUSR1 instead of dying of them, from its construction to the end of the process.

    A signal while the model is still being built is remembered, too, and one that comes after the last step does not turn a
    finished run into a failed one.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.requested = False
        for number in self.SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
