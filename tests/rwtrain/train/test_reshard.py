"""A checkpoint continues with other ranks, ZeRO stages and precisions: the same global batches, the same losses, the same optimiser."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from rwtrain.cli import main
from rwtrain.config.load import load_config
from rwtrain.config.schema import TrainConfig
from rwtrain.train import distributed
from rwtrain.train.checkpoint import checkpoint_name, find_latest, set_latest, verify
from rwtrain.train.loop import Trainer
from rwtrain.train.work import pretraining
from rwtrain.train.zero import read_parameters, read_states
from tests.rwtrain.train.runs import lines, losses, start, train

STEPS, EVERY = 12, 3
FP32 = {"overlays": ["zero3", "fp32"]}


@pytest.fixture(scope="module")
def settings(train_settings: dict) -> dict:
    """Rows that 1, 2 and 3 ranks can share; a learning rate and a weight decay that a wrong optimiser state would betray."""
    batch = {**train_settings["batch"], "text_rows": 6, "masked_rows": 6, "pair_rows": 6, "image_rows": 6}
    optimizer = {"learning_rate": 5e-3, "warmup_steps": 2, "weight_decay": 0.5}
    return {**train_settings, "steps": STEPS, "batch": batch, "optimizer": optimizer, "checkpoint": {"every_steps": EVERY, "keep": 9}, "engine": FP32}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, settings: dict) -> Path:
    """12 uninterrupted steps: 2 ranks, ZeRO-3, fp32."""
    run = tmp_path_factory.mktemp("runs") / "reference"
    train(run, settings)
    return run


def fork(source: Path, run: Path, step: int) -> Path:
    """A copy of a run that ends at `step`."""
    shutil.copytree(source, run)
    (run / "metrics.jsonl").unlink()
    for path in (run / "checkpoints").glob("step-*"):
        if path.name > checkpoint_name(step):
            shutil.rmtree(path)
    set_latest(run / "checkpoints", run / "checkpoints" / checkpoint_name(step))
    return run


def assert_continues(run: Path, reference: Path, *, step: int, relative: float) -> None:
    expected = {number: values for number, values in losses(reference).items() if number > step}
    found = losses(run)
    assert found.keys() == expected.keys()
    for number, values in expected.items():
        assert found[number] == pytest.approx(values, rel=relative, abs=1e-5), f"step {number}"
        assert lines(run)[number]["learning_rate"] == lines(reference)[number]["learning_rate"]


def shapes(run: Path) -> list[dict[str, tuple[int, ...]]]:
    """The parameters of the two groups, in the order of the model."""
    from rwtrain.export.run import TrainedRun
    from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining

    with torch.device("meta"):
        model = RefinedWebForPreTraining(TrainedRun.open(run).config)
    groups: list[dict[str, tuple[int, ...]]] = [{}, {}]
    for name, parameter in model.named_parameters():
        groups[parameter.ndim < 2][name] = tuple(parameter.shape)
    return groups


def optimizer_states(run: Path, step: int) -> dict[str, dict[str, torch.Tensor]]:
    stored = read_states(run / "checkpoints" / checkpoint_name(step) / "state", shapes(run))
    return {name: {key: parameter.load() for key, parameter in parts.items()} for name, parts in stored.items()}


def resave(arguments: list[str]) -> int:
    """A rank that loads the run's latest checkpoint and writes it anew, in its own shape."""
    config = load_config(TrainConfig, arguments[0], [])
    ranks = distributed.start(config.engine.timeout_s)
    trainer = Trainer(config, ranks, pretraining(config, ranks))
    trainer.saver.begin(trainer.step)
    trainer.saver.finish()
    distributed.stop()
    return 0


def test_every_shape_holds_the_same_states(tmp_path: Path, settings: dict, reference: Path) -> None:
    """Through stages 3 → 0 → 1 → 2 → 3 and 2 → 1 → 3 → 2 → 1 ranks no bit of a parameter or of Adam's averages changes."""
    run, expected = fork(reference, tmp_path / "run", step=9), optimizer_states(reference, 9)
    for stage, ranks in ((0, 1), (1, 3), (2, 2), (3, 1)):
        job = start(run, settings, processes=ranks, engine={"overlays": [f"zero{stage}", "fp32"]}, main=resave)
        assert job.wait() == [0] * ranks, job.output.read_text()[-3000:]
        found = optimizer_states(run, 9)
        assert found.keys() == expected.keys()
        for name, parts in expected.items():
            assert all(torch.equal(found[name][key], tensor) for key, tensor in parts.items()), f"stage {stage}: {name}"
        manifest = verify(run / "checkpoints" / checkpoint_name(9))
        assert (manifest["world_size"], manifest["zero_stage"], manifest["precision"]) == (ranks, stage, "fp32")


def test_ranks_2_1_3_2_follow_the_uninterrupted_run(tmp_path: Path, settings: dict, reference: Path) -> None:
    before = reference
    for number, ranks in enumerate((1, 3, 2), start=1):
        run = fork(before, tmp_path / f"ranks{ranks}", step=number * EVERY)
        printed = train(run, settings, processes=ranks)
        assert f"to {ranks} rank(s), ZeRO stage 3, fp32" in printed
        assert_continues(run, reference, step=number * EVERY, relative=1e-3)
        before = run


def test_another_stage_and_precision(tmp_path: Path, settings: dict, reference: Path) -> None:
    """Adam's step counts on, a setting changed meanwhile holds, each parameter group keeps its own, and the losses stay within bf16's precision."""
    run = fork(reference, tmp_path / "run", step=9)
    optimizer = {**settings["optimizer"], "weight_decay": 0.4}
    train(run, settings, processes=1, engine={"overlays": ["zero2", "bf16"]}, optimizer=optimizer)
    latest = find_latest(run)
    assert latest is not None
    saved = torch.load(next((latest / "state").glob("*optim_states.pt")), weights_only=False)["optimizer_state_dict"]["base_optimizer_state"]
    assert {float(state["step"]) for state in saved["state"].values()} == {STEPS}
    assert [group["weight_decay"] for group in saved["param_groups"]] == [0.4, 0.0]
    assert_continues(run, reference, step=9, relative=3e-2)


def test_convert_writes_what_deepspeed_calls_universal(tmp_path: Path, reference: Path) -> None:
    assert main(["checkpoint", "convert", str(reference), str(tmp_path / "out")]) == 0
    found, expected = read_parameters(tmp_path / "out" / "universal"), optimizer_states(reference, STEPS)
    assert found.keys() == expected.keys() | {"lm_head.weight"}  # tied
    for name, parts in expected.items():
        assert torch.equal(found[name].load(), parts["fp32"]), name
        average = torch.load(tmp_path / "out" / "universal" / "zero" / name / "exp_avg.pt")
        assert torch.equal(average, parts["exp_avg"].flatten()), name
