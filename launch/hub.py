"""What node 0 decides for the whole job: who is there, whether all are fit, when the ranks start, and how the attempt ended."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch.failure import LOST, STOPPED, UNFIT, Failure, Outcome, first_cause
from launch.job import OUTCOME, PREFLIGHT, Job
from launch.preflight import Report, judge, judge_bandwidth
from launch.ranks import exit_status
from rwtrain.files import write_json

SETTLE_S = 1.0  # between the first failure that is a cause and the verdict
END_S = 5.0  # beyond what the nodes themselves allow their processes
BUILD_S = 300.0  # for each operator to be built
BANDWIDTH = "bandwidth.json"
ASKED_TO_END = {exit_status(-number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}

Message = dict[str, Any]


class Hub:
    """A state machine without sockets: `handle`, `lost` and `tick` go in, `send` comes out.

    Args:
        job: the job.
        attempt: folder of this attempt.
        send: gives a message to a node.
        free_port: a port that is free on node 0.
        event: adds a line to the job's history.
        say: prints a text where people look.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        job: Job,
        attempt: Path,
        *,
        send: Callable[[int, Message], None],
        free_port: Callable[[], int],
        event: Callable[..., None],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.job, self.attempt, self._send, self._free_port, self._event, self._say, self._clock = job, attempt, send, free_port, event, say, clock
        self.nodes = job.spec.nodes
        self.state = "gather"
        self.began = clock()
        self.facts: dict[int, Message] = {}
        self.skew: dict[int, float] = {}
        self.seen: dict[int, float] = {}
        self.ended: dict[int, list[int]] = {}
        self.gone: set[int] = set()
        self.failures: list[Failure] = []
        self.verdict_at: float | None = None
        self.stopping: float | None = None
        self.outcome: Outcome | None = None
        self.over_at = 0.0

    @property
    def over(self) -> bool:
        """Whether the outcome is known and all nodes that came have ended, or have had time enough."""
        return self.outcome is not None and (set(self.seen) <= set(self.ended) | self.gone or self._clock() > self.over_at)

    def handle(self, node: int, message: Message) -> None:
        """Take a node's message."""
        self.seen[node] = self._clock()
        kind = message["kind"]
        if kind == "hello":
            self.facts[node] = message["facts"]
            if self.outcome is not None:
                self._send(node, {"kind": "end", "outcome": self.outcome.to_json()})
                return
            self._send(node, {"kind": "time", "sent": time.time()})
        elif kind == "time":
            self.skew[node] = message["here"] - (message["sent"] + time.time()) / 2
        elif kind == "failed":
            self._failed(node, message)
        elif kind == "ended":
            self.ended[node] = message["codes"]
        elif kind == "signal":
            self.stop(message["number"])
        self.tick()

    def lost(self, node: int, why: str) -> None:
        """A node's connection broke, or it is silent."""
        if node in self.gone:
            return
        self.gone.add(node)
        if self.outcome is None and node not in self.ended:
            self._decide(Outcome("lost", LOST, f"Node {node} ({self._host(node)}) is lost: {why}.", node=node, hosts=[self._host(node)]))

    def stop(self, number: int) -> None:
        """Someone asked for a stop: all ranks get the signal; before they run there is nothing to save."""
        if self.stopping is not None or self.outcome is not None:
            return
        self.stopping = self._clock()
        self._event("stop requested", signal=signal.Signals(number).name)
        if self.state != "run":
            self._decide(Outcome("stopped", STOPPED, "Stopped on request before the processes started."))
            return
        self._broadcast({"kind": "signal", "number": number})

    def abandon(self) -> None:
        """Whoever started the job is gone: it ends."""
        if self.outcome is None:
            self._decide(Outcome("lost", LOST, "The launcher that started this job is gone."))

    def tick(self) -> None:
        """Do what time or the last message made due."""
        now, limits = self._clock(), self.job.spec.supervision
        if self.outcome is not None:
            return
        for node, seen in self.seen.items():
            if node not in self.gone and node not in self.ended and now - seen > limits.lost_after_s:
                self.lost(node, f"no sign of life for {now - seen:.0f} s")
                return
        if self.state == "gather" and len(self.skew) == self.nodes:
            self._judge()
        elif self.state == "gather" and now - self.began > limits.start_s + BUILD_S * len(self.job.spec.preflight.build_ops):
            missing = sorted(set(range(self.nodes)) - set(self.skew))
            self._decide(
                Outcome("lost", LOST, f"Nodes {_listed(missing)} did not report in time (supervision.start_s).", hosts=[self._host(node) for node in missing])
            )
        elif self.state == "bandwidth" and len(self.ended) == self.nodes:
            self._judge_bandwidth()
        elif self.state == "run":
            self._look_at_ends(now)

    def _failed(self, node: int, message: Message) -> None:
        failure = Failure(node, self._host(node), message["rank"], message["code"], message["text"], self._clock())
        self.failures.append(failure)
        wait = self.job.spec.supervision.lost_after_s + SETTLE_S if failure.is_consequence else SETTLE_S
        due = self._clock() + wait
        self.verdict_at = due if self.verdict_at is None else min(self.verdict_at, due)

    def _look_at_ends(self, now: float) -> None:
        everything = {0} if self.job.spec.ray else set(range(self.nodes))
        if everything <= set(self.ended) and not self.failures:
            self._decide(Outcome("done", 0, "All processes have ended well."))
        elif self.failures and (now >= (self.verdict_at or 0) or everything <= set(self.ended)):
            self._decide(self._verdict())
        elif self.stopping is not None and now - self.stopping > self.job.spec.supervision.stop_s:
            limit = self.job.spec.supervision.stop_s
            self._decide(
                Outcome("failed", exit_status(-signal.SIGKILL), f"The processes did not stop within {limit:.0f} s of the request (supervision.stop_s).")
            )

    def _verdict(self) -> Outcome:
        cause = first_cause(self.failures)
        code = 1 if cause.is_consequence else exit_status(cause.code)  # the cause itself is not known: no mistake of the user's
        if code == STOPPED or (self.stopping is not None and code in ASKED_TO_END):
            return Outcome("stopped", STOPPED, "Stopped on request.")
        what = f"was killed by {signal.Signals(-cause.code).name}" if cause.code < 0 else f"ended with status {cause.code}"
        where = f"Rank {cause.rank} on node {cause.node} ({cause.host})"
        return Outcome("failed", code, f"{where} {what}.", rank=cause.rank, node=cause.node, error=cause.text)

    def _judge(self) -> None:
        level = self.job.spec.preflight.level
        report = judge(self.job, self.facts, self.skew) if level != "off" else Report([])
        self._note(report)
        if report.failed:
            return
        if level == "full" and self.nodes > 1:
            self.state = "bandwidth"
            self._broadcast({"kind": "go", "phase": "bandwidth", "port": self._free_port()})
            return
        self._start()

    def _judge_bandwidth(self) -> None:
        try:
            pairs = json.loads((self.attempt / BANDWIDTH).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            words = self.failures[0].text if self.failures else "it wrote no result"
            self._decide(Outcome("unfit", UNFIT, "The bandwidth test between the nodes failed.", error=words))
            return
        self.failures, self.ended, self.verdict_at = [], {}, None
        report = judge_bandwidth(self.job.spec.preflight, pairs, self.facts)
        self._note(report)
        if not report.failed:
            self._start()

    def _note(self, report: Report) -> None:
        """Show and keep a part of the preflight; end the attempt if it refuses nodes."""
        if not report.rows:
            return
        known = report.to_json()
        path = self.attempt / PREFLIGHT
        if path.is_file():
            known = json.loads(path.read_text(encoding="utf-8")) + known
        write_json(path, known)
        self._say(report.table())
        self._event("preflight", verdict=report.verdict)
        if report.failed:
            others = {self._host(node) for node in self.facts} - set(report.hosts)  # nodes of a local job share one host
            self._decide(Outcome("unfit", UNFIT, f"The preflight failed: {report.failures()}.", hosts=report.hosts if others else []))

    def _start(self) -> None:
        if self.job.preflight_only:
            self._decide(Outcome("done", 0, "The preflight passed."))
            return
        self.state = "run"
        self._event("ranks start", seconds=round(self._clock() - self.began, 3))
        self._broadcast({"kind": "go", "phase": "ranks", "port": self._free_port()})

    def _decide(self, outcome: Outcome) -> None:
        self.outcome, self.ended = outcome, {}  # every node says once more that its processes have ended
        limits = self.job.spec.supervision
        self.over_at = self._clock() + END_S + (limits.stop_s if outcome.kind == "stopped" and self.state == "run" else limits.kill_after_s)
        write_json(self.attempt / OUTCOME, outcome.to_json())
        self._event("outcome", outcome=outcome.kind, summary=outcome.summary, code=outcome.code)
        self._broadcast({"kind": "end", "outcome": outcome.to_json()})

    def _broadcast(self, message: Message) -> None:
        for node in range(self.nodes):
            if node not in self.gone and node in self.seen:
                self._send(node, message)

    def _host(self, node: int) -> str:
        return self.facts.get(node, {}).get("host", f"node {node}")


def _listed(numbers: list[int], longest: int = 8) -> str:
    return ", ".join(map(str, numbers[:longest])) + (f" and {len(numbers) - longest} more" if len(numbers) > longest else "")
