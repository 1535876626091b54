"""What node 0 decides, with a clock of the test's own: who failed first, who is lost, when a job may start."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from launch.failure import last_words
from launch.hub import Hub
from launch.job import Job
from launch.preflight import Report, judge_bandwidth
from launch.site import Site
from launch.spec import JobSpec, PreflightConfig

FACTS = {
    "versions": {"python": "3.11.7", "torch": "2.13.0", "deepspeed": "0.19.8", "transformers": "5.23.0"},
    "gpus": [],
    "disk": {"free_gb": 100.0, "write_mb_s": 500.0},
    "data": {"/d": "0123456789abcdef"},
    "shm_gb": 16.0,
    "ops": {},
}
TRACE = "Traceback (most recent call last):\n  File x\nValueError: boom"


class Stage:
    """A hub, its clock and what it sends."""

    def __init__(self, tmp_path: Path, nodes: int, **spec: Any) -> None:
        self.now = 0.0
        self.sent: list[tuple[int, dict]] = []
        values = {"command": ["x"], "nodes": nodes, "data": ["/d"], **spec}
        self.job = Job(
            id="i", backend="slurm", spec=JobSpec(**values), site=Site(), argv=["x"], folder="/", output=str(tmp_path), data=["/d"], python="python3"
        )
        self.said: list[str] = []
        self.hub = Hub(
            self.job,
            tmp_path,
            send=lambda node, message: self.sent.append((node, message)),
            free_port=lambda: 4242,
            event=lambda kind, **details: None,
            say=self.said.append,
            clock=lambda: self.now,
        )

    def hello(self, node: int, skew: float = 0.0, **facts: Any) -> None:
        self.hub.handle(node, {"kind": "hello", "facts": {"host": f"h{node}", **FACTS, **facts}})
        sent = next(message["sent"] for to, message in reversed(self.sent) if to == node and message["kind"] == "time")
        self.hub.handle(node, {"kind": "time", "sent": sent, "here": sent + skew})

    def start(self) -> None:
        for node in range(self.job.spec.nodes):
            self.hello(node)
        assert self.kinds()[-self.job.spec.nodes :] == ["go"] * self.job.spec.nodes

    def kinds(self) -> list[str]:
        return [message["kind"] for _, message in self.sent]

    def wait(self, seconds: float, *, silent: tuple[int, ...] = ()) -> None:
        """Let time pass; nodes that are not silent go on sending signs of life."""
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            for node in range(self.job.spec.nodes):
                if node not in silent:
                    self.hub.handle(node, {"kind": "beat"})
            self.hub.tick()

    def fail(self, node: int, rank: int, code: int, text: str) -> None:
        self.hub.handle(node, {"kind": "failed", "rank": rank, "code": code, "text": text})


def test_the_cause_is_named_not_those_that_noticed_first(tmp_path: Path) -> None:
    stage = Stage(tmp_path, 3)
    stage.start()
    stage.fail(0, 0, 2, "error: Rank 0 lost the connection to another rank")
    stage.wait(0.5)
    stage.fail(2, 2, 1, TRACE)
    stage.wait(2)
    outcome = stage.hub.outcome
    assert outcome is not None
    assert (outcome.kind, outcome.code, outcome.rank, outcome.node, outcome.error) == ("failed", 1, 2, 2, TRACE)


def test_a_killed_rank_is_the_cause_though_another_failed_before(tmp_path: Path) -> None:
    stage = Stage(tmp_path, 2)
    stage.start()
    stage.fail(0, 0, 1, TRACE)
    stage.fail(1, 1, -9, "")
    stage.wait(2)
    assert stage.hub.outcome is not None
    assert (stage.hub.outcome.rank, stage.hub.outcome.code) == (1, 137)
    assert "SIGKILL" in stage.hub.outcome.summary


def test_when_only_consequences_are_seen_a_silent_node_gets_the_time_to_be_found(tmp_path: Path) -> None:
    stage = Stage(tmp_path, 3, supervision={"lost_after_s": 10})
    stage.start()
    stage.fail(0, 0, 1, "RuntimeError: [..] gloo/transport/tcp/pair.cc: Connection closed by peer")
    stage.wait(12, silent=(2,))
    outcome = stage.hub.outcome
    assert outcome is not None
    assert (outcome.kind, outcome.node, outcome.hosts) == ("lost", 2, ["h2"])


def test_a_silent_node_is_lost_after_its_time_and_not_before(tmp_path: Path) -> None:
    stage = Stage(tmp_path, 2, supervision={"lost_after_s": 10})
    stage.start()
    stage.wait(9.5, silent=(1,))
    assert stage.hub.outcome is None
    stage.wait(1.5, silent=(1,))
    assert stage.hub.outcome is not None
    assert stage.hub.outcome.hosts == ["h1"]
    assert [node for node, message in stage.sent if message["kind"] == "end"] == [0]


def test_nodes_that_never_come_are_named(tmp_path: Path) -> None:
    stage = Stage(tmp_path, 3, supervision={"start_s": 60})
    stage.hello(0)
    stage.hello(2)
    for _ in range(610):
        stage.now += 0.1
        for node in (0, 2):
            stage.hub.handle(node, {"kind": "beat"})
    assert stage.hub.outcome is not None
    assert "Nodes 1 did not report" in stage.hub.outcome.summary


def test_a_stop_is_agreed_and_waits_for_all(tmp_path: Path) -> None:
    stage = Stage(tmp_path, 2)
    stage.start()
    stage.hub.stop(signal.SIGUSR1)
    assert [(node, message["number"]) for node, message in stage.sent if message["kind"] == "signal"] == [(0, signal.SIGUSR1), (1, signal.SIGUSR1)]
    stage.fail(0, 0, 85, "")
    stage.wait(1.5)
    assert stage.hub.outcome is not None
    assert stage.hub.outcome.kind == "stopped"
    assert not stage.hub.over
    for node in (0, 1):
        stage.hub.handle(node, {"kind": "ended", "codes": [85]})
    assert stage.hub.over


def test_a_program_that_dies_of_the_signal_counts_as_stopped(tmp_path: Path) -> None:
    stage = Stage(tmp_path, 1)
    stage.start()
    stage.hub.stop(signal.SIGTERM)
    stage.fail(0, 0, -signal.SIGTERM, "")
    stage.wait(1.5)
    assert stage.hub.outcome is not None
    assert (stage.hub.outcome.kind, stage.hub.outcome.code) == ("stopped", 85)


def test_a_stop_before_the_ranks_start_needs_no_save(tmp_path: Path) -> None:
    stage = Stage(tmp_path, 2)
    stage.hello(0)
    stage.hub.stop(signal.SIGTERM)
    assert stage.hub.outcome is not None
    assert stage.hub.outcome.kind == "stopped"
    assert not stage.hub.over
    stage.hub.handle(0, {"kind": "ended", "codes": []})
    assert stage.hub.over, "node 1 never came, and nobody waits for it"
    stage.hub.handle(1, {"kind": "hello", "facts": {"host": "h1", **FACTS}})
    assert stage.kinds()[-1] == "end", "if it comes all the same it is told"


def gpu(name: str = "H100", errors: str = "0", driver: str = "580.1") -> dict[str, str]:
    return {"name": name, "driver_version": driver, "memory.total": "81559", "ecc.errors.uncorrected.volatile.total": errors}


GOOD: dict[str, Any] = {"gpus": [gpu(), gpu()]}


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"gpus": [gpu()]}, "1 of 2 GPUs"),
        ({"gpus": "nvidia-smi is not installed"}, "nvidia-smi is not installed"),
        ({"gpus": [gpu(), gpu(errors="3")]}, "GPU 1 has uncorrected memory errors"),
        ({"gpus": [gpu(), gpu(name="A100")]}, "GPUs of different kinds"),
        ({"versions": FACTS["versions"] | {"torch": "2.12.0"}}, "torch 2.12.0, others 2.13.0"),
        ({"data": {"/d": "error: Permission denied"}}, "Permission denied"),
        ({"data": {"/d": "fedcba9876543210"}}, "differs from what most nodes see"),
        ({"disk": {"free_gb": 3.0, "write_mb_s": 500.0}}, "3.0 GB free, 10 GB wanted"),
        ({"disk": {"error": "Read-only file system"}}, "not writable: Read-only file system"),
        ({"disk": {"free_gb": 30.0, "write_mb_s": 1.0}}, "1.0 MB/s, 20 wanted"),
        ({"ops": {"cpu_adam": "CalledProcessError: ninja"}}, "CalledProcessError: ninja"),
    ],
)
def test_a_preflight_blames_the_node_that_is_not_fit(facts: dict, words: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path, 3, gpus_per_node=2, preflight={"build_ops": ["cpu_adam"]})
    built = {"ops": {"cpu_adam": "built"}}
    for node in (0, 2):
        stage.hello(node, **GOOD, **built)
    stage.hello(1, **(GOOD | built | facts))
    outcome = stage.hub.outcome
    assert outcome is not None
    assert (outcome.kind, outcome.code, outcome.hosts) == ("unfit", 89, ["h1"])
    assert words in outcome.summary
    assert "FAIL" in stage.said[0]
    assert "[h1]" in stage.said[0]


def test_clocks_that_differ_are_a_warning(tmp_path: Path) -> None:
    stage = Stage(tmp_path, 3)
    stage.hello(0)
    stage.hello(1)
    stage.hello(2, skew=7.5)
    assert stage.hub.state == "run"
    assert "clocks" in stage.said[0]
    (line,) = [line for line in stage.said[0].splitlines() if "clocks" in line]
    assert "warn" in line
    assert "7.5 s apart" in line
    assert "[h2]" in line


def test_slow_pairs_blame_the_node_they_share() -> None:
    facts = {node: {"host": f"h{node}"} for node in range(4)}
    pairs = [{"a": a, "b": b, "gb_s": 2.0 if 3 in (a, b) else 40.0} for a in range(4) for b in range(a + 1, 4)]
    report = judge_bandwidth(PreflightConfig(expected_gb_s=40.0), pairs, facts)
    assert report.failed
    assert report.hosts == ["h3"]
    assert not judge_bandwidth(PreflightConfig(), [{"a": 0, "b": 1, "gb_s": 0.1}], facts).failed
    assert Report.from_json(report.to_json()) == report


@pytest.mark.parametrize("count", [2, 3, 8, 9])
def test_every_pair_meets_once_and_no_node_has_two_partners_at_a_time(count: int) -> None:
    from launch.bandwidth import rounds

    met = []
    for pairs in rounds(count):
        nodes = [node for pair in pairs for node in pair]
        assert len(nodes) == len(set(nodes))
        met += pairs
    assert sorted(met) == [(a, b) for a in range(count) for b in range(a + 1, count)]


def test_last_words_are_the_error_not_the_noise() -> None:
    noise = [f"step {number}" for number in range(150)]
    assert last_words([*noise, *TRACE.splitlines()]) == TRACE
    assert last_words([*noise, "error: no such file", "more"]) == "error: no such file\nmore"
    assert len(last_words(noise).splitlines()) == 20
    long = ["Traceback (most recent call last):", *(f"frame {number}" for number in range(120)), "KeyError: 1"]
    shown = last_words(long).splitlines()
    assert len(shown) < 45
    assert shown[0] == long[0]
    assert shown[-1] == "KeyError: 1"
