from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rwtrain.errors import ConfigError, DataError
from rwtrain.knowledge.checkpoint import CHECKPOINT, LATEST
from rwtrain.knowledge.evaluate import evaluate_link_prediction
from rwtrain.knowledge.store import EntityStore
from rwtrain.knowledge.training import Trainer, train_transe
from rwtrain.knowledge.transe import TransEConfig
from rwtrain.knowledge.writing import Rejects, entity_batch, write_store

SIDE = 8
STEPS = ((1, 0), (0, 1), (1, 1), (2, 0), (0, 2))


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """The places of a grid and five relations that step from place to place: translations, which TransE can learn."""
    rows = [{"id": f"Q{number}", "wikidata_id": "", "label": f"n{number}", "description": "", "aliases": []} for number in range(SIDE * SIDE)]
    found = [(x * SIDE + y, kind, (x + right) * SIDE + y + up) for kind, (right, up) in enumerate(STEPS) for x in range(SIDE - right) for y in range(SIDE - up)]
    triples = np.random.default_rng(0).permutation(np.array(found, np.int32))
    splits = {"valid": triples[:20], "test": triples[20:40], "train": triples[40:]}
    relations = [(f"step {kind}", "") for kind in range(len(STEPS))]
    write_store(tmp_path / "grid", entities=[entity_batch(rows)], relations=relations, triples=splits, rejects=Rejects(), provenance={})
    return tmp_path / "grid"


SETTINGS = {"dimension": 16, "batch_size": 16, "negatives": 16, "epochs": 60, "evaluate_every": 20, "checkpoint_seconds": 0.05, "seed": 1}


def test_training_learns_and_writes_vectors_and_curve(grid: Path) -> None:
    store = EntityStore.open(grid)
    details = train_transe(store, TransEConfig(**SETTINGS), progress=False)
    assert details["steps"] == 60 * 14
    assert [entry["epoch"] for entry in details["history"] if "mrr" in entry] == [20, 40, 60]
    figures = evaluate_link_prediction(store)
    assert figures["mrr"] > 3 * figures["chance_mrr"]
    assert (grid / "transe" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert not (grid / CHECKPOINT).exists()


def test_killed_and_resumed_run_gives_the_same_vectors(grid: Path, tmp_path: Path) -> None:
    settings = SETTINGS | {"epochs": 120}
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from rwtrain.knowledge.store import EntityStore\nfrom rwtrain.knowledge.transe import TransEConfig\n"
        "from rwtrain.knowledge.training import Trainer, train_transe\n"
        f"train_transe(EntityStore.open(sys.argv[1]), TransEConfig(**{settings!r}), progress=False)"
    )
    command = [sys.executable, "-c", code, str(grid)]
    process = subprocess.Popen(command)
    while not (grid / CHECKPOINT / LATEST).exists():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (grid / "transe").exists()
    subprocess.run(command, check=True)
    resumed = np.array(EntityStore.open(grid).vectors)
    assert not (grid / CHECKPOINT).exists()
    for path in (grid / "transe").iterdir():
        path.unlink()
    (grid / "transe").rmdir()
    subprocess.run(command, check=True)
    assert np.array_equal(np.array(EntityStore.open(grid).vectors), resumed)


def train_by_command(store: Path, settings: dict, *, processes: int) -> subprocess.Popen[bytes]:
    arguments = [f"--set={key}={value}" for key, value in settings.items()]
    return subprocess.Popen([sys.executable, "-m", "rwtrain.cli", "kg", "train", str(store), "--processes", str(processes), *arguments])


