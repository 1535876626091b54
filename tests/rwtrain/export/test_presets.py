"""Every preset's architecture, its widths shrunk, loads from its exported folder with the oldest and newest releases of transformers."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwtrain.config.model import ModelConfig
from rwtrain.config.presets import PRESETS
from rwtrain.evaluate.model import open_model
from rwtrain.export.environment import NEWEST, OLDEST
from rwtrain.export.export import export_run
from tests.rwtrain.export.random_run import make_run

ROOT = Path(__file__).parents[3]
HEAD_DIM = 16


def shrunk(name: str) -> dict[str, Any]:
    """A preset with heads of 16 features, at most 8 of them and at most 4 layers; ties, gates, groups of heads and the kind of image encoder stay."""
    preset = ModelConfig(preset=name)
    heads = min(preset.num_attention_heads, 8)
    groups = preset.num_attention_heads // (preset.num_key_value_heads or preset.num_attention_heads)
    layers = min(preset.num_hidden_layers, 4)
    vision = {**(preset.vision or {}), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision["image_size"] = 2 * vision["patch_size"]
    return {
        "hidden_size": heads * HEAD_DIM,
        "intermediate_size": heads * HEAD_DIM * 2,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // groups),
        "max_position_embeddings": preset.max_position_embeddings,
        "tie_word_embeddings": preset.tie_word_embeddings,
        "gate_layers": sorted({min(layer * layers // preset.num_hidden_layers, layers - 1) for layer in preset.gate_layers or []}),
        "vision_config": vision,
        "image_seq_length": 4,
        "initializer_range": 0.1,
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, train_settings: dict) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("presets")
    shapes = {name: shrunk(name) for name in PRESETS}
    distinct = {json.dumps(shape, sort_keys=True): name for name, shape in reversed(shapes.items())}  # presets that differ in widths alone are one
    found = {}
    for name in sorted(distinct.values()):
        make_run(root / name / "run", train_settings, **shapes[name])
        export_run(root / name / "run", root / name / "export", parity=False)
        found[name] = root / name / "export"
    return found


@pytest.mark.parametrize("release", [OLDEST, NEWEST, "clean"])
def test_presets_load_without_a_warning(release: str, folders: dict[str, Path], tmp_path: Path) -> None:
    where = ".venv-clean" if release == "clean" else f".peers/transformers-{release}"
    python = ROOT / where / "bin" / "python"
    if not (ROOT / where / ".complete").exists():
        options = "" if release == "clean" else f" --transformers {release} sentence-transformers"
        pytest.skip(f"make it with: python -m rwtrain.export.environment {where}{options}")
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    chosen = list(folders) if release == "clean" else sorted(folders)[:: max(1, len(folders) - 1)]
    command = [str(python), "-I", str(Path(__file__).with_name("clean_probe.py")), *(str(folders[name]) for name in chosen)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "past_key_values" not in done.stderr, done.stderr[-3000:]  # which 5.24 calls cache
    report = json.loads(done.stdout.splitlines()[-1])
    assert release in (report["transformers"], "clean")
    for name in chosen:
        result = report["folders"][str(folders[name])]
        assert result["generated"].startswith("The history of")
        assert result["cached"] == result["uncached"]
        assert result["image"] == [1, 16]
        assert result["caption_tokens"] >= 1
        assert np.abs(np.array(result["embedding"]) - open_model(folders[name], device="cpu").embed_texts(["a photo"])[0]).max() < 1e-4
        assert result["sentence_transformers"] is None or result["sentence_transformers"] < 1e-4
