"""A tiny exported folder with random weights, images and knowledge, opened for the applications."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoImageProcessor, PreTrainedTokenizerFast

from rwtrain.apps.model import AppModel
from rwtrain.export.export import export_run
from rwtrain.knowledge.linker import build_linker
from rwtrain.knowledge.store import EntityStore
from rwtrain.model.processing_refinedweb import RefinedWebProcessor
from tests.rwtrain.export.random_run import make_run


@pytest.fixture(scope="session")
def app_folder(tmp_path_factory: pytest.TempPathFactory, train_settings: dict, entity_store: Path) -> Path:
    folder = tmp_path_factory.mktemp("apps")
    make_run(folder / "run", train_settings, initializer_range=0.1)
    build_linker(EntityStore.open(entity_store), folder / "linker")
    export_run(folder / "run", folder / "export", linker=folder / "linker", parity=False)
    return folder / "export"


@pytest.fixture(scope="session")
def app(app_folder: Path) -> AppModel:
    return AppModel.open(app_folder)


@pytest.fixture(scope="session")
def processor(app: AppModel) -> RefinedWebProcessor:
    """The exported processor, as others would use it."""
    tokenizer, images = PreTrainedTokenizerFast.from_pretrained(app.folder), AutoImageProcessor.from_pretrained(app.folder)
    found = RefinedWebProcessor(images, tokenizer, image_seq_length=app.model.config.image_seq_length, entity_dim=app.model.config.entity_dim)
    found.linker = app.need_linker()
    return found
