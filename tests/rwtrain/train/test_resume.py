"""Real processes, real kills: what a run computes does not depend on how it was started, split or interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rwtrain.errors import DataError
from rwtrain.train import checkpoint
from tests.rwtrain.train.runs import compare, lines, losses, start, train, wait_for_step

STEPS = 30
OVERLAYS = Path(__file__).parents[3] / "ds_configs"


def command(folder: Path, settings: dict, *, processes: int, **changes: object) -> list[str]:
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({**settings, "run": str(folder), **changes}))
    return [sys.executable, "-m", "rwtrain.cli", "train", str(path), "--processes", str(processes)]


@pytest.fixture(scope="module")
def settings(train_settings: dict) -> dict:
    """A learning rate that does not depend on the number of steps, so that a shorter run has the reference's first losses."""
    return {**train_settings, "optimizer": {**train_settings["optimizer"], "schedule": "constant"}}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, settings: dict) -> Path:
    """An uninterrupted run of 30 steps: 2 ranks, ZeRO-3, bf16."""
    folder = tmp_path_factory.mktemp("runs") / "reference"
    train(folder, settings, steps=STEPS)
    return folder


def first_losses(run: Path, steps: int = 10) -> dict[int, dict[str, float]]:
    return {step: values for step, values in losses(run).items() if step <= steps}


def test_every_loss_is_reported_and_finite(reference: Path) -> None:
    first = losses(reference)[1]
    expected = {"total", "language_modelling", "masked_modelling", "captioning", "text_contrast", "image_contrast", "entity_alignment"}
    assert {name.removeprefix("loss/") for name in first} == expected
    assert all(0 < value < 100 for value in first.values())


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_zero_stages_agree_within_bf16(tmp_path: Path, settings: dict, reference: Path, stage: int) -> None:
    folder = tmp_path / f"zero{stage}"
    train(folder, settings, steps=10, engine={"overlays": [f"zero{stage}", "bf16"]})
    compare(losses(folder), first_losses(reference), relative=2e-2)


@pytest.mark.parametrize("kind", ["offload", "offload_optimizer", "hpz", "activation_checkpointing"])
def test_saving_memory_changes_no_loss(tmp_path: Path, settings: dict, reference: Path, kind: str) -> None:
    engine: dict = {"overlays": ["zero3", "bf16", kind]} if kind != "activation_checkpointing" else {kind: 2}
    if kind == "hpz":  # a copy of the weights for every two ranks
        overlay = json.loads((OVERLAYS / "hpz.json").read_text())
        overlay["zero_optimization"]["zero_hpz_partition_size"] = 2
        (tmp_path / "hpz.json").write_text(json.dumps(overlay))
        engine["overlays"][-1] = str(tmp_path / "hpz.json")
    train(tmp_path / "run", settings, steps=6, engine=engine)
    compare(losses(tmp_path / "run"), first_losses(reference, 6), relative=1e-3)


def test_every_overlay_is_trained_with_somewhere() -> None:
    """Those of the tests here, bf16 of the reference, fp32 and the other stages of test_reshard.py."""
    tested = {"zero0", "zero1", "zero2", "zero3", "bf16", "fp16", "fp32", "offload", "offload_optimizer", "hpz"}
    assert {path.stem for path in OVERLAYS.glob("*.json")} == tested | {"base"}


def test_accumulation_and_ranks_are_the_same_global_batch(tmp_path: Path, settings: dict, pair_shards: Path) -> None:
    """Every loss and the gradient: the contrasts see the whole global batch, with hard and drawn negatives, by gradient caching where it is accumulated."""
    data = {**settings["data"], "pairs": str(pair_shards)}
    negatives = {"pair_views": "given", "hard_negatives": True, "entity_negatives": 8}
    found = {}
    for processes, accumulation in ((4, 1), (1, 4), (2, 2)):
        folder = tmp_path / f"{processes}x{accumulation}"
        batch = {**settings["batch"], **negatives, "accumulation": accumulation} | {f"{kind}_rows": 4 for kind in ("text", "masked", "pair", "image")}
        train(folder, settings, processes=processes, steps=4, batch=batch, data=data, engine={"overlays": ["zero3", "fp32"]})
        found[processes, accumulation] = {**losses(folder)}, [line["grad_norm"] for line in lines(folder).values()]
    expected_losses, expected_norms = found[4, 1]
    for run_losses, norms in found.values():
        compare(run_losses, expected_losses, relative=1e-5)
        assert norms == pytest.approx(expected_norms, rel=1e-5)


