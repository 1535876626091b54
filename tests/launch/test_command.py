"""`rwtrain launch` from end to end on this machine, and its words to people."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from launch.local import free_port
from launch.registry import find_job
from rwtrain.cli import main
from tests.launch.test_slurm import happened, job_file, until

ROOT = Path(__file__).parents[2]
QUICK = [
    "--job",
    "preflight.min_free_gb=0.1",
    "--job",
    "preflight.min_write_mb_s=0.1",
    "--job",
    "supervision.backoff_s=0.1",
    "--job",
    "supervision.kill_after_s=1",
]
NAMESPACE = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def launch(*words: str | Path) -> int:
    return main(["launch", *map(str, words)])


def test_a_job_runs_with_its_snapshot_environment_and_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FROM_SHELL", "hunter2-from-shell")
    (tmp_path / "key").write_text("hunter2-from-file\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/__init__.py").write_text("VALUE = 'as submitted'\n")
    code = "import os, mine, rwtrain; print(os.environ['A'], os.environ['B'], os.environ['WORD'], mine.VALUE, rwtrain.__file__)"
    job = job_file(
        tmp_path / "job.yaml",
        name="its name",
        command=[sys.executable, "-c", code],
        code=["mine"],
        environment={"WORD": "two words"},
        secrets={"A": "env:FROM_SHELL", "B": f"file:{tmp_path / 'key'}"},
    )
    assert launch("local", job, *QUICK) == 0
    folder = find_job(str(tmp_path / "runs/its-name"))
    assert f"task | *** *** two words as submitted {folder.path}/code/rwtrain/__init__.py" in capfd.readouterr().out
    kept = [path for path in folder.path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert kept == []
    capfd.readouterr()
    assert launch("status", folder.path) == 0
    assert "its name  local" in capfd.readouterr().out.splitlines()[0]
    assert launch("status") == 0
    assert "COMPLETED" in capfd.readouterr().out
    assert launch("logs", folder.path, "--lines", "1") == 0
    assert "two words" in capfd.readouterr().out


def test_the_first_error_is_shown_once_at_the_top_of_the_status(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = "import os, time\nif os.environ['RANK'] == '5': raise ValueError('boom of ' + os.environ['RANK'])\ntime.sleep(60)"
    job = job_file(tmp_path / "job.yaml", name="fails", command=[sys.executable, "-c", code], nodes=3, processes_per_node=2)
    began = time.monotonic()
    assert launch("local", job, *QUICK, "--job", "supervision.crash_loop=1") == 1
    assert time.monotonic() - began < 30
    folder = find_job(str(tmp_path / "runs/fails"))
    capfd.readouterr()
    assert launch("status", folder.path) == 0
    shown = capfd.readouterr().out
    assert shown.count("boom of 5") == 1
    assert shown.splitlines()[2].startswith("failure   Rank 5 on node 2")
    assert launch("status", folder.path, "--json") == 0
    values = json.loads(capfd.readouterr().out)
    assert (values["state"], values["outcome"]["rank"]) == ("FAILED", 5)


def test_detached_cancelled_and_submitted_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = "import os, signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(85))\nprint('up', flush=True)\ntime.sleep(0 if os.path.exists('go') else 60)"
    job = job_file(tmp_path / "job.yaml", name="long", command=[sys.executable, "-c", code], nodes=2)
    assert launch("local", job, *QUICK, "--detach", "--parsable") == 0
    number = capfd.readouterr().out.strip()
    folder = find_job(number)
    until(lambda: (folder.path / "attempts/0000/node-1.log").is_file() and "up" in (folder.path / "attempts/0000/node-1.log").read_text(), "the start")
    assert launch("resubmit", number) == 2
    assert "is running: cancel it first" in capfd.readouterr().err
    assert launch("cancel", number) == 0
    until(lambda: happened(folder, "decision"), "the end")
    assert happened(folder, "outcome")[0]["outcome"] == "stopped"
    (tmp_path / "go").touch()
    until(lambda: launch("resubmit", number) == 0, "the end of the launcher")
    assert [event["number"] for event in happened(folder, "attempt")] == [0, 1]
    assert happened(folder, "outcome")[-1]["outcome"] == "done"


def test_preflight_alone_measures_every_pair(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    job = job_file(tmp_path / "job.yaml", name="check", command=["never"], nodes=2, data=["job.yaml"])
    assert launch("preflight", "local", job, *QUICK, "--job", "preflight.bandwidth_mb=1") == 0
    shown = capfd.readouterr().out
    assert "between 1 pairs" in shown
    for check in ("nodes", "versions", "clocks", "output folder", "write speed", "bandwidth"):
        assert any(line.split("|")[-1].strip().startswith(check) and " ok " in line for line in shown.splitlines()), check
    job = job_file(tmp_path / "job.yaml", name="check", command=["never"], nodes=2, data=["no-such-data"])
    assert launch("preflight", "local", job, *QUICK) == 89
    said = capfd.readouterr()
    assert "No such file or directory" in said.err
    assert "Another attempt" not in said.out
    assert launch("local", job, *QUICK) == 89  # both nodes miss it, and share this host: no other would help
    assert "Another attempt" not in capfd.readouterr().out


def test_a_chain_stops_at_the_first_failure(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    jobs = [
        job_file(tmp_path / f"{name}.yaml", name=name, command=[sys.executable, "-c", f"open({name!r}, 'w'); exit({code})"])
        for name, code in (("one", 0), ("two", 2), ("three", 0))
    ]
    assert launch("local", *jobs, *QUICK) == 2
    assert [(tmp_path / name).exists() for name in ("one", "two", "three")] == [True, True, False]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sources": []}, "looks like a preparation plan"),
        ({"command": ["x"], "nodse": 2}, "did you mean `nodes`"),
        ({"command": ["x"], "train": "y"}, "give either `train`"),
        ({"command": ["x"], "time_limit": "1 day"}, 'write it as "HH:MM:SS"'),
        ({"command": ["x"], "secrets": {"A": "env:NOT_SET_ANYWHERE"}}, "NOT_SET_ANYWHERE is not set in this shell"),
        ({"command": ["x"], "environment": {"RANK": "1"}}, "RANK is set by the launcher"),
        ({"command": ["x"], "environment": {"A=B": "1"}}, "cannot be the name of an environment variable"),
        ({"command": ["x"], "array": 2}, "tasks of an array need Slurm or Kubernetes"),
        ({"train": "missing.yaml"}, "missing.yaml: cannot be read"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(values: dict, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**values} if "sources" in values else {"folder": str(tmp_path), **values}))
    assert launch("local", tmp_path / "job.yaml") == 2
    assert words in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_unknown_jobs_and_missing_profiles(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert launch("status", "4711") == 2
    assert "no such job" in capfd.readouterr().err
    assert launch("local", ROOT / "examples/pretrain.yaml", "--site", tmp_path / "none.yaml") == 2
    assert "no such site profile" in capfd.readouterr().err
    assert launch("ssh", ROOT / "examples/pretrain.yaml", "--dry-run") == 2
    assert "Give --hostfile" in capfd.readouterr().err


def test_the_example_profile_and_jobs_are_valid(capfd: pytest.CaptureFixture[str]) -> None:
    site = ["--site", ROOT / "examples/launch/site.yaml"]
    for name in ("prep.yaml", "prep-ray.yaml", "export.yaml"):
        assert launch("slurm", ROOT / "examples/launch" / name, *site, "--dry-run") == 0, name
    assert "#SBATCH --partition=gpu" in capfd.readouterr().out


def test_a_ray_cluster_over_the_nodes(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    if shutil.which("unshare") is None or subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode != 0:
        pytest.skip("a network namespace of its own cannot be made here, and the cluster is to be reached from nowhere else")
    code = "import os, ray; ray.init(os.environ['RAY_ADDRESS'], log_to_driver=False); print(len(ray.nodes()), ray.get(ray.remote(lambda: 6 * 7).remote()))"
    job = job_file(tmp_path / "job.yaml", name="ray", command=[sys.executable, "-c", code], nodes=2, ray=True)
    command = [*NAMESPACE, sys.executable, "-m", "rwtrain.cli", "launch", "local", str(job), *QUICK, "--job", "supervision.kill_after_s=5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "task | 2 42" in done.stdout


def test_an_interrupt_ends_a_job_that_shows_its_output(tmp_path: Path) -> None:
    job = job_file(
        tmp_path / "job.yaml",
        name="stubborn",
        command=[sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(99)"],
    )
    command = [sys.executable, "-m", "rwtrain.cli", "launch", "local", str(job), *QUICK]
    with open(tmp_path / "shown", "wb") as stream:
        process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream, env=os.environ | {"PYTHONPATH": str(ROOT)})
    until(lambda: "task | up" in (tmp_path / "shown").read_text(), "the start")
    process.send_signal(signal.SIGINT)
    until(lambda: "once more ends them" in (tmp_path / "shown").read_text(), "the answer")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 88


def test_a_node_whose_launcher_is_gone_does_not_wait_for_node_0(tmp_path: Path) -> None:
    job = job_file(tmp_path / "job.yaml", name="alone", command=[sys.executable, "-c", "pass"])
    assert launch("local", job, *QUICK) == 0
    folder = find_job(str(tmp_path / "runs/alone"))
    command = [sys.executable, "-m", "launch.node", str(folder.path), "--node", "1", "--attempt", "9", "--hub", f"127.0.0.1:{free_port()}", "--lifeline"]
    began = time.monotonic()
    done = subprocess.run(command, input=b'{"secrets": {}}\n', cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 88
    assert time.monotonic() - began < 20
