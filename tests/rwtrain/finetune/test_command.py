"""`rwtrain finetune` in real processes: an agreed stop, an exact continuation on other ranks, and the folder it leaves behind."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.forked_ranks import Job
from rwtrain.cli import main
from rwtrain.config.finetune import FinetuneConfig
from rwtrain.config.load import load_config
from rwtrain.errors import ConfigError
from rwtrain.export.export import export_run
from rwtrain.finetune.command import finish
from rwtrain.finetune.work import Prepared
from tests.rwtrain.export.random_run import make_run
from tests.rwtrain.train.runs import losses, wait_for_step

WORDS = {"good": ["fine", "lovely", "warm"], "bad": ["dull", "cold", "bleak"]}
SETTINGS = {
    "epochs": 4,
    "dropout": 0.0,
    "batch": {"seq_len": 32, "rows": 4},
    "optimizer": {"learning_rate": 5e-3, "warmup_steps": 2},
    "engine": {"overlays": ["zero2", "fp32"]},
    "checkpoint": {"every_steps": 5},
    "logging": {"every_steps": 1, "tensorboard": False},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, train_settings: dict) -> Path:
    folder = tmp_path_factory.mktemp("finetune")
    make_run(folder / "run", train_settings, initializer_range=0.05)
    export_run(folder / "run", folder / "export", parity=False)
    draw = np.random.default_rng(0)
    for name, count in (("train", 120), ("valid", 40)):
        lines = ["text\tlabel"]
        for _ in range(count):
            mood = str(draw.choice(sorted(WORDS)))
            lines.append(f"a {draw.choice(WORDS[mood])} film about {draw.choice(['trees', 'ships', 'a king'])}\t{mood}")
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    (folder / "settings.yaml").write_text(yaml.safe_dump({**SETTINGS, "model": str(folder / "export")}))
    return folder


def arguments(base: Path, run: Path) -> list[str]:
    files = ["--task", str(base / "train.tsv"), "--valid", str(base / "valid.tsv")]
    return ["finetune", "--config", str(base / "settings.yaml"), *files, "--out", str(run)]


def test_stopped_and_continued_on_other_ranks_then_judged(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert Job(arguments(base, whole), processes=1, output=tmp_path / "whole.output").wait() == [0], (tmp_path / "whole.output").read_text()[-2000:]
    job = Job(arguments(base, run), processes=2, output=tmp_path / "run.output")
    wait_for_step(run, 4, job.ended)
    job.send(signal.SIGTERM, ranks=[1])
    assert job.wait() == [85, 85], job.output.read_text()[-2000:]
    assert Job(arguments(base, run), processes=1, output=tmp_path / "again.output").wait() == [0], (tmp_path / "again.output").read_text()[-2000:]
    expected, found = losses(whole), losses(run) | losses(run, 1)
    assert found.keys() == expected.keys()
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=1e-3, abs=1e-5), step
    prepared = Prepared.read(
        load_config(FinetuneConfig, base / "settings.yaml", [f"run={run}", f"task.name={base / 'train.tsv'}", f"task.valid={base / 'valid.tsv'}"])
    )
    results = finish(prepared, with_baselines=True)
    assert results["figures"]["accuracy"] > 0.9  # six words decide
    assert results["baselines"]["bag of words"]["accuracy"] == 1.0
    assert results["baselines"]["majority"]["accuracy"] < 0.7
    assert json.loads((run / "results.json").read_text()) == results
    predictions = (run / "predictions.tsv").read_text().splitlines()
    assert len(predictions) == 41
    capsys.readouterr()
    assert main(["eval", "glue", str(run / "export"), str(base / "valid.tsv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == results["figures"]["accuracy"]
    model = AutoModelForSequenceClassification.from_pretrained(run / "export", trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(run / "export", trust_remote_code=True)
    assert model.config.id2label == {0: "bad", 1: "good"}
    with torch.no_grad():
        logits = model(**tokenizer("a lovely film about ships", return_tensors="pt")).logits
    assert model.config.id2label[int(logits.argmax())] == "good"
    report = export_run(run, tmp_path / "again")  # with the parity check of a head
    assert report["parity"]["differences"]["task_logits"] < 1e-3
    with pytest.raises(ConfigError, match="hide_rate"):
        Prepared.read(prepared.config.model_copy(update={"hide_rate": 0.5})).check_unchanged()
