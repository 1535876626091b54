"""Stop requests: a signal to any rank becomes, at the next step, an agreed stop of all."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """Remembers SIGTERM and SIGUSR1 instead of dying of them; use as a context manager around the loop."""

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, object] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def __enter__(self) -> StopRequest:
        for number in self.SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
