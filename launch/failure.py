"""How a job ended, and what its first failing rank said."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

STOPPED, USER_ERROR, DIVERGED, LOST, UNFIT, GIVEN_UP = 85, 2, 86, 88, 89, 90  # exit statuses; 85 to 87 are those of `rwtrain train`
LINES_KEPT, LINES_SHOWN = 200, 40
TRACEBACK = "Traceback (most recent call last):"
# What a rank says when another one is gone: gloo, NCCL, torch's store, and rwtrain's own words.
CONSEQUENCE = re.compile(
    r"lost the connection to another rank|gloo/transport|Connection (reset|closed) by peer|ncclRemoteError|remote process exited|"
    r"TCPStore.*(timed out|Broken pipe|recvValue failed)|Broken pipe|NCCL.*(peer|aborted)"
)

Kind = Literal["done", "stopped", "failed", "lost", "unfit"]


@dataclass(frozen=True)
class Outcome:
    """The end of one attempt.

    Attributes:
        kind: done; stopped on request, with a checkpoint; failed, a process did; lost, a node is gone or never came; unfit, the preflight refused nodes.
        code: exit status of the attempt.
        summary: one sentence for people.
        rank, node: where it began, if it began at one place.
        hosts: names of the machines to blame, which a restart should avoid.
        error: what the first failing rank wrote last.
    """

    kind: Kind
    code: int
    summary: str
    rank: int | None = None
    node: int | None = None
    hosts: list[str] = field(default_factory=list)
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> Outcome:
        return Outcome(**values)

    def headline(self) -> str:
        """The sentence, and below it the error."""
        return self.summary + ("\n" + "\n".join(f"    {line}" for line in self.error.splitlines()) if self.error else "")


@dataclass(frozen=True)
class Failure:
    """A process that ended with something else than 0."""

    node: int
    host: str
    rank: int
    code: int
    text: str
    time: float

    @property
    def is_consequence(self) -> bool:
        """Whether it only noticed that another process is gone."""
        return self.code > 0 and bool(CONSEQUENCE.search(self.text))


def last_words(lines: Sequence[str]) -> str:
    """The error in a process's last lines: its last traceback to the end, else the last `error:`, else the last lines."""
    starts = [number for number, line in enumerate(lines) if line.startswith(TRACEBACK)]
    if not starts:
        starts = [number for number, line in enumerate(lines) if re.match(r"\w*error\b", line, re.IGNORECASE)]
    chosen = list(lines[starts[-1] :]) if starts else list(lines[-LINES_SHOWN // 2 :])
    if len(chosen) > LINES_SHOWN:
        chosen = [*chosen[: LINES_SHOWN // 4], "…", *chosen[-LINES_SHOWN * 3 // 4 :]]
    return "\n".join(chosen)


def first_cause(failures: Sequence[Failure]) -> Failure:
    """The failure that most likely brought the others about: a killed process first, then the earliest that is no consequence."""
    return min(failures, key=lambda failure: (failure.is_consequence, failure.code >= 0, failure.time))
