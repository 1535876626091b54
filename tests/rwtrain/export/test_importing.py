"""An exported folder begins a training run with exactly its weights."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from benchmarks.forked_ranks import Job
from rwtrain.cli import main
from rwtrain.data.shards import ShardDataset
from rwtrain.errors import ConfigError, DataError
from rwtrain.evaluate.language_modelling import evaluate_language_modelling
from rwtrain.evaluate.model import open_model
from rwtrain.export.export import export_run
from rwtrain.export.importing import import_folder
from rwtrain.train.checkpoint import TAG, resolve
from rwtrain.train.zero import read_parameters
from tests.rwtrain.export.random_run import make_run
from tests.rwtrain.train.runs import losses


def test_training_goes_on_where_the_export_stands(train_settings: dict, tmp_path: Path) -> None:
    shape = {"entity_dim": 0, "gate_layers": [], "vision_config": None, "image_seq_length": 0, "initializer_range": 0.1}
    make_run(tmp_path / "run", train_settings, **shape)
    export_run(tmp_path / "run", tmp_path / "export", parity=False)
    text = train_settings["data"]["text"]
    assert main(["import", str(tmp_path / "export"), "--out", str(tmp_path / "start"), "--text", text, "--steps", "1"]) == 0
    changes = ["--set=batch.text_rows=4", "--set=batch.seq_len=64", "--set=optimizer.learning_rate=1e-12", "--set=engine.overlays=[zero1,fp32]"]
    job = Job(["train", str(tmp_path / "start" / "train.yaml"), *changes, "--set=logging.tensorboard=false"], processes=1, output=tmp_path / "output")
    assert job.wait() == [0], job.output.read_text()[-2000:]
    stored = read_parameters(resolve(tmp_path / "start" / "run") / TAG)
    for name, tensor in open_model(tmp_path / "export", device="cpu").model.state_dict().items():
        assert torch.allclose(stored[name].load(), tensor, atol=1e-7), name
    figures = evaluate_language_modelling(open_model(tmp_path / "export", device="cpu"), ShardDataset(text), seq_len=64, compare_untrained=False)
    assert losses(tmp_path / "start" / "run")[1]["loss/language_modelling"] == pytest.approx(math.log(figures["perplexity"]), rel=0.1)


def test_what_cannot_be_imported(train_settings: dict, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no export"):
        import_folder(tmp_path, tmp_path / "out", text="x", images=None, entity_store=None, steps=1)
    make_run(tmp_path / "run", train_settings)
    export_run(tmp_path / "run", tmp_path / "export", parity=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(ConfigError, match="something else stands there"):
        import_folder(tmp_path / "export", tmp_path / "mine", text="x", images=None, entity_store=None, steps=1)
    (tmp_path / "export" / "config.json").write_text((tmp_path / "export" / "config.json").read_text() + " ")
    with pytest.raises(DataError, match=r"config.json: \d+ bytes"):
        import_folder(tmp_path / "export", tmp_path / "out", text="x", images=None, entity_store=None, steps=1)
