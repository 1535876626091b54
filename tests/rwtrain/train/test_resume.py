"""Real processes, real kills: what a run computes does not depend on how it was started, split or interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from rwtrain.errors import DataError
from rwtrain.train import checkpoint
from rwtrain.train.loop import EXIT_STOPPED


def command(folder: Path, settings: dict, *, processes: int, **changes: object) -> list[str]:
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({**settings, "run": str(folder), **changes}))
    return [sys.executable, "-m", "rwtrain.cli", "train", str(path), "--processes", str(processes)]


def train(folder: Path, settings: dict, *, processes: int = 2, **changes: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder, settings, processes=processes, **changes), capture_output=True, text=True, timeout=240)


def losses(folder: Path, process: int = 0) -> dict[int, dict[str, float]]:
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: {key: value for key, value in line.items() if key.startswith("loss/")} for line in lines if line["process"] == process}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, train_settings: dict) -> Path:
    """An uninterrupted run of 10 steps: 2 ranks, ZeRO-3, bf16."""
    folder = tmp_path_factory.mktemp("runs") / "reference"
    done = train(folder, train_settings, steps=10)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_every_loss_is_reported_and_finite(reference: Path) -> None:
    first = losses(reference)[1]
    expected = {"total", "language_modelling", "masked_modelling", "captioning", "text_contrast", "image_contrast", "entity_alignment"}
    assert {name.removeprefix("loss/") for name in first} == expected
    assert all(0 < value < 100 for value in first.values())


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_zero_stages_agree_within_bf16(tmp_path: Path, train_settings: dict, reference: Path, stage: int) -> None:
    folder = tmp_path / f"zero{stage}"
    done = train(folder, train_settings, steps=10, engine={"overlays": [f"zero{stage}", "bf16"]})
    assert done.returncode == 0, done.stderr[-3000:]
    compare(losses(folder), losses(reference), relative=2e-2)


@pytest.mark.parametrize(
    "engine", [{"overlays": ["zero3", "bf16", "offload"]}, {"activation_checkpointing": True}], ids=["offload", "activation_checkpointing"]
)
def test_saving_memory_changes_no_loss(tmp_path: Path, train_settings: dict, reference: Path, engine: dict) -> None:
    done = train(tmp_path / "run", train_settings, steps=10, engine=engine)
    assert done.returncode == 0, done.stderr[-3000:]
    compare(losses(tmp_path / "run"), losses(reference), relative=1e-3)


def test_accumulation_agrees_with_ranks(tmp_path: Path, train_settings: dict) -> None:
    """Losses of tokens only: a contrast sees one micro-batch at a time."""
    tokens_only = {"text_contrast": 0.0, "image_contrast": 0.0, "entity_alignment": 0.0}
    for name, processes, accumulation in (("ranks", 2, 1), ("accumulation", 1, 2)):
        batch = {**train_settings["batch"], "accumulation": accumulation}
        done = train(tmp_path / name, train_settings, processes=processes, steps=6, batch=batch, objectives=tokens_only, engine={"overlays": ["zero3", "fp32"]})
        assert done.returncode == 0, done.stderr[-3000:]
    compare(losses(tmp_path / "accumulation"), losses(tmp_path / "ranks"), relative=1e-5)


def test_fp16_trains_or_is_refused_where_the_device_cannot(tmp_path: Path, train_settings: dict) -> None:
    done = train(tmp_path / "run", train_settings, processes=1, steps=4, engine={"overlays": ["zero3", "fp16"]})
    if done.returncode:
        assert done.returncode == 2
        assert "error: engine.overlays: this device does not support fp16" in done.stderr
        assert "Traceback" not in done.stderr
    else:
        assert sorted(losses(tmp_path / "run")) == [1, 2, 3, 4]


def test_one_rank_agrees_with_two(tmp_path: Path, train_settings: dict, reference: Path) -> None:
    folder = tmp_path / "one"
    done = train(folder, train_settings, processes=1, steps=10)
    assert done.returncode == 0, done.stderr[-3000:]
    compare(losses(folder), losses(reference), relative=2e-2)


def compare(found: dict[int, dict[str, float]], expected: dict[int, dict[str, float]], *, relative: float) -> None:
    assert found.keys() == expected.keys()
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=relative, abs=1e-5), f"step {step}"


def test_killed_run_resumes_bit_for_bit(tmp_path: Path, train_settings: dict, reference: Path) -> None:
    folder, errors = tmp_path / "killed", tmp_path / "errors"
    with errors.open("w") as stderr:
        process = subprocess.Popen(command(folder, train_settings, processes=2, steps=10), stdout=subprocess.DEVNULL, stderr=stderr)
    wait_for_step(folder, 5)
    os.kill(rank_process(process.pid, rank=1), signal.SIGKILL)
    assert process.wait(timeout=60) == 128 + signal.SIGKILL
    assert "error: Rank 0 lost the connection to another rank" in errors.read_text()
    assert "Traceback" not in errors.read_text()
    reached = max(losses(folder))
    if reached < 10:
        assert checkpoint.resolve(folder).name == checkpoint.checkpoint_name(reached - reached % 3)
        done = train(folder, train_settings, steps=10)
        assert done.returncode == 0, done.stderr[-3000:]
        resumed = losses(folder, process=1)
        assert min(resumed) == reached - reached % 3 + 1
        assert resumed == {step: values for step, values in losses(reference).items() if step in resumed}
    before = losses(folder)
    assert before == {step: values for step, values in losses(reference).items() if step in before}


def test_a_signal_to_one_rank_stops_all_with_a_checkpoint(tmp_path: Path, train_settings: dict) -> None:
    folder = tmp_path / "stopped"
    process = subprocess.Popen(command(folder, train_settings, processes=2, steps=500), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_step(folder, 2)
    os.kill(rank_process(process.pid, rank=1), signal.SIGUSR1)
    assert process.wait(timeout=60) == EXIT_STOPPED
    assert checkpoint.resolve(folder).name == checkpoint.checkpoint_name(max(losses(folder)))


def wait_for_step(folder: Path, step: int, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if (folder / "metrics.jsonl").is_file() and max(losses(folder), default=0) >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached in {timeout_s} s")


def rank_process(launcher: int, *, rank: int) -> int:
    for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return int(pid)
    raise AssertionError(f"no process of rank {rank}")


def test_another_world_size_is_refused_by_name(train_settings: dict, reference: Path) -> None:
    done = train(reference, train_settings, processes=1, steps=12)
    assert done.returncode != 0
    assert "written by 2 ranks, this job has 1" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_is_not_continued_with_other_data_or_another_model(train_settings: dict, reference: Path) -> None:
    batch, data = {**train_settings["batch"], "text_rows": 8}, {**train_settings["data"], "entity_store": None}
    done = train(reference, train_settings, steps=12, seed=5, batch=batch, data=data)
    assert done.returncode == 2
    assert "batch.text_rows (4 then, 8 now)" in done.stderr
    assert "seed (0 then, 5 now)" in done.stderr
    assert "data.entity_store (" in done.stderr
    assert "choose another `run` folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_flipped_bit_in_a_checkpoint_is_named(tmp_path: Path, reference: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(reference, copy)
    damaged = next((copy / "checkpoints").glob("step-*10/state/*optim_states.pt"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(DataError, match=damaged.name):
        checkpoint.resolve(copy)


def test_exported_weights_give_the_losses_of_the_next_step(tmp_path: Path, train_settings: dict, reference: Path) -> None:
    """The weights of step 9, loaded into a plain model, must give the losses that the run reported for step 10."""
    from rwtrain.config.schema import TrainConfig
    from rwtrain.export.run import TrainedRun
    from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining
    from rwtrain.objectives.task import LOSSES, PretrainingTask
    from rwtrain.train.setup import make_loader, model_config, open_inputs

    config = TrainConfig.model_validate({**train_settings, "run": str(reference)})
    inputs = open_inputs(config, verify=False)
    model = RefinedWebForPreTraining._from_config(model_config(config, inputs)).eval()
    model.load_state_dict(TrainedRun.open(reference / "checkpoints" / checkpoint.checkpoint_name(9)).state())
    loader = make_loader(config, inputs, rank=0, world_size=1)
    task, batch = PretrainingTask(loader.recipe, config.objectives, replicas=1), loader.micro_batch(9, 0)
    counts = task.counts(batch)
    found = dict(zip(LOSSES, (task(model, batch, counts).sums / counts).tolist(), strict=True))
    expected = losses(reference)[10]
    assert found == pytest.approx({name: expected[f"loss/{name}"] for name in LOSSES}, rel=2e-2, abs=1e-5)  # the run computed in bf16


def test_checkpoints_are_pruned_to_the_newest(reference: Path) -> None:
    names = sorted(path.name for path in (reference / "checkpoints").iterdir())
    assert names == ["latest", "step-00000006", "step-00000009", "step-00000010"]
