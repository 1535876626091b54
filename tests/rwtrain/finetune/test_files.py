"""Files of tasks: GLUE's own layouts, files of one's own, SQuAD; and what is said of bad ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from rwtrain.errors import ConfigError, DataError
from rwtrain.finetune.files import Example, columns_of, labels_of, read_examples
from rwtrain.finetune.tasks import TASKS, find_file, own_task

STSB_OFFICIAL = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"


@pytest.mark.parametrize(
    ("task", "name", "text", "expected"),
    [
        ("sst2", "SST-2/train.tsv", 'sentence\tlabel\nan "odd film \t1\n', Example("2", 'an "odd film ', None, 1)),
        ("cola", "CoLA_train.tsv", "gj04\t0\t*\tThey drank the pub.\n", Example("1", "They drank the pub.", None, 0)),
        ("mrpc", "MRPC_train.tsv", "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t12\t13\tOne .\tOther .\n", Example("2", "One .", "Other .", 1)),
        ("rte", "RTE_train.tsv", "index\tsentence1\tsentence2\tlabel\n7\tA\tB\tnot_entailment\n", Example("7", "A", "B", 1)),
        ("stsb", "STS-B_sts-train.tsv", "main\tMSRvid\t2012\t0001\t3.800\tA man.\tA woman.\n", Example("0001", "A man.", "A woman.", 3.8)),
        ("stsb", "STS-B/train.tsv", STSB_OFFICIAL + "0\tg\tf\ty\t1\tn\tn\tA\tB\t5.0\n", Example("0", "A", "B", 5.0)),
    ],
)
def test_layouts_of_glue(tmp_path: Path, task: str, name: str, text: str, expected: Example) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    assert find_file(tmp_path, TASKS[task], "train") == path
    assert read_examples(path, TASKS[task], labels=TASKS[task].labels) == [expected]


def test_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no valid file of sst2.*SST-2_dev.tsv.*--valid"):
        find_file(tmp_path, TASKS["sst2"], "valid")


def test_own_files(tmp_path: Path) -> None:
    lines = tmp_path / "moods.jsonl.gz"
    lines.write_bytes(gzip.compress(b'{"text": "so good", "label": "glad"}\n\n{"text": "so bad", "label": "cross"}\n'))
    task = own_task(columns_of(lines), lines)
    labels = labels_of(lines, task)
    assert (task.kind, task.head, labels) == ("classify", "classifier", ("cross", "glad"))
    assert [example.label for example in read_examples(lines, task, labels=labels)] == [1, 0]
    table = tmp_path / "pairs.csv"
    table.write_text('sentence1,sentence2,score\n"a, b",c,0.5\n')
    task = own_task(columns_of(table), table)
    assert (task.kind, task.head) == ("regress", "embedding")
    assert read_examples(table, task) == [Example("2", "a, b", "c", 0.5)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sentence\tlabel\nfine\t2\n", "record 2: label '2' is none of 0, 1"),
        ("sentence\tlabel\n", "holds no example"),
        ("words\tlabel\nfine\t1\n", "record 2: no sentence"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.tsv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_examples(path, TASKS["sst2"], labels=("0", "1"))


def test_columns_of_one_s_own_must_be_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its columns are a, b"):
        own_task(["a", "b"], tmp_path / "x.tsv")


def squad(answer: dict | None) -> str:
    question = {"id": "q1", "question": "Who?", "answers": [answer] if answer else []}
    return json.dumps({"data": [{"paragraphs": [{"context": "It was Ada.", "qas": [question]}]}]})


def test_squad(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(squad({"text": "Ada", "answer_start": 7}))
    assert read_examples(path, TASKS["squad"]) == [Example("q1", "Who?", "It was Ada.", None, [("Ada", 7)])]
    path.write_text(squad({"text": "Ada", "answer_start": 6}))
    with pytest.raises(DataError, match="record q1: answer 'Ada' is not where"):
        read_examples(path, TASKS["squad"])
