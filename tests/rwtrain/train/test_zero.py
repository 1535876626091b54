"""Checkpoints that DeepSpeed really wrote, on two ranks, against the parameters that DeepSpeed gathers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks.forked_ranks import Job
from rwtrain.errors import DataError
from rwtrain.train import zero
from rwtrain.train.zero import read_parameters
from tests.rwtrain.train import zero_worker


def run_ranks(folder: Path, stage: int, ranks: int) -> None:
    job = Job([str(folder), str(stage)], processes=ranks, output=folder / "output", main=zero_worker.main)
    assert job.wait(200) == [0] * ranks, job.output.read_text()[-3000:]


@pytest.fixture(scope="module")
def stage_3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero3")
    run_ranks(folder, 3, ranks=2)
    return folder


def assert_equal(folder: Path) -> None:
    found, expected = read_parameters(folder / "state"), torch.load(folder / "expected.pt")
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name].load(), tensor), name
        assert found[name].shape == tuple(tensor.shape)


def test_stage_3(stage_3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_equal(stage_3)
    monkeypatch.setattr(zero, "CHUNK_ELEMENTS", 5)
    assert max(len(chunk) for chunk in read_parameters(stage_3 / "state")["embed.weight"].chunks()) <= 5
    assert_equal(stage_3)


@pytest.mark.parametrize("stage", [0, 1])  # 2 keeps the same files as 1
def test_other_stages(stage: int, tmp_path: Path) -> None:
    run_ranks(tmp_path, stage, ranks=2)
    assert_equal(tmp_path)


def test_universal(stage_3: Path, tmp_path: Path) -> None:
    expected = torch.load(stage_3 / "expected.pt")
    for name, tensor in expected.items():
        (tmp_path / "state" / "zero" / name).mkdir(parents=True)
        torch.save({"param": tensor, "cat_dim": 0}, tmp_path / "state" / "zero" / name / "fp32.pt")
    shutil.copyfile(stage_3 / "expected.pt", tmp_path / "expected.pt")
    assert_equal(tmp_path)


def test_missing_rank(stage_3: Path, tmp_path: Path) -> None:
    state = shutil.copytree(stage_3 / "state", tmp_path / "state")
    next(state.glob("*rank_1*optim_states.pt")).unlink()
    with pytest.raises(DataError, match="written by 2 ranks"):
        read_parameters(state)


@pytest.mark.parametrize("keep", [0.5, 0.0])
def test_truncated_file(keep: float, stage_3: Path, tmp_path: Path) -> None:
    state = shutil.copytree(stage_3 / "state", tmp_path / "state")
    path = next(state.glob("*rank_1*optim_states.pt"))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(DataError, match=f"{path.name}: not a readable file"):
        read_parameters(state)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \*_model_states\.pt"):
        read_parameters(tmp_path)


def test_pickles_are_not_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"module": {"weight": torch.ones(3)}, "bomb": Bomb()}, tmp_path / "mp_rank_00_model_states.pt")
    assert read_parameters(tmp_path)["weight"].load().tolist() == [1, 1, 1]
    assert not (tmp_path / "executed").exists()
