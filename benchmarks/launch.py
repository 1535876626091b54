"""What launching costs, on a real Slurm and over real ssh on one machine: `python -m benchmarks.launch [--quick]`.

- training_*: a real two-node training (ZeRO-3, two layers, text), from the moment sbatch accepted it to its first reported step, in parts: Slurm's wait and the
  batch step's own start, our code until the ranks start, and the start of Python, torch, DeepSpeed and the engine with the step itself.
- start_overhead_s: from the moment sbatch accepted a two-node job to the first instruction of its ranks, less what Slurm itself takes for a job
  of two steps that does nothing but start Python. Slurm's daemons, namespaces and all nodes share this machine's processors.
- node_lost_gone_s: from killing a node (daemon, step, launcher) to the moment when no process of the job is left and it is requeued.
- cable_gone_s: the same for a host whose link is pulled, until the next attempt starts on a spare host.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from benchmarks.soak import write_settings
from launch.job import JobFolder
from launch.registry import find_job
from rwtrain.cli import main as rwtrain
from tests.launch.netns import ssh_hosts
from tests.launch.slurm import slurm_cluster
from tests.launch.test_slurm import kill_node, processes_of, revive_node

FIRST = "import os, time; print('began', time.time(), flush=True); time.sleep({seconds})"
QUICK = ["--job", "preflight.min_free_gb=0.1", "--job", "preflight.min_write_mb_s=0.1"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two repetitions instead of five")
    arguments = parser.parse_args()
    repeats = 2 if arguments.quick else 5
    with tempfile.TemporaryDirectory(prefix="rwlaunch-") as name:
        folder = Path(name)
        os.environ["XDG_STATE_HOME"] = name
        with slurm_cluster(folder / "slurm", count=3) as daemons:
            plain = [plain_start(folder / f"plain{number}") for number in range(repeats)]
            ours = [our_start(folder / f"ours{number}") for number in range(repeats)]
            training = training_start(folder / "training")
            lost = [lost_node(folder / f"lost{number}", daemons) for number in range(repeats)]
        with ssh_hosts(folder / "hosts", count=3) as hosts:
            cable = [pulled_cable(folder / f"cable{number}", hosts) for number in range(repeats)]
    results = {
        "quick": arguments.quick,
        "start_s": statistics.median(ours),
        "slurm_alone_s": statistics.median(plain),
        "start_overhead_s": statistics.median(ours) - statistics.median(plain),
        "start_overhead_worst_s": max(ours) - min(plain),
        **training,
        "node_lost_gone_s": max(lost),
        "cable_noticed_s": max(noticed for noticed, _ in cable),
        "cable_gone_s": max(gone for _, gone in cable),
        "repeats": repeats,
    }
    for key, value in results.items():
        print(f"{key:<24} {value:.2f}" if isinstance(value, float) else f"{key:<24} {value}")
    print(json.dumps(results))
    return 0


def wait(condition: Callable[[], object], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("what was waited for did not happen")
        time.sleep(0.05)


def began(paths: list[Path]) -> float | None:
    """When the last of the ranks began, once all have."""
    texts = [path.read_text() if path.is_file() else "" for path in paths]
    times = [float(text.split("began ")[1].split()[0]) for text in texts if "began " in text and text.rstrip(" ").endswith("\n")]
    return max(times) if len(times) == len(paths) else None


def plain_start(folder: Path) -> float:
    """Seconds from sbatch's answer to Python's first instruction on both nodes, with nothing of ours."""
    folder.mkdir()
    script = folder / "job.sh"
    script.write_text(
        f'#!/bin/bash\n#SBATCH --nodes=2\n#SBATCH --output={folder}/log\nsrun --output={folder}/rank%t {sys.executable} -c "{FIRST.format(seconds=0)}"\n'
    )
    subprocess.run(["sbatch", "--parsable", str(script)], check=True, capture_output=True)
    accepted = time.time()
    ranks = [folder / "rank0", folder / "rank1"]
    wait(lambda: began(ranks))
    wait(lambda: not subprocess.run(["squeue", "-h"], capture_output=True, text=True).stdout.strip())
    return (began(ranks) or 0) - accepted


def submit(folder: Path, seconds: float, *flags: str) -> JobFolder:
    folder.mkdir()
    job = folder / "job.yaml"
    job.write_text(yaml.safe_dump({"folder": str(folder), "name": "b", "command": [sys.executable, "-c", FIRST.format(seconds=seconds)], "nodes": 2}))
    if rwtrain(["launch", "slurm", str(job), *QUICK, *flags]) != 0:
        raise RuntimeError("the job was not accepted")
    return find_job(str(folder / "runs/b"))


def our_start(folder: Path) -> float:
    """The same for a job of ours, with the quick preflight."""
    job = submit(folder, 0)
    accepted = time.time()  # sbatch has answered
    logs = [job.path / f"attempts/0000/node-{node}.log" for node in (0, 1)]
    wait(lambda: began(logs))
    wait(lambda: not subprocess.run(["squeue", "-h"], capture_output=True, text=True).stdout.strip())
    return (began(logs) or 0) - accepted


def training_start(folder: Path) -> dict[str, float]:
    """Seconds of the parts of a training's start."""
    folder.mkdir()
    settings = write_settings(folder, steps=3) | {"run": str(folder / "run")}
    (folder / "train.yaml").write_text(yaml.safe_dump(settings))
    if rwtrain(["launch", "slurm", str(folder / "train.yaml"), "--nodes", "2", *QUICK]) != 0:
        raise RuntimeError("the job was not accepted")
    accepted = time.time()
    job, metrics = find_job(str(folder / "run")), folder / "run/metrics.jsonl"
    wait(lambda: metrics.is_file() and '"step": 1' in metrics.read_text(), 200)
    stepped = time.time()
    times = {event["event"]: event["time"] for event in job.events()}
    wait(lambda: not subprocess.run(["squeue", "-h"], capture_output=True, text=True).stdout.strip(), 200)
    return {
        "training_first_step_s": stepped - accepted,
        "training_slurm_s": times["batch step"] - accepted,
        "training_ours_s": times["ranks start"] - times["batch step"],
        "training_program_s": stepped - times["ranks start"],
    }


