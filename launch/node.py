"""The launcher's process on each node: `python -m launch.node JOB_FOLDER`. It looks at its node, starts the ranks, watches them, and ends them.

Node 0's also holds the hub, which decides for all. Whatever starts these processes (srun, ssh, a pod, this machine) only has to say which node
is which and where node 0 is. One thread, one loop: pipes, connections and clocks; only the first look at the node has a thread of its own.
"""

from __future__ import annotations

import argparse
import hmac
import json
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from launch.environment import ATTEMPT_VARIABLE, HUB_VARIABLE, node_environment
from launch.failure import LOST, Outcome, last_words
from launch.hub import BANDWIDTH, Hub
from launch.job import JobFolder, read_secrets
from launch.output import Output
from launch.preflight import probe
from launch.ranks import QUIET_S, Processes, Start, exit_status, rank_variables
from launch.wire import Message, Wire
from rwtrain.errors import RWTrainError

BEAT_S, TICK_S, RETRY_S, DRAIN_S = 2.0, 0.05, 0.2, 1.0
FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
NODE_VARIABLES = ("RWTRAIN_NODE", "SLURM_NODEID", "JOB_COMPLETION_INDEX", "PET_NODE_RANK", "RANK")
LAUNCHER = "launch"


class Node:
    """One node's side of an attempt.

    Args:
        number: of this node, from 0.
        hub: (host, port) of node 0.
        host: what the scheduler calls this machine.
        lifeline: standard input says who wants what, and its end means that nobody is there any more.
        show: "all" lines on standard output, those of rank 0 and the launcher ("main"), or "none".
    """

    def __init__(self, folder: JobFolder, *, number: int, attempt: int, hub: tuple[str, int], host: str, lifeline: bool, show: str) -> None:
        self.folder, self.job, self.number, self.hub_place, self.host = folder, folder.job, number, hub, host
        self.attempt = folder.attempt(attempt)
        self.attempt.mkdir(parents=True, exist_ok=True)
        self.selector = selectors.DefaultSelector()
        given = self._open_lifeline() if lifeline else {}
        secrets = read_secrets(self.job.spec, given)
        shown = {"all": None, "main": {LAUNCHER, "rank 0", "task"} if number == 0 else set(), "none": set()}[show]
        label = f"{host}: " if show == "all" and self.job.spec.nodes > 1 else ""
        self.output = Output(self.attempt / f"node-{number}.log", shown=shown, secrets=secrets.values(), label=label)
        self.environment = self._environment(secrets, attempt)
        self.processes: Processes | None = None
        self.phase = ""
        self.noticed: dict[int, float] = {}  # process -> when its end was seen
        self.reported: set[int] = set()
        self.sent_end = False
        self.outcome: Outcome | None = None
        self.signals: list[int] = []
        self.hub: Hub | None = None
        self.wire: Wire | None = None  # to the hub; None on node 0
        self.members: dict[int, Wire] = {}
        self.token = folder.token
        self.facts: Message | None = None
        self.deadline = time.monotonic() + self.job.spec.supervision.start_s
        self.next_beat = self.next_try = self.heard = 0.0
        self.alive = True

    def run(self) -> int:
        """Take part in the attempt; return its exit status."""
        for number in FORWARDED:
            signal.signal(number, lambda received, _: self.signals.append(received))
        if self.number == 0:
            self._open_hub()
        threading.Thread(target=self._look, daemon=True).start()
        try:
            while not self._over():
                for key, _ in self.selector.select(TICK_S):
                    key.data(key.fileobj)
                self._work()
        finally:
            if self.processes is not None:
                self.processes.kill()
        if self.outcome is None:
            return LOST
        if self.number == 0 and self.outcome.kind != "done":
            self._say(self.outcome.headline())
        return self.outcome.code

    def _work(self) -> None:
        now = time.monotonic()
        if self.number != 0 and self.wire is None and now >= self.next_try:
            self._connect(now)
        while self.signals:
            self._tell({"kind": "signal", "number": self.signals.pop(0)})
        if now >= self.next_beat:
            self.next_beat = now + BEAT_S
            self._beat()
        if self.facts is not None and (self.number == 0 or self.wire is not None):
            facts, self.facts = self.facts, None
            self._tell({"kind": "hello", "facts": facts})
        if self.processes is not None:
            self._watch(self.processes)
        elif self.outcome is not None and not self.sent_end:
            self.sent_end = True
            self._tell({"kind": "ended", "codes": []})
        if self.hub is not None:
            self.hub.tick()
        elif self.wire is not None and self.outcome is None and now - self.heard > self.job.spec.supervision.lost_after_s:
            self._lose_hub("node 0 is silent")

    def _over(self) -> bool:
        if self.hub is not None:
            return self.hub.over and self.sent_end
        return (self.outcome is not None or not self.alive) and (self.processes is None or (self.sent_end and not self.processes.running()))

    def _look(self) -> None:
        """Examine this node, in a thread: building operators or a slow disk must not stop the heartbeat."""
        self.facts = {"host": self.host} | probe(self.job, scratch=self.attempt)

    def _beat(self) -> None:
        if self.hub is None:
            if self.wire is not None:
                self._tell({"kind": "beat"})
            return
        self.hub.seen[0] = time.monotonic()
        for member in list(self.members):
            self._send(member, {"kind": "beat"})

    def _watch(self, processes: Processes) -> None:
        """Report processes that have failed, and the end of all."""
        processes.tick()
        codes = processes.codes()
        for index, code in enumerate(codes):
            if code is not None:
                self.noticed.setdefault(index, time.monotonic())
            failed = code is not None and (code != 0 or self._is_service(index))
            if failed and index not in self.reported and self.outcome is None and self._drained(index):
                self.reported.add(index)
                text = last_words(list(self.output.tails.get(processes.names[index], ())))
                self._tell({"kind": "failed", "rank": self._rank(index), "code": code or 1, "text": text})
        awaited = [index for index in range(len(codes)) if self.outcome is not None or not self._is_service(index)]
        if awaited and not self.sent_end and all(index in self.noticed and self._drained(index) for index in awaited):
            self.sent_end = True
            self._tell({"kind": "ended", "codes": [codes[index] for index in awaited]})

    def _drained(self, index: int) -> bool:
        """Whether everything that an ended process wrote has been read; a grandchild that keeps its pipe open is not waited for long."""
        stream = self.processes.children[index].stdout if self.processes else None
        return stream is None or stream.closed or time.monotonic() - self.noticed[index] > DRAIN_S

    def _tell(self, message: Message) -> None:
        """To the hub."""
        if self.hub is not None:
            self.hub.handle(0, message)
        elif self.wire is not None:
            try:
                self.wire.send(message)
            except ConnectionError as error:
                self._lose_hub(str(error))
        elif message["kind"] == "signal":  # nobody to agree with yet
            self.alive = False

    def _take(self, message: Message) -> None:
        """From the hub."""
        self.heard = time.monotonic()
        kind = message["kind"]
        if kind == "time":
            self._tell({"kind": "time", "sent": message["sent"], "here": time.time()})
        elif kind == "go":
            self._start(message["phase"], message["port"])
        elif kind == "signal" and self.processes is not None:
            number = message["number"]
            self.processes.send(signal.SIGTERM if number == signal.SIGINT else number)
        elif kind == "end":
            self._end(Outcome.from_json(message["outcome"]))

    def _end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        if self.processes is None:
            return
        limits = self.job.spec.supervision
        self.sent_end = False
        if outcome.kind == "stopped":
            self.processes.end_within(quiet_s=limits.stop_s, grace_s=limits.kill_after_s)
        else:
            self.processes.end_within(quiet_s=QUIET_S if outcome.kind == "failed" else 0.0, grace_s=limits.kill_after_s)

    def _lose_hub(self, why: str) -> None:
        if self.wire is not None:
            self.selector.unregister(self.wire)
            self.wire.close()
            self.wire = None
        self.next_try = float("inf")
        if self.outcome is None:
            self.output.line(LAUNCHER, f"node {self.number} lost node 0 ({why}): its processes end")
            self.alive = False
            self._end(Outcome("lost", LOST, "Node 0 is lost.", node=0))
            self.outcome = None
            self.sent_end = True

    def _open_hub(self) -> None:
        self.hub = Hub(self.job, self.attempt, send=self._send, free_port=self._free_port, event=self.folder.event, say=self._say)
        server = socket.create_server(("", self.hub_place[1]), family=socket.AF_INET, backlog=1024)
        server.setblocking(False)
        self.selector.register(server, selectors.EVENT_READ, self._accept)

    def _say(self, text: str) -> None:
        for line in text.splitlines():
            self.output.line(LAUNCHER, line)

    def _free_port(self) -> int:
        with socket.socket() as free:
            free.bind(("", 0))
            return int(free.getsockname()[1])

    def _accept(self, server: Any) -> None:
        connection, _ = server.accept()
        wire = Wire(connection)
        self.selector.register(wire, selectors.EVENT_READ, self._greet)

    def _greet(self, wire: Any) -> None:
        """The first message says who is there; a stranger is sent away."""
        try:
            messages = wire.receive()
        except ConnectionError:
            messages = [{"kind": "none"}]
        if not messages:
            return
        self.selector.unregister(wire)
        first = messages.pop(0)
        number = first.get("node")
        if (
            first["kind"] != "node"
            or not hmac.compare_digest(str(first.get("token")).encode(), self.token.encode())
            or number not in range(1, self.job.spec.nodes)
            or number in self.members
            or self.hub is None
        ):
            wire.close()
            return
        self.members[number] = wire
        self.hub.seen[number] = time.monotonic()
        self.selector.register(wire, selectors.EVENT_READ, lambda wire: self._hear(number, wire))
        for message in messages:
            self.hub.handle(number, message)

    def _hear(self, number: int, wire: Wire) -> None:
        assert self.hub is not None
        try:
            for message in wire.receive():
                self.hub.handle(number, message)
        except ConnectionError as error:
            self.selector.unregister(wire)
            wire.close()
            self.hub.lost(number, str(error))

    def _send(self, number: int, message: Message) -> None:
        """From the hub to a node."""
        if number == 0:
            self._take(message)
            return
        wire = self.members.get(number)
        if wire is not None and wire.fileno() >= 0:
            try:
                wire.send(message)
            except ConnectionError as error:
                self.selector.unregister(wire)
                wire.close()
                if self.hub is not None:
                    self.hub.lost(number, str(error))

    def _connect(self, now: float) -> None:
        self.next_try = now + RETRY_S
        if now > self.deadline:
            self.output.line(LAUNCHER, f"node {self.number} cannot reach node 0 at {self.hub_place[0]}:{self.hub_place[1]}")
            self.alive, self.next_try = False, float("inf")
            return
        try:
            connection = socket.create_connection(self.hub_place, timeout=5.0)
        except OSError:
            return
        self.wire, self.heard = Wire(connection), time.monotonic()
        self.selector.register(self.wire, selectors.EVENT_READ, self._hear_hub)
        self._tell({"kind": "node", "node": self.number, "token": self.token})

    def _hear_hub(self, wire: Any) -> None:
        try:
            for message in wire.receive():
                self._take(message)
        except ConnectionError as error:
            self._lose_hub(str(error))

    def _open_lifeline(self) -> dict[str, str]:
        """Read the first line, the secrets; watch for the rest."""
        first = b""
        while not first.endswith(b"\n") and (byte := os.read(sys.stdin.fileno(), 1)):  # unbuffered: what follows belongs to the loop
            first += byte
        os.set_blocking(sys.stdin.fileno(), False)
        self._typed = b""
        self.selector.register(sys.stdin, selectors.EVENT_READ, self._hear_launcher)
        return json.loads(first)["secrets"] if first.strip() else {}

    def _hear_launcher(self, stream: Any) -> None:
        chunk = os.read(stream.fileno(), 4096)
        if not chunk:  # the launcher is gone: nobody would ever end these processes
            self.selector.unregister(stream)
            if self.hub is not None:
                self.hub.abandon()
            elif self.wire is None:
                self.alive, self.next_try = False, float("inf")
            return
        *lines, self._typed = (self._typed + chunk).split(b"\n")
        self.signals += [int(json.loads(line)["signal"]) for line in lines]

    def _start(self, phase: str, port: int) -> None:
        self.phase, self.noticed, self.reported, self.sent_end = phase, {}, set(), False
        starts = self._bandwidth_test(port) if phase == "bandwidth" else self._commands(port)
        try:
            self.processes = Processes(starts, environment=self.environment, folder=self.job.folder, pipes=True)
        except OSError as error:
            self._tell(
                {"kind": "failed", "rank": self._rank(0), "code": 127, "text": f"error: {starts[0].command[0]}: {error.strerror} (in {self.job.folder})"}
            )
            self._tell({"kind": "ended", "codes": [127]})
            self.sent_end = True
            return
        for child, name in zip(self.processes.children, self.processes.names, strict=True):
            assert child.stdout is not None
            self.selector.register(child.stdout, selectors.EVENT_READ, lambda stream, name=name: self._read(name, stream))

    def _read(self, name: str, stream: Any) -> None:
        if not self.output.read(name, stream):
            self.selector.unregister(stream)
            stream.close()

    def _commands(self, port: int) -> list[Start]:
        spec, host = self.job.spec, self.hub_place[0]
        if spec.ray:
            from launch.ray_cluster import starts

            return starts(self.job, self.folder, number=self.number, address=host, port=port)
        ranks = spec.ranks_per_node
        if not spec.distributed:
            return [Start(self.job.argv, {}, "task")]
        sizes = {"world_size": spec.world_size, "local_world_size": ranks, "port": port}
        places = [(self.number * ranks + local, local) for local in range(ranks)]
        return [Start(self.job.argv, rank_variables(rank=rank, local_rank=local, address=host, **sizes), f"rank {rank}") for rank, local in places]

    def _bandwidth_test(self, port: int) -> list[Start]:
        nodes = self.job.spec.nodes
        variables = rank_variables(rank=self.number, local_rank=0, world_size=nodes, local_world_size=1, address=self.hub_place[0], port=port)
        command = [sys.executable, "-m", "launch.bandwidth", str(self.job.spec.preflight.bandwidth_mb), str(self.attempt / BANDWIDTH)]
        return [Start(command, variables, "bandwidth")]

    def _rank(self, index: int) -> int:
        return self.number * self.job.spec.ranks_per_node + index if self.phase == "ranks" else self.number

    def _is_service(self, index: int) -> bool:
        """Whether a process runs until it is ended (Ray's daemons), so that its end is a failure."""
        return self.phase == "ranks" and self.job.spec.ray and not (self.number == 0 and index == 1)

    def _environment(self, secrets: dict[str, str], attempt: int) -> dict[str, str]:
        return node_environment(self.job, self.folder, secrets=secrets) | {ATTEMPT_VARIABLE: str(attempt)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a node; exit status as in `launch.failure`."""
    parser = argparse.ArgumentParser(prog="python -m launch.node", description="The launcher's process on one node; started by `rwtrain launch`.")
    parser.add_argument("folder", help="the job's folder")
    parser.add_argument("--node", type=int, help=f"number of this node (default: the first of {', '.join(NODE_VARIABLES)} that is set)")
    parser.add_argument("--attempt", type=int, help=f"number of the attempt (default: {ATTEMPT_VARIABLE})")
    parser.add_argument("--hub", help=f"HOST:PORT of node 0 (default: {HUB_VARIABLE})")
    parser.add_argument("--host", help="what the scheduler calls this machine (default: SLURMD_NODENAME, NODE_NAME or the host's own name)")
    parser.add_argument("--lifeline", action="store_true", help="take secrets and signals from standard input, and stop at its end")
    parser.add_argument("--show", choices=("all", "main", "none"), default="main", help="whose lines go to standard output")
    options = parser.parse_args(arguments)
    number = options.node if options.node is not None else next((int(os.environ[name]) for name in NODE_VARIABLES if name in os.environ), 0)
    attempt = options.attempt if options.attempt is not None else int(os.environ.get(ATTEMPT_VARIABLE, "0"))
    own_name = options.host or os.environ.get("SLURMD_NODENAME") or os.environ.get("NODE_NAME") or os.uname().nodename
    host, _, port = (options.hub or os.environ.get(HUB_VARIABLE, "127.0.0.1:29400")).rpartition(":")
    try:
        folder = JobFolder.open(options.folder)
        return Node(folder, number=number, attempt=attempt, hub=(host, int(port)), host=own_name, lifeline=options.lifeline, show=options.show).run()
    except RWTrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(exit_status(code))  # the thread that looks at the node may still wait for a disk
