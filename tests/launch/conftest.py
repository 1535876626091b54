"""A small training run, and its losses when nothing disturbs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rwtrain.train.runs import losses, train

STEPS = 60


@pytest.fixture(scope="session")
def small_settings(train_settings: dict) -> dict:
    """Text only, ZeRO-3, two ranks, sixty short steps; `run` is to be added."""
    return {
        "steps": STEPS,
        "data": {"text": train_settings["data"]["text"], "tokenizer": train_settings["data"]["tokenizer"]},
        "model": {name: value for name, value in train_settings["model"].items() if name != "vision"},
        "batch": {"seq_len": 64, "text_rows": 4},
        "optimizer": {"learning_rate": 2e-4, "warmup_steps": 2},
        "checkpoint": {"every_steps": 10},
        "logging": {"every_steps": 1, "tensorboard": False},
    }


@pytest.fixture(scope="session")
def undisturbed(small_settings: dict, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, float]]:
    """Losses of every step of a run that nothing interrupts."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    train(run, small_settings)
    return losses(run)


@pytest.fixture(autouse=True)
def _own_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's list of submitted jobs out of the tests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("RWTRAIN_SITE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
