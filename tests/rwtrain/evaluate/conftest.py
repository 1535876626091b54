from __future__ import annotations

from pathlib import Path

import pytest

from rwtrain.evaluate.model import EvaluatedModel, open_model
from tests.rwtrain.export.random_run import make_run


@pytest.fixture(scope="session")
def random_run(tmp_path_factory: pytest.TempPathFactory, train_settings: dict) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    make_run(folder, train_settings)
    return folder


@pytest.fixture(scope="session")
def model(random_run: Path) -> EvaluatedModel:
    return open_model(random_run, device="cpu")
