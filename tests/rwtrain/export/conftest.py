from __future__ import annotations

from pathlib import Path

import pytest

from rwtrain.knowledge.linker import build_linker
from rwtrain.knowledge.store import EntityStore


@pytest.fixture(scope="session")
def linker_folder(tmp_path_factory: pytest.TempPathFactory, entity_store: Path) -> Path:
    folder = tmp_path_factory.mktemp("linking") / "linker"
    build_linker(EntityStore.open(entity_store), folder)
    return folder