def lost_node(folder: Path, daemons: dict[str, subprocess.Popen]) -> float:
    """Seconds from a node's death until nothing of the job runs and it is requeued; limits as they are by default."""
    job = submit(folder, 300)
    wait(lambda: began([job.path / f"attempts/0000/node-{node}.log" for node in (0, 1)]))
    (attempt,) = [event for event in job.events() if event["event"] == "attempt"]
    host = attempt["hosts"][1]
    start = time.monotonic()
    kill_node(daemons, host, job)
    wait(lambda: any(event["event"] == "requeue" for event in job.events()) and not processes_of(job))
    seconds = time.monotonic() - start
    number = json.loads((job.path / "submission.json").read_text())["number"]
    subprocess.run(["scancel", number])
    subprocess.run(["scontrol", "update", f"NodeName={host}", "State=DOWN", "Reason=test"], check=True)
    revive_node(daemons, host)
    wait(lambda: subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout.split() == ["idle"])
    return seconds


def pulled_cable(folder: Path, hosts) -> tuple[float, float]:
    """(seconds until noticed, until nothing runs on the lost host and the next attempt has started), limits as they are by default."""
    folder.mkdir()
    (folder / "hosts").write_text("".join(f"{name} slots=1\n" for name in hosts.names))
    (folder / "job.yaml").write_text(
        yaml.safe_dump({"folder": str(folder), "name": "b", "command": [sys.executable, "-c", FIRST.format(seconds=60)], "nodes": 2})
    )
    command = [sys.executable, "-m", "rwtrain.cli", "launch", "ssh", str(folder / "job.yaml"), "--hostfile", str(folder / "hosts"), *QUICK]
    with open(folder / "printed", "wb") as stream:
        launcher = subprocess.Popen([*hosts.prefix, *command, "--site-set", f"ssh.config={hosts.config}"], stdout=stream, stderr=stream)
    try:
        wait(lambda: (folder / "printed").read_text().count("began") == 2)
        job = find_job(str(folder / "runs/b"))
        hosts.link(hosts.names[1], "down")
        start = time.monotonic()
        wait(lambda: any(event["event"] == "outcome" for event in job.events()))
        noticed = time.monotonic() - start
        wait(lambda: not hosts.commands(hosts.names[1]) and sum(event["event"] == "attempt" for event in job.events()) == 2)
        return noticed, time.monotonic() - start
    finally:
        hosts.link(hosts.names[1], "up")
        for _ in range(2):
            launcher.send_signal(2)
            time.sleep(0.5)
        launcher.wait(60)


if __name__ == "__main__":
    sys.exit(main())
