"""Restart budget, back-off, crash loops, what is final, and the notification."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from launch.failure import Outcome
from launch.hostfile import choose_hosts, read_hostfile
from launch.job import JobFolder
from launch.prepare import prepare
from launch.site import Site
from launch.spec import JobSpec
from launch.supervise import Ledger, decide, supervise
from rwtrain.errors import ConfigError, DataError

CRASH = Outcome("failed", 1, "Rank 3 ended with status 1.", rank=3, node=0, error="ValueError: boom")
LOST = Outcome("lost", 88, "Node 1 (b) is lost.", node=1, hosts=["b"])
STOPPED = Outcome("stopped", 85, "Stopped on request.")


def spec(**supervision: Any) -> JobSpec:
    return JobSpec(train="x.yaml", supervision={"backoff_s": 4, "max_backoff_s": 20, **supervision})  # type: ignore[arg-type]


def judge(outcome: Outcome, job: JobSpec, ledger: Ledger, progress: str = "", **changes: Any):
    return decide(outcome, job, ledger, **{"progress": progress, "lasted_s": 1.0, "user_stop": False, **changes})


def test_waits_double_without_progress_and_start_again_with_it() -> None:
    ledger, job = Ledger(), spec(crash_loop=100)
    waits = [judge(CRASH, job, ledger, "step-1").wait_s for _ in range(5)]
    assert waits == [4, 4 * 2, 4 * 4, 20, 20]  # the first attempt made the progress to step-1
    assert judge(CRASH, job, ledger, "step-2").wait_s == 4


def test_a_crash_loop_ends_the_job_with_its_own_status() -> None:
    ledger, job = Ledger(), spec(crash_loop=3)
    assert [judge(CRASH, job, ledger).action for _ in range(2)] == ["again", "again"]
    last = judge(CRASH, job, ledger)
    assert (last.action, last.code) == ("finish", 1)
    assert "3rd failure in a row without a newer checkpoint: a crash loop" in last.reason


def test_progress_gives_the_budget_back_and_without_it_the_budget_ends() -> None:
    job, ledger = spec(max_restarts=2, crash_loop=100), Ledger()
    assert all(judge(CRASH, job, ledger, f"step-{number}").action == "again" for number in range(20))
    assert [judge(LOST, job, ledger, "step-19").action for _ in range(2)] == ["again", "finish"]


def test_stops_are_continued_for_ever_and_cost_nothing() -> None:
    ledger, job = Ledger(), spec(max_restarts=1)
    decisions = [judge(STOPPED, job, ledger, "step-5") for _ in range(9)]
    assert {decision.action for decision in decisions} == {"again"}
    assert ledger.restarts == 0


@pytest.mark.parametrize("code", [2, 86, 126, 127])
def test_what_would_end_in_the_same_way_is_not_tried_again(code: int) -> None:
    decision = judge(Outcome("failed", code, "Ended."), spec(), Ledger())
    assert (decision.action, decision.code) == ("finish", code)


def test_policies_and_people_end_a_job() -> None:
    no = JobSpec(command=["x"], requeue={"on_stop": False, "on_failure": False})  # type: ignore[arg-type]
    assert [judge(outcome, no, Ledger()).action for outcome in (STOPPED, CRASH, LOST)] == ["finish"] * 3
    assert judge(STOPPED, spec(), Ledger(), user_stop=True).code == 85
    assert judge(Outcome("unfit", 89, "The preflight failed.", hosts=[]), spec(), Ledger()).action == "finish"


def test_lost_and_unfit_nodes_are_avoided() -> None:
    ledger = Ledger()
    assert judge(LOST, spec(), ledger).exclude == ("b",)
    assert judge(Outcome("unfit", 89, "GPUs.", hosts=["c"]), spec(), ledger).action == "again"
    assert judge(Outcome("unfit", 89, "GPUs.", hosts=["d"]), spec(), Ledger(), preflight_only=True).action == "finish"
    assert ledger.excluded == ["b", "c"]


def test_the_ledger_and_the_notification_outlive_the_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = [sys.executable, "-c", f"import sys; open({str(tmp_path / 'notes')!r}, 'a').write(sys.stdin.read())"]
    job = JobSpec(command=["x"], folder=str(tmp_path), supervision={"backoff_s": 0, "crash_loop": 2, "notify": note})  # type: ignore[arg-type]
    described, folder, _ = prepare(job, Site(), backend="local")
    folder.create(described)
    numbers: list[int] = []

    def attempt(number: int, ledger: Ledger) -> Outcome:
        numbers.append(number)
        return LOST if number == 0 else CRASH

    assert supervise(folder, attempt, again=lambda decision: True, user_stop=lambda: False) == 88  # handed over to a queue
    assert supervise(JobFolder(folder.path), attempt, again=lambda decision: False, user_stop=lambda: False) == 1
    assert numbers == [0, 1]
    notes = [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]
    assert [(note["outcome"], note["action"], note["code"]) for note in notes] == [("lost", "again", 88), ("failed", "finish", 1)]
    assert notes[1]["error"] == "ValueError: boom"
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith("launch | Rank 3 ended with status 1.")
    assert shown[1] == "launch |     ValueError: boom"


def test_a_notification_that_fails_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = JobSpec(command=["x"], folder=str(tmp_path), supervision={"notify": ["/no/such/program"]})  # type: ignore[arg-type]
    described, folder, _ = prepare(job, Site(), backend="local")
    folder.create(described)
    assert supervise(folder, lambda number, ledger: Outcome("done", 0, "Done."), again=lambda decision: False, user_stop=lambda: False) == 0
    assert "the notification program failed" in capsys.readouterr().err


def test_a_hostfile_of_deepspeed_is_read(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# GPUs\nworker-1 slots=8\n\nworker-2   slots = 4  # half\n10.0.0.7\nfe80::1%eth0 slots=8\n")
    hosts = read_hostfile(file)
    assert [(host.name, host.slots) for host in hosts] == [("worker-1", 8), ("worker-2", 4), ("10.0.0.7", None), ("fe80::1%eth0", 8)]
    assert [host.name for host in choose_hosts(hosts, nodes=2, gpus=8, excluded=["worker-1"])] == ["10.0.0.7", "fe80::1%eth0"]
    assert [host.name for host in choose_hosts(hosts, nodes=3, gpus=8, excluded=["worker-1"])] == ["worker-1", "10.0.0.7", "fe80::1%eth0"]
    with pytest.raises(ConfigError, match="has 3 hosts with 8 slots or more, and the job needs 4"):
        choose_hosts(hosts, nodes=4, gpus=8, excluded=[])


@pytest.mark.parametrize(
    ("line", "words"),
    [("-oProxyCommand=touch slots=8", "line 2"), ("a b c", "line 2"), ("a slots=x", "line 2"), ("a$(x) slots=8", "line 2"), ("ok slots=8", "twice")],
)
def test_a_line_that_is_no_host_is_named(line: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(f"ok slots=8\n{line}\n")
    with pytest.raises(DataError, match=words):
        read_hostfile(tmp_path / "hosts")


def test_events_keep_any_text(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    text = "a\u2028b\u2029c\x85d\x0c\r\ne"
    folder.event("outcome", error=text)
    folder.event("end")
    assert [(event["event"], event.get("error")) for event in folder.events()] == [("outcome", text), ("end", None)]
