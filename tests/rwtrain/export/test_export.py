"""Exports are loaded, by the auto classes, in a process of their own and compared with the training class."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import rwtrain.export.export as export_module
from rwtrain.cli import main
from rwtrain.errors import ConfigError, DataError, RWTrainError
from rwtrain.evaluate.model import open_model, pad_rows
from rwtrain.export.completeness import verify
from rwtrain.export.export import export_run
from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining
from tests.rwtrain.export.random_run import make_run

CLEAN_PYTHON = Path(__file__).parents[3] / ".venv-clean" / "bin" / "python"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, train_settings: dict) -> tuple[Path, RefinedWebForPreTraining]:
    folder = tmp_path_factory.mktemp("export") / "run"
    return folder, make_run(folder, train_settings)


@pytest.fixture(scope="module")
def exported(run: tuple[Path, RefinedWebForPreTraining]) -> Path:
    """An export of everything, made with the command line."""
    out, figures = run[0] / "exported", run[0] / "held-out text.json"
    figures.write_text('{"perplexity": 12.5, "image_to_text": {"recall@1": 0.25}, "unigram_perplexity": null}')
    python = ["--parity-python", str(CLEAN_PYTHON)] if CLEAN_PYTHON.exists() else []
    options = ["--with-knowledge", "--watts", "300", "--grid", "400", "--max-shard-size", "60KB", "--licence", "cc-by-sa-4.0", "--evaluation", str(figures)]
    assert main(["export", str(run[0]), "--out", str(out), *options, *python]) == 0
    return out


def test_parity_report(exported: Path) -> None:
    report = json.loads((exported / "parity.json").read_text())
    kinds = {"text_logits", "text_embeddings", "image_logits", "image_embeddings", "entity_logits", "linked_logits", "linked_embeddings"}
    assert kinds | {"text_cache", "image_cache", "linked_cache"} == set(report["differences"])
    assert report["max_abs_diff"] == max(report["differences"].values()) < 1e-3
    assert report["problems"] == []
    assert report["loaded"] == []
    assert set(report["generated"]) == {"text", "image", "linked"}
    if CLEAN_PYTHON.exists():
        assert report["isolated"]
        assert report["importable"] == []


def test_weights_are_the_trained_ones_and_tied_ones_come_once(exported: Path, run: tuple[Path, RefinedWebForPreTraining]) -> None:
    index = json.loads((exported / "model.safetensors.index.json").read_text())
    assert "lm_head.weight" not in index["weight_map"]
    assert max(path.stat().st_size for path in exported.glob("model-*.safetensors")) < 62_000 + 600 * 48 * 4
    loaded = open_model(exported, device="cpu").model.state_dict()
    for name, tensor in run[1].state_dict().items():
        assert torch.equal(loaded[name], tensor), name


def test_folder_is_complete(exported: Path) -> None:
    names = {path.name for path in exported.iterdir()}
    assert names >= {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "processor_config.json",
        "README.md",
        "parity.json",
        "linker",
    }
    config = json.loads((exported / "config.json").read_text())
    tasks = {f"AutoModelFor{task}" for task in ("CausalLM", "SequenceClassification", "TokenClassification", "QuestionAnswering")}
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoProcessor"} | tasks
    assert config["architectures"] == ["RefinedWebForCausalLM"]
    assert not [path for path in exported.parent.iterdir() if path.name.endswith(".tmp")]


def test_model_card(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-sa-4.0\n")
    assert "| loss/total | 3.25 |" in card  # of the checkpoint's step, not the last line
    assert "400 documents" in card
    assert "**held-out text**\n\n| | |\n|---|---|\n| perplexity | 12.5 |\n| image_to_text recall@1 | 0.25 |\n" in card
    assert "| rank-hours (steps only) | 0.5 |" in card
    assert "At 300 W a rank that is 0.15 kWh, and at 400 g CO2e per kWh about 0.06 kg CO2e." in card
    assert "The weights: cc-by-sa-4.0." in card
    assert str(exported.parent) not in card


@pytest.mark.skipif(not CLEAN_PYTHON.exists(), reason="make it with: python -m rwtrain.export.environment .venv-clean")
def test_example_of_the_model_card_runs(exported: Path, tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)[1]
    Image.new("RGB", (50, 40), "red").save(tmp_path / "photo.png")
    shutil.copytree(exported, tmp_path / "exported")
    environment = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    finished = subprocess.run([CLEAN_PYTHON, "-I", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert "The capital of" in finished.stdout
    assert -1 <= float(finished.stdout.split("similarity")[1].split()[0]) <= 1


def test_list_of_files_is_whole(exported: Path) -> None:
    listed = verify(exported)["files"]
    assert {"config.json", "README.md", "linker/linker.safetensors", "tokenizer.json", "parity.json"} <= listed.keys()
    assert verify(exported)["step"] == 7


def test_export_again_replaces(exported: Path, run: tuple[Path, RefinedWebForPreTraining], tmp_path: Path) -> None:
    out = tmp_path / "out"
    for dtype, width in (("float32", 4), ("bfloat16", 2)):
        export_run(run[0], out, dtype=dtype, parity=False)
        assert json.loads((out / "config.json").read_text())["dtype"] == dtype
        assert (out / "model.safetensors").stat().st_size == pytest.approx(sum(p.numel() for p in run[1].parameters()) * width, rel=0.2)


def test_other_folders_are_not_overwritten(run: tuple[Path, RefinedWebForPreTraining], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="no earlier export"):
        export_run(run[0], tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("damage", ["changed weight", "missing weight"])
def test_an_export_that_differs_is_not_kept(damage: str, run: tuple[Path, RefinedWebForPreTraining], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(folder: Path, *arguments: Any, **options: Any) -> dict:
        weights = load_file(folder / "model.safetensors")
        name = "model.layers.1.mlp.up_proj.weight"
        if damage == "changed weight":
            weights[name][0, 0] += 0.5
        else:
            del weights[name]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return original(folder, *arguments, **options)

    original = export_module.run_parity
    monkeypatch.setattr(export_module, "run_parity", spoil)
    with pytest.raises(RWTrainError, match="missing_keys" if damage == "missing weight" else "differs by"):
        export_run(run[0], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_interpreter_that_has_rwtrain_proves_nothing(run: tuple[Path, RefinedWebForPreTraining], tmp_path: Path) -> None:
    with pytest.raises(RWTrainError, match="can import rwtrain"):
        export_run(run[0], tmp_path / "out", parity_python=sys.executable)


def test_interpreter_that_does_not_exist(run: tuple[Path, RefinedWebForPreTraining], tmp_path: Path) -> None:
    with pytest.raises(RWTrainError, match="--parity-python"):
        export_run(run[0], tmp_path / "out", parity_python=tmp_path / "none")


@pytest.mark.parametrize(
    "shape",
    [
        {"tie_word_embeddings": False, "norm_position": "post", "norm_type": "layer_norm"},
        {"entity_dim": 0, "gate_layers": [], "vision_config": None, "image_seq_length": 0, "qk_norm": True, "attention_bias": True},
    ],
    ids=["untied post-norm", "text only"],
)
def test_other_models(shape: dict, train_settings: dict, tmp_path: Path) -> None:
    model = make_run(tmp_path / "run", train_settings, **shape)
    report = export_run(tmp_path / "run", tmp_path / "out", dtype="float32" if model.config.vision_config else "bfloat16")
    assert report["parity"]["max_abs_diff"] < 1e-3
    assert ("image_logits" in report["parity"]["differences"]) == (model.config.vision_config is not None)
    assert report["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_text_encoder_as_onnx(train_settings: dict, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    make_run(tmp_path / "run", train_settings, entity_dim=0, gate_layers=[], vision_config=None, image_seq_length=0, num_hidden_layers=1)
    report = export_run(tmp_path / "run", tmp_path / "out", parity=False, onnx=True)
    assert report["onnx"] < 1e-4
    model = open_model(tmp_path / "run", device="cpu")
    texts = ["a short one", "a longer sentence with more words in it"]
    ids, mask = pad_rows([np.concatenate(([1], model.tokenizer.encode(text))) for text in texts])
    session = onnxruntime.InferenceSession(tmp_path / "out" / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
    assert np.abs(found - model.embed_texts(texts)).max() < 1e-4
    assert "onnx/model.onnx" in verify(tmp_path / "out")["files"]


def test_knowledge_of_a_run_without_any(train_settings: dict, tmp_path: Path) -> None:
    make_run(tmp_path / "run", train_settings, entity_dim=0, gate_layers=[])
    with pytest.raises(DataError, match="without an entity store"):
        export_run(tmp_path / "run", tmp_path / "out", with_knowledge=True, parity=False)


def test_checkpoint_of_another_model(run: tuple[Path, RefinedWebForPreTraining], tmp_path: Path) -> None:
    folder = shutil.copytree(run[0], tmp_path / "run", ignore=shutil.ignore_patterns("exported"))
    config = json.loads((folder / "model" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(DataError, match="do not fit"):
        export_run(folder, tmp_path / "out")


def test_linker_of_other_entities(run: tuple[Path, RefinedWebForPreTraining], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not an entity linker"):
        export_run(run[0], tmp_path / "out", linker=run[0] / "tokenizer")
