"""A real Slurm: jobs are submitted, preempted, requeued, lose nodes, and end with the losses of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from launch.job import JobFolder
from launch.registry import find_job
from rwtrain.cli import main
from tests.launch.slurm import slurm_cluster
from tests.rwtrain.train.runs import lines, losses, write_settings

QUICK = ["--job", "preflight.min_free_gb=0.1", "--job", "preflight.min_write_mb_s=0.1", "--job", "supervision.backoff_s=0.2"]
WAITS = """
import os, signal, sys, time
def stop(*_): time.sleep(0.5); sys.exit(85)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGUSR1, stop)
print("attempt", os.environ["RWTRAIN_ATTEMPT"], "rank", os.environ["RANK"], flush=True)
time.sleep(0.2 if os.environ["RWTRAIN_ATTEMPT"] == "1" else 300)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, subprocess.Popen]]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm") / "cluster", count=3) as daemons:
        yield daemons


def submit(config: Path, *flags: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, JobFolder]:
    """(number, folder) of a job submitted with `rwtrain launch slurm`."""
    capsys.readouterr()
    assert main(["launch", "slurm", str(config), "--parsable", *QUICK, *flags]) == 0
    number = capsys.readouterr().out.strip()
    return number, find_job(number)


def until(condition: Callable[[], object], what: str, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {timeout_s} s"
        time.sleep(0.1)


def happened(folder: JobFolder, kind: str) -> list[dict]:
    return [event for event in folder.events() if event["event"] == kind]


def state(number: str) -> str:
    text = subprocess.run(["scontrol", "-o", "show", "job", number], capture_output=True, text=True).stdout
    return text.partition("JobState=")[2].split(" ")[0]


def hurry(number: str) -> None:
    """Slurm holds a requeued job back for two minutes; not here."""
    subprocess.run(["scontrol", "update", f"JobId={number}", "StartTime=now"], capture_output=True)


def job_file(path: Path, **values: object) -> Path:
    path.write_text(yaml.safe_dump({"folder": str(path.parent), **values}))
    return path


def test_a_preempted_training_is_requeued_and_ends_like_an_undisturbed_one(cluster, tmp_path, small_settings, undisturbed, capsys) -> None:
    config = write_settings(tmp_path / "run", small_settings)
    number, folder = submit(config, "--nodes", "2", capsys=capsys)
    until(lambda: len(lines(tmp_path / "run")) >= 10 if (tmp_path / "run/metrics.jsonl").exists() else False, "ten steps")
    subprocess.run(["sbatch", "--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"], check=True, capture_output=True)
    until(lambda: happened(folder, "requeue"), "the requeue")
    until(lambda: hurry(number) or len(happened(folder, "attempt")) == 2, "the second attempt")
    until(lambda: state(number) == "COMPLETED", "the end")
    parts = [losses(tmp_path / "run", process) for process in (0, 1)]
    assert 10 <= max(parts[0]) < len(undisturbed) == max(parts[1])
    assert min(parts[1]) == max(parts[0]) + 1, "the agreed save lost no step and repeated none"
    assert parts[0] | parts[1] == undisturbed
    times = {event["event"]: event["time"] for event in reversed(list(folder.events()))}
    own = times["ranks start"] - times["batch step"]
    print(f"\nbatch step to ranks: {own:.2f} s; submission to ranks: {times['ranks start'] - times['submit']:.2f} s")
    assert (folder.path / "code/rwtrain/cli.py").is_file()
    assert "torch==" in (folder.path / "environment.txt").read_text()
    assert yaml.safe_load((folder.path / "config.yaml").read_text())["steps"] == len(undisturbed)


def test_the_time_limit_is_announced_and_the_job_goes_on_in_the_queue(cluster, tmp_path, capsys) -> None:
    job = job_file(tmp_path / "job.yaml", name="waits", command=[sys.executable, "-c", WAITS], nodes=2, processes_per_node=1, time_limit="00:01:00")
    number, folder = submit(job, "--job", "requeue.signal_before_s=58", capsys=capsys)
    until(lambda: happened(folder, "requeue"), "the requeue")  # Slurm looks at limits about twice a minute
    assert [event["signal"] for event in happened(folder, "stop requested")] == ["SIGUSR1"]
    assert happened(folder, "outcome")[0]["outcome"] == "stopped"
    until(lambda: hurry(number) or len(happened(folder, "attempt")) == 2, "the second attempt")
    until(lambda: state(number) == "COMPLETED", "the end")
    assert "attempt 1 rank 0" in (folder.path / "attempts/0001/node-0.log").read_text()


def test_a_lost_node_is_noticed_excluded_and_replaced(cluster, tmp_path, capsys) -> None:
    job = job_file(tmp_path / "job.yaml", name="waits", command=[sys.executable, "-c", WAITS], nodes=2, processes_per_node=1)
    number, folder = submit(job, "--job", "supervision.lost_after_s=4", "--job", "supervision.kill_after_s=2", capsys=capsys)
    log = folder.path / "attempts/0000/node-1.log"
    until(lambda: log.is_file() and "attempt 0" in log.read_text(), "the start")
    (attempt,) = happened(folder, "attempt")
    host = attempt["hosts"][1]
    began = time.time()
    kill_node(cluster, host, folder)
    try:
        until(lambda: happened(folder, "requeue"), "the requeue", 30)
        (outcome,) = happened(folder, "outcome")
        assert outcome["outcome"] == "lost"
        assert host in outcome["summary"]
        assert happened(folder, "requeue")[0]["exclude"] == [host]
        assert not processes_of(folder)
        print(f"\nnode lost: noticed after {outcome['time'] - began:.1f} s, all gone and requeued after {time.time() - began:.1f} s")
        assert time.time() - began < 30
        subprocess.run(["scontrol", "update", f"NodeName={host}", "State=DOWN", "Reason=test"], check=True)  # Slurm itself takes minutes to see it
        until(lambda: hurry(number) or len(happened(folder, "attempt")) == 2, "the second attempt")
        assert host not in happened(folder, "attempt")[1]["hosts"]
        until(lambda: state(number) == "COMPLETED", "the end")
    finally:
        revive_node(cluster, host)


def processes_of(folder: JobFolder) -> list[int]:
    """Processes whose environment names the job and that train or launch."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"RWTRAIN_JOB={folder.path}".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def kill_node(cluster: dict[str, subprocess.Popen], host: str, folder: JobFolder) -> None:
    """Kill a node's daemon, its step and the launcher, as a power cut would."""
    victims = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment, words = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if f"SLURMD_NODENAME={host}".encode() in environment.split(b"\0") and b"launch.node" in words:
            victims += [int(entry.name), int((entry / "stat").read_text().rpartition(")")[2].split()[1])]
    assert victims
    cluster["node" + host.removeprefix("n")].kill()
    for victim in victims:
        os.kill(victim, signal.SIGKILL)


def revive_node(cluster: dict[str, subprocess.Popen], host: str) -> None:
    daemon = cluster["node" + host.removeprefix("n")]
    again = subprocess.Popen(
        daemon.args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin"}, start_new_session=True
    )
    daemon.pid, daemon.returncode = again.pid, None  # the fixture ends it
    subprocess.run(["scontrol", "update", f"NodeName={host}", "State=RESUME"], capture_output=True)


@pytest.mark.parametrize("how", ["launch cancel", "scancel"])
def test_a_cancelled_job_saves_and_does_not_start_again(how, cluster, tmp_path, capsys) -> None:
    job = job_file(tmp_path / "job.yaml", name="waits", command=[sys.executable, "-c", WAITS], nodes=2, processes_per_node=1)
    number, folder = submit(job, capsys=capsys)
    log = folder.path / "attempts/0000/node-0.log"
    until(lambda: log.is_file() and "attempt 0" in log.read_text(), "the start")
    if how == "scancel":
        subprocess.run(["scancel", number], check=True)
    else:
        assert main(["launch", "cancel", number]) == 0
    until(lambda: state(number) in ("CANCELLED", "COMPLETED", "FAILED"), "the end")
    assert happened(folder, "outcome")[0]["outcome"] == "stopped"
    assert happened(folder, "decision")[0]["action"] == "finish"
    assert main(["launch", "status", number, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["state"] == "CANCELLED"


def test_a_chain_runs_in_order_and_a_failure_stops_it(cluster, tmp_path, capsys) -> None:
    write = "import pathlib, sys; pathlib.Path(sys.argv[1]).touch(); assert all(pathlib.Path(name).exists() for name in sys.argv[2:])"
    first = job_file(tmp_path / "prep.yaml", name="prep", command=[sys.executable, "-c", write + "; import time; time.sleep(1)", "prep"], output="a")
    second = job_file(tmp_path / "train.yaml", name="train", command=[sys.executable, "-c", write, "train", "prep"], output="b")
    third = job_file(tmp_path / "export.yaml", name="export", command=[sys.executable, "-c", "import sys; sys.exit(2)"], output="c")
    fourth = job_file(tmp_path / "never.yaml", name="never", command=[sys.executable, "-c", write, "never"], output="d")
    capsys.readouterr()
    assert main(["launch", "slurm", str(first), str(second), str(third), str(fourth), "--parsable", *QUICK]) == 0
    numbers = capsys.readouterr().out.split()
    assert len(numbers) == 4
    until(lambda: state(numbers[2]) == "FAILED" and state(numbers[3]) in ("CANCELLED", ""), "the end")
    assert [state(number) for number in numbers[:2]] == ["COMPLETED", "COMPLETED"]
    assert (tmp_path / "train").exists()
    assert not (tmp_path / "never").exists()


def test_array_tasks_get_their_numbers(cluster, tmp_path, capsys) -> None:
    code = "import os, pathlib; pathlib.Path('task' + os.environ['RWTRAIN_TASK']).write_text(os.environ['WORD'])"
    job = job_file(tmp_path / "job.yaml", name="tasks", command=[sys.executable, "-c", code], array=3, environment={"WORD": "a 'b' $(c)"})
    submit(job, capsys=capsys)
    until(lambda: all((tmp_path / f"task{task}").is_file() for task in range(3)), "the tasks")
    assert [(tmp_path / f"task{task}").read_text() for task in range(3)] == ["a 'b' $(c)"] * 3