def test_fp16_trains_or_is_refused_where_the_device_cannot(tmp_path: Path, settings: dict) -> None:
    job = start(tmp_path / "run", settings, processes=1, steps=4, engine={"overlays": ["zero3", "fp16"]})
    if job.wait() != [0]:
        assert job.wait() == [2]
        assert "error: engine.overlays: this device does not support fp16" in job.output.read_text()
        assert "Traceback" not in job.output.read_text()
    else:
        assert sorted(losses(tmp_path / "run")) == [1, 2, 3, 4]


def test_one_rank_agrees_with_two(tmp_path: Path, settings: dict, reference: Path) -> None:
    folder = tmp_path / "one"
    train(folder, settings, processes=1, steps=10)
    compare(losses(folder), first_losses(reference), relative=2e-2)


def test_killed_run_resumes_bit_for_bit(tmp_path: Path, settings: dict, reference: Path) -> None:
    """Through `rwtrain train --processes 2`, which starts, ends and reports on the ranks."""
    folder, errors = tmp_path / "killed", tmp_path / "errors"
    with errors.open("w") as stderr:
        process = subprocess.Popen(command(folder, settings, processes=2, steps=STEPS), stdout=subprocess.DEVNULL, stderr=stderr)
    wait_for_step(folder, 20, process.poll)
    os.kill(rank_process(process.pid, rank=1), signal.SIGKILL)
    assert process.wait(timeout=60) == 128 + signal.SIGKILL
    assert "error: Rank 0 lost the connection to another rank" in errors.read_text()
    assert "Traceback" not in errors.read_text()
    reached, kept = max(losses(folder)), checkpoint.read_manifest(checkpoint.resolve(folder))["step"]
    assert 20 <= reached < STEPS
    assert reached - 6 < kept <= reached  # the checkpoint that was being written is lost at most
    train(folder, settings, steps=STEPS)
    resumed, expected = losses(folder, process=1), losses(reference)
    assert min(resumed) == kept + 1
    assert resumed == {step: values for step, values in expected.items() if step in resumed}
    assert losses(folder) == {step: expected[step] for step in losses(folder)}


def rank_process(launcher: int, *, rank: int) -> int:
    for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return int(pid)
    raise AssertionError(f"no process of rank {rank}")


def test_a_run_is_not_continued_with_other_data_or_another_model(settings: dict, reference: Path) -> None:
    batch, data = {**settings["batch"], "text_rows": 8}, {**settings["data"], "entity_store": None}
    job = start(reference, settings, processes=1, steps=12, seed=5, batch=batch, data=data)
    assert job.wait() == [2]
    printed = job.output.read_text()
    assert "batch.text_rows (4 then, 8 now)" in printed
    assert "seed (0 then, 5 now)" in printed
    assert "data.entity_store (" in printed
    assert "choose another `run` folder" in printed
    assert "Traceback" not in printed


def test_a_flipped_bit_in_a_checkpoint_is_named(tmp_path: Path, reference: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(reference, copy)
    damaged = next((copy / "checkpoints").glob("step-*30/state/*optim_states.pt"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(DataError, match=damaged.name):
        checkpoint.resolve(copy)


def test_exported_weights_give_the_losses_of_the_next_step(tmp_path: Path, settings: dict, reference: Path) -> None:
    """The weights of step 27, loaded into a plain model, must give the losses that the run reported for step 28."""
    from rwtrain.config.schema import TrainConfig
    from rwtrain.export.run import TrainedRun
    from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining
    from rwtrain.objectives.task import LOSSES, PretrainingTask
    from rwtrain.train.setup import make_loader, model_config, open_inputs

    config = TrainConfig.model_validate({**settings, "run": str(reference)})
    inputs = open_inputs(config, verify=False)
    model = RefinedWebForPreTraining._from_config(model_config(config, inputs)).eval()
    model.load_state_dict(TrainedRun.open(reference / "checkpoints" / checkpoint.checkpoint_name(27)).state())
    loader = make_loader(config, inputs, rank=0, world_size=1)
    task, batch = PretrainingTask(loader.recipe, config.objectives, replicas=1), loader.micro_batch(27, 0)
    counts = task.counts(batch)
    found = dict(zip(LOSSES, (task(model, batch, counts).sums / counts).tolist(), strict=True))
    expected = losses(reference)[28]
    assert found == pytest.approx({name: expected[f"loss/{name}"] for name in LOSSES}, rel=2e-2, abs=1e-5)  # the run computed in bf16


def test_checkpoints_are_pruned_to_the_newest(reference: Path) -> None:
    names = sorted(path.name for path in (reference / "checkpoints").iterdir())
    assert names == ["latest", "step-00000024", "step-00000027", "step-00000030"]
