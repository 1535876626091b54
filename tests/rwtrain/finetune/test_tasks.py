"""Every named task from GLUE's files to a loss: what its file says reaches the head."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rwtrain.config.finetune import FinetuneConfig
from rwtrain.errors import ConfigError
from rwtrain.finetune.objective import FinetuningTask
from rwtrain.finetune.work import CLASSES, Prepared
from tests.rwtrain.export.random_run import make_run

ROWS = {
    "sst2": ("SST-2", "sentence\tlabel\n", ["a warm film\t1\n", "a cold film\t0\n"]),
    "cola": ("CoLA", "", ["gj04\t1\t\tThey drank.\n", "gj04\t0\t*\tThey drank the pub.\n"]),
    "mrpc": ("MRPC", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n", ["1\t1\t2\tOne .\tOne .\n", "0\t3\t4\tOne .\tTwo .\n"]),
    "rte": ("RTE", "index\tsentence1\tsentence2\tlabel\n", ["0\tA\tB\tentailment\n", "1\tA\tC\tnot_entailment\n"]),
    "qnli": ("QNLI", "index\tquestion\tsentence\tlabel\n", ["0\tWho?\tAda.\tentailment\n", "1\tWho?\tNo.\tnot_entailment\n"]),
    "wnli": ("WNLI", "index\tsentence1\tsentence2\tlabel\n", ["0\tA\tB\t1\n", "1\tA\tC\t0\n"]),
    "stsb": ("STS-B", "index\tsentence1\tsentence2\tscore\n", ["0\tA man.\tA man.\t5.0\n", "1\tA man.\tA tree.\t0.5\n"]),
}
QUESTION = {"id": "q", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 7}]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, train_settings: dict) -> Path:
    folder = tmp_path_factory.mktemp("tasks") / "run"
    make_run(folder, train_settings)
    return folder


def write_files(task: str, folder: Path) -> dict[str, str]:
    if task == "squad":
        text = json.dumps({"data": [{"paragraphs": [{"context": "It was Ada.", "qas": [QUESTION]}]}]})
        (folder / "train.json").write_text(text)
        return {"train": str(folder / "train.json")}
    stem, header, rows = ROWS[task]
    for split in ("train", "dev"):
        (folder / f"{stem}_{split}.tsv").write_text(header + "".join(rows))
    return {"data": str(folder)}


@pytest.mark.parametrize("task", [*ROWS, "squad"])
def test_a_batch_of_each_task_moves_its_head(task: str, run: Path, tmp_path: Path) -> None:
    settings = {"run": str(tmp_path / "run"), "model": str(run), "task": {"name": task, **write_files(task, tmp_path)}, "dropout": 0.0}
    prepared = Prepared.read(FinetuneConfig.model_validate({**settings, "batch": {"seq_len": 32, "rows": 1}}))
    loader = prepared.loader(rank=0, world_size=1)
    batch = loader.micro_batch(0, 0)
    objective = FinetuningTask(prepared.files.task.kind, prepared.head, slots=loader.slots, score_range=(0.0, 5.0), replicas=1)
    model = CLASSES[prepared.head](prepared.model_config)
    total = objective(model, batch, objective.counts(batch)).total
    total.backward()
    head = {"classifier": "score.weight", "answer": "qa_outputs.weight", "embedding": "model.embedding_projection.weight"}[prepared.head]
    gradient = dict(model.named_parameters())[head].grad
    assert int(batch.valid.sum()) == (1 if task == "squad" else 2)
    assert gradient is not None
    assert gradient.abs().sum() > 0
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad
        assert float(objective(model, batch, objective.counts(batch)).total) < float(total)


def test_a_task_without_a_training_file_says_which(run: Path, tmp_path: Path) -> None:
    write_files("qnli", tmp_path)
    (tmp_path / "QNLI_train.tsv").unlink()
    settings = {"run": str(tmp_path / "run"), "model": str(run), "task": {"name": "qnli", "data": str(tmp_path)}}
    with pytest.raises(ConfigError, match=r"no train file of qnli.*QNLI_train.tsv.*--train"):
        Prepared.read(FinetuneConfig.model_validate(settings))
