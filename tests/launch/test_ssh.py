"""Real sshd in network namespaces: training over a hostfile survives a pulled cable, and nothing is left behind, whatever ends the job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from launch.job import JobFolder
from tests.launch.netns import Hosts, ssh_hosts
from tests.launch.test_slurm import happened, job_file, until
from tests.rwtrain.train.runs import lines, losses, write_settings

ROOT = Path(__file__).parents[2]
WAITS = """
import os, signal, sys, time
def stop(*_): print("saved", flush=True); sys.exit(85)
signal.signal(signal.SIGTERM, stop)
print("rank", os.environ["RANK"], "secret", os.environ["TOKEN"], flush=True)
time.sleep(300)
"""
SECRET = "xyzzy-plugh-4711"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with ssh_hosts(tmp_path_factory.mktemp("ssh") / "hosts", count=3) as up:
        yield up


class Launch:
    """`rwtrain launch ssh` in the hosts' network, in a process of its own."""

    def __init__(self, hosts: Hosts, config: Path, *flags: str, folder: Path, config_file: Path | None = None) -> None:
        hostfile, site = folder / "hostfile", folder / "site.yaml"
        hostfile.write_text("# three hosts, one of them a spare\n" + "".join(f"{name} slots=1\n" for name in hosts.names))
        settings = {"ssh": {"config": str(config_file or hosts.config), "alive_interval_s": 2}, "environment": {"GLOO_SOCKET_IFNAME": "eth0"}}
        site.write_text(yaml.safe_dump(settings))
        quick = ["--job", "preflight.min_free_gb=0.1", "--job", "preflight.min_write_mb_s=0.1", "--job", "supervision.backoff_s=0.2"]
        limits = ["--job", "supervision.lost_after_s=5", "--job", "supervision.kill_after_s=3"]
        command = [sys.executable, "-m", "rwtrain.cli", "launch", "ssh", str(config), "--nodes", "2", "--hostfile", str(hostfile), "--site", str(site)]
        self.output = folder / "launch.output"
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TOKEN_HERE": SECRET, "XDG_STATE_HOME": str(folder / "state")}
        with open(self.output, "wb") as stream:
            self.process = subprocess.Popen(
                [*hosts.prefix, *command, *quick, *limits, *flags], stdout=stream, stderr=stream, env=environment, start_new_session=True
            )

    @property
    def printed(self) -> str:
        return self.output.read_text(errors="replace")


def job_of(output: Path) -> JobFolder:
    (path,) = (output / "launch").iterdir()
    return JobFolder(path)


def test_training_over_a_hostfile_survives_a_pulled_cable(hosts: Hosts, tmp_path: Path, small_settings: dict, undisturbed: dict) -> None:
    run = tmp_path / "run"
    config = write_settings(run, small_settings)
    launch = Launch(hosts, config, folder=tmp_path)
    until(lambda: (run / "metrics.jsonl").exists() and len(lines(run)) >= 12, "twelve steps", 200)
    cut = hosts.names[1]
    hosts.link(cut, "down")
    began = time.monotonic()
    try:
        until(lambda: happened(job_of(run), "outcome"), "the end of the first attempt", 30)
        noticed = time.monotonic() - began
        until(lambda: not hosts.commands(cut), "the end of the processes on the lost host", 30)
        until(lambda: len(happened(job_of(run), "attempt")) == 2, "the second attempt", 40)
        print(f"\nlink down: noticed after {noticed:.1f} s, all gone and started again after {time.monotonic() - began:.1f} s")
        assert time.monotonic() - began < 30
        assert launch.process.wait(200) == 0, launch.printed[-3000:]
    finally:
        hosts.link(cut, "up")
    first, second = happened(job_of(run), "attempt")
    assert (first["hosts"], second["hosts"]) == (hosts.names[:2], [hosts.names[0], hosts.names[2]])
    assert f"({cut}) is lost" in happened(job_of(run), "outcome")[0]["summary"]
    parts = [losses(run, process) for process in (0, 1)]
    assert min(parts[1]) <= max(parts[0]) + 1, "it continued from a checkpoint"
    assert min(parts[1]) > 1, "it did not begin anew"
    assert parts[0] | parts[1] == undisturbed


def waiting_job(tmp_path: Path) -> Path:
    return job_file(
        tmp_path / "job.yaml",
        name="it's $(touch /tmp/rw-pwned)",
        command=[sys.executable, "-c", WAITS],
        processes_per_node=1,
        secrets={"TOKEN": "env:TOKEN_HERE"},
        output="out",
    )


def test_an_interrupt_saves_and_leaves_nothing_behind(hosts: Hosts, tmp_path: Path) -> None:
    launch = Launch(hosts, waiting_job(tmp_path), folder=tmp_path)
    until(lambda: launch.printed.count("secret") == 2, "the start")
    shown = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True).stdout
    assert str(tmp_path) in shown, "the launchers are seen in the process list"
    assert SECRET not in shown
    os.kill(
        int(subprocess.run(["pgrep", "-g", str(launch.process.pid), "-f", "rwtrain.cli"], capture_output=True, text=True).stdout.split()[-1]), signal.SIGINT
    )
    assert launch.process.wait(60) == 85, launch.printed[-2000:]
    assert launch.printed.count("saved") == 2
    assert f"{hosts.names[1]}: rank 1 | rank 1 secret ***" in launch.printed
    until(lambda: not any(hosts.commands(name) for name in hosts.names), "the end of all processes", 10)
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert kept == []
    assert not Path("/tmp/rw-pwned").exists()


def test_a_killed_launcher_takes_the_job_with_it(hosts: Hosts, tmp_path: Path) -> None:
    launch = Launch(hosts, waiting_job(tmp_path), folder=tmp_path)
    until(lambda: launch.printed.count("secret") == 2, "the start")
    os.killpg(launch.process.pid, signal.SIGKILL)
    for entry in subprocess.run(["pgrep", "-f", f"ssh.*{tmp_path}"], capture_output=True, text=True).stdout.split():
        os.kill(int(entry), signal.SIGKILL)
    until(lambda: not any(hosts.commands(name) for name in hosts.names), "the end of all processes", 30)


def test_an_unknown_host_key_is_refused_without_a_question(hosts: Hosts, tmp_path: Path) -> None:
    strangers = tmp_path / "ssh_config"
    strangers.write_text(hosts.config.read_text().replace(str(hosts.known), str(tmp_path / "no_known_hosts")))
    launch = Launch(hosts, waiting_job(tmp_path), "--job", "requeue.on_failure=false", folder=tmp_path, config_file=strangers)
    assert launch.process.wait(60) == 88, launch.printed[-2000:]
    assert "cannot be reached: Host key verification failed." in launch.printed