@pytest.mark.parametrize("optimizer", ["adagrad", "adam"])
def test_ranks_that_share_the_rows_train_as_one_process(grid: Path, tmp_path: Path, optimizer: str) -> None:
    settings = SETTINGS | {"epochs": 4, "evaluate_every": 2, "optimizer": optimizer, "learning_rate": 0.05}
    alone = train_transe(EntityStore.open(grid), TransEConfig(**settings), progress=False)
    shutil.copytree(grid, tmp_path / "shared", ignore=shutil.ignore_patterns("transe"))
    assert train_by_command(tmp_path / "shared", settings, processes=2).wait() == 0
    shared = EntityStore.open(tmp_path / "shared")
    for one, other in zip(alone["history"], shared.vectors_manifest["history"], strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other.get("mrr", 0) == pytest.approx(one.get("mrr", 0), rel=1e-2)
    np.testing.assert_allclose(shared.vectors, EntityStore.open(grid).vectors, atol=1e-4)
    np.testing.assert_allclose(shared.relation_vectors, EntityStore.open(grid).relation_vectors, atol=1e-4)
    assert sorted(path.name for path in shared.folder.iterdir()) == sorted(path.name for path in grid.iterdir())


def test_a_killed_job_of_two_ranks_goes_on_in_one_process(grid: Path, tmp_path: Path) -> None:
    settings = SETTINGS | {"epochs": 40, "evaluate_every": 0, "learning_rate": 0.02, "optimizer": "adam"}
    train_transe(EntityStore.open(grid), TransEConfig(**settings), progress=False)
    shutil.copytree(grid, tmp_path / "killed", ignore=shutil.ignore_patterns("transe"))
    job = train_by_command(tmp_path / "killed", settings, processes=2)
    latest = tmp_path / "killed" / CHECKPOINT / LATEST
    while not latest.exists():
        assert job.poll() is None, "the job ended before it could be killed"
        time.sleep(0.002)
    for child in subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True, check=True).stdout.split():
        os.kill(int(child), signal.SIGKILL)
    assert job.wait() == 128 + signal.SIGKILL
    assert json.loads(latest.read_text())["ranks"] == 2
    resumed = train_transe(EntityStore.open(tmp_path / "killed"), TransEConfig(**settings), progress=False)
    assert resumed["steps"] == 40 * 14
    np.testing.assert_allclose(EntityStore.open(tmp_path / "killed").vectors, EntityStore.open(grid).vectors, atol=2e-3)


def test_a_damaged_checkpoint_is_named(grid: Path) -> None:
    store = EntityStore.open(grid)
    trainer = Trainer(store, TransEConfig(**SETTINGS), progress=False)
    trainer.checkpoint.save(trainer.model.table.tensors(), vars(trainer.state))
    part = grid / CHECKPOINT / "step-0" / "rank-0-of-1.safetensors"
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(DataError, match=rf"{CHECKPOINT}/step-0: not a readable checkpoint"):
        train_transe(store, TransEConfig(**SETTINGS), progress=False)


def test_early_stopping_keeps_the_best_vectors(grid: Path) -> None:
    store = EntityStore.open(grid)
    details = train_transe(store, TransEConfig(**SETTINGS | {"epochs": 600, "evaluate_every": 4, "patience": 3}), progress=False)
    scores = [entry["mrr"] for entry in details["history"] if "mrr" in entry]
    assert details["history"][-1]["epoch"] < 600
    assert max(scores) == scores[-4] == details["valid_mrr"]
    assert evaluate_link_prediction(store, split="valid")["mrr"] == pytest.approx(details["valid_mrr"])


def test_same_settings_are_not_trained_twice(grid: Path) -> None:
    store, config = EntityStore.open(grid), TransEConfig(**SETTINGS | {"epochs": 2})
    train_transe(store, config, progress=False)
    written = (grid / "transe" / "manifest.json").stat().st_mtime_ns
    train_transe(store, config, progress=False)
    assert (grid / "transe" / "manifest.json").stat().st_mtime_ns == written
    train_transe(store, config, progress=False, force=True)
    assert (grid / "transe" / "manifest.json").stat().st_mtime_ns > written


def test_minutes_bound_the_run(grid: Path) -> None:
    details = train_transe(EntityStore.open(grid), TransEConfig(**SETTINGS | {"minutes": 0.02, "evaluate_every": 0}), progress=False)
    assert 0.3 < details["seconds"] < 5


def test_divergence_and_missing_devices_are_explained(grid: Path) -> None:
    with pytest.raises(ConfigError, match="device: cuda:9 cannot be used"):
        train_transe(EntityStore.open(grid), TransEConfig(device="cuda:9"), progress=False)
    with pytest.raises(ConfigError, match=r"the loss became .* Lower learning_rate"):
        train_transe(EntityStore.open(grid), TransEConfig(**SETTINGS | {"learning_rate": 1e37}), progress=False)
