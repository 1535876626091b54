"""The moving average of the weights, and learning rates by layer: by formula, through a resume with other ranks and another ZeRO stage."""

from __future__ import annotations

from pathlib import Path

import torch

from rwtrain.export.run import TrainedRun
from rwtrain.train.checkpoint import checkpoint_name
from tests.rwtrain.train.runs import lines, train

DECAY, STEPS, TURN = 0.3, 7, 4


def states(run: Path, *, average: bool) -> dict[int, dict[str, torch.Tensor]]:
    """Step → weights or averages, float64."""
    folders = {step: run / "checkpoints" / checkpoint_name(step) for step in range(1, STEPS + 1)}
    found = {step: TrainedRun.open(folder, average=average).state() for step, folder in folders.items()}
    return {step: {name: tensor.double() for name, tensor in state.items()} for step, state in found.items()}


def test_average_and_layer_decay_survive_a_resume_in_another_shape(tmp_path: Path, train_settings: dict) -> None:
    """2 ranks with ZeRO-3, then 1 with ZeRO-2, both fp32, a checkpoint at every step; then without an average, which drops it."""
    run = tmp_path / "run"
    optimizer = {"learning_rate": 5e-3, "warmup_steps": 0, "schedule": "constant", "ema_decay": DECAY, "layer_decay": 0.5}
    settings = {**train_settings, "checkpoint": {"every_steps": 1, "keep": 9}, "optimizer": optimizer}
    train(run, settings, steps=TURN, engine={"overlays": ["zero3", "fp32"]})
    printed = train(run, settings, steps=STEPS, processes=1, engine={"overlays": ["zero2", "fp32"]})
    assert "redistributing" in printed
    weights, averages = states(run, average=False), states(run, average=True)
    for step in range(2, STEPS + 1):
        decay = min(DECAY, (1 + step) / (10 + step))
        for name, average in averages[step].items():
            expected = decay * averages[step - 1][name] + (1 - decay) * weights[step][name]
            torch.testing.assert_close(average, expected, rtol=1e-5, atol=1e-7, msg=f"step {step}: {name}")
    assert any(not torch.equal(averages[STEPS][name], tensor) for name, tensor in weights[STEPS].items())
    assert {line["learning_rate"] for line in (lines(run) | lines(run, 1)).values()} == {5e-3}
    train(run, settings, steps=STEPS + 1, processes=1, engine={"overlays": ["zero2", "fp32"]}, optimizer={**optimizer, "ema_decay": None})
    stored = torch.load(next((run / "checkpoints" / checkpoint_name(STEPS + 1) / "state").glob("*optim_states.pt")), weights_only=False)
    assert all("ema" not in state for state in stored["optimizer_state_dict"]["base_optimizer_state"]["state"].values())
