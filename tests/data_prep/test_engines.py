"""Engines do the same units with the same result, and say what is missing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from data_prep.engines.ray_cluster import RayCluster
from data_prep.engines.slurm_array import SlurmArray
from data_prep.pipeline import Preparation
from data_prep.plan import Plan
from data_prep.pool import Pool
from data_prep.work import Unit, WorkFolder
from rwtrain.cli import main
from rwtrain.config.load import load_config
from rwtrain.errors import DataError, RWTrainError
from tests.data_prep.builders import prose, write_warc
from tests.data_prep.test_pipeline import digest
from tests.launch.slurm import slurm_cluster

ROOT = Path(__file__).parents[2]
NAMESPACE = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """One file of rows and one crawl, in about twenty units."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": prose(number)}) + "\n" for number in range(120)) + "broken\n")
    write_warc(tmp_path / "pages.warc.gz", 40, first=100)
    text = {
        "unit_bytes": 9000,
        "sources": [
            {"kind": "text", "name": "rows", "paths": [str(tmp_path / "rows.jsonl")]},
            {"kind": "warc", "name": "web", "paths": [str(tmp_path / "pages.warc.gz")]},
        ],
        "repetition": {"enabled": False},
        "tokenizer": {"vocab_size": 400},
    }
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(text))
    return path


def expected(plan: Path, tmp_path: Path) -> dict[str, str]:
    Preparation(Plan.model_validate(yaml.safe_load(plan.read_text())), tmp_path / "expected", workers=1, quiet=True).run()
    return digest(tmp_path / "expected")


def test_a_ray_cluster_that_loses_a_node_gives_the_same_bytes(plan: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    if shutil.which("unshare") is None or subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode != 0:
        pytest.skip("a network namespace of its own cannot be made here, and the cluster is to be reached from nowhere else")
    command = [*NAMESPACE, sys.executable, "-m", "tests.data_prep.ray_run", str(plan), str(tmp_path / "out"), "--lose-a-node"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "lost a node" in done.stdout
    assert digest(tmp_path / "out") == expected(plan, tmp_path)


def test_slurm_array_jobs_give_the_same_bytes(plan: Path, tmp_path: Path) -> None:
    want = expected(plan, tmp_path)
    with slurm_cluster(tmp_path / "slurm"):
        command = ["prep", str(plan), "--out", str(tmp_path / "out"), "--engine", "slurm", "--workers", "3", "--slurm=--mem=200M", "--quiet"]
        assert main(command) == 0
        assert digest(tmp_path / "out") == want
        (logs,) = (tmp_path / "out/work/slurm").glob("ingest-*.logs")
        assert len(list(logs.iterdir())) == 3
        with pytest.raises(RWTrainError, match=r"sbatch failed: .*Correct the options given with --slurm"):
            Preparation(load_config(Plan, plan), tmp_path / "other", engine=SlurmArray(2, options=["--partition=none"]), quiet=True).run()


def test_tasks_that_slurm_loses_are_done_by_another_job(tmp_path: Path) -> None:
    with slurm_cluster(tmp_path / "slurm"):
        pool = Pool(SlurmArray(2), WorkFolder(tmp_path / "work"), quiet=True)
        units = [Unit("dies", f"key{number}", 1, f"number {number}", [number, str(tmp_path)]) for number in range(5)]
        assert [result["number"] for result in pool.run(dies_once, units, label="dies")] == list(range(5))
        assert len(list((tmp_path / "work/slurm").glob("*.sbatch"))) == 2
        broken = [Unit("broken", f"other{number}", 1, f"number {number}", number) for number in range(2)]
        with pytest.raises(DataError, match=r"^pages\.gz: number [01] is bad\. Mend it\.$"):
            pool.run(finds_bad_data, broken, label="broken")


def dies_once(arguments: list, prefix: Path) -> dict[str, int]:
    """The first time that number 2 is done, the task is killed."""
    number, folder = arguments
    mark = Path(folder, "died")
    if number == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"number": number}


def finds_bad_data(number: int, prefix: Path) -> dict[str, int]:
    raise DataError("pages.gz", f"number {number} is bad", "Mend it")


def test_no_slurm_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RWTrainError, match=r"Slurm's sbatch, squeue, scancel is not on this machine's PATH"):
        SlurmArray(2)


def test_no_cluster_at_the_address(plan: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("ray")
    assert main(["prep", str(plan), "--out", str(tmp_path / "out"), "--engine", "ray", "--address", "127.0.0.1:9"]) == 2
    assert "no Ray cluster at '127.0.0.1:9'. Start one with `ray start --head`" in capsys.readouterr().err


def test_ray_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RWTrainError, match=r"pip install 'rwtrain\[ray\]'"):
        RayCluster("auto")


def test_an_error_of_a_unit_in_another_process_names_the_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.gz").write_bytes(b"no labels")
    files = [{"images": str(tmp_path / f"{name}.gz"), "labels": str(tmp_path / f"{name}.gz"), "split": "train"} for name in ("a", "b")]
    source = {"kind": "idx", "name": "i", "files": files, "classes": ["x", "y"], "templates": ["{}"]}
    with pytest.raises(RWTrainError, match=r"[ab]\.gz: cannot be read .*Check the path, or download the file again\.$"):
        Preparation(Plan.model_validate({"sources": [source]}), tmp_path / "out", workers=2, quiet=True).run()
