"""The tasks: what their files look like, what is predicted, and how it is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rwtrain.errors import ConfigError

Kind = Literal["classify", "regress", "answer"]
Head = Literal["classifier", "embedding", "answer"]


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        kind: a class of a text or pair, a number for it, or an answer inside a context.
        columns: first text, second text (None for single texts), gold label.
        labels: the classes by number; empty: those of the training file in alphabetical order.
        stem: how GLUE calls the files.
        headerless: column names of tables without a header, by their number of columns.
        metrics: official ones, the first leads.
        head: the default head.
    """

    name: str
    kind: Kind
    columns: tuple[str, str | None, str]
    labels: tuple[str, ...] = ()
    stem: str = ""
    headerless: tuple[tuple[str, ...], ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    head: Head = "classifier"


BINARY = ("0", "1")
ENTAILMENT = ("entailment", "not_entailment")
STSB_COLUMNS = ("genre", "file", "year", "index", "score", "sentence1", "sentence2")
TASKS = {
    task.name: task
    for task in (
        Task("sst2", "classify", ("sentence", None, "label"), BINARY, "SST-2"),
        Task(
            "cola",
            "classify",
            ("sentence", None, "label"),
            BINARY,
            "CoLA",
            headerless=(("source", "label", "mark", "sentence"),),
            metrics=("matthews_correlation", "accuracy"),
        ),
        Task("mrpc", "classify", ("#1 String", "#2 String", "Quality"), BINARY, "MRPC", metrics=("accuracy", "f1")),
        Task("rte", "classify", ("sentence1", "sentence2", "label"), ENTAILMENT, "RTE"),
        Task("qnli", "classify", ("question", "sentence", "label"), ENTAILMENT, "QNLI"),
        Task("wnli", "classify", ("sentence1", "sentence2", "label"), BINARY, "WNLI"),
        Task(
            "stsb",
            "regress",
            ("sentence1", "sentence2", "score"),
            (),
            "STS-B",
            headerless=(STSB_COLUMNS, (*STSB_COLUMNS, "source1"), (*STSB_COLUMNS, "source1", "source2")),
            metrics=("pearson", "spearman"),
            head="embedding",
        ),
        Task("squad", "answer", ("question", "context", "answers"), metrics=("f1", "exact_match"), head="answer"),
    )
}
# Tasks of one's own: what the columns are called.
TEXT_COLUMNS = (("text", None), ("sentence1", "sentence2"), ("sentence", None))
SPLITS = {"train": ("train", "sts-train"), "valid": ("dev", "sts-dev")}


def own_task(columns: Sequence[str], path: Path) -> Task:
    """The task of a file with the columns text, or sentence1 and sentence2, and label (a class) or score (a number).

    Raises:
        ConfigError: it has no such columns.
    """
    texts = next((pair for pair in TEXT_COLUMNS if pair[0] in columns and (pair[1] is None or pair[1] in columns)), None)
    gold = next((name for name in ("label", "score") if name in columns), None)
    if texts is None or gold is None:
        raise ConfigError(f"{path}: its columns are {', '.join(columns)}. Name them text, or sentence1 and sentence2, and label (classes) or score (numbers).")
    if gold == "score":
        return Task(path.stem, "regress", (*texts, gold), metrics=("pearson", "spearman"), head="embedding" if texts[1] else "classifier")
    return Task(path.stem, "classify", (*texts, gold), metrics=("accuracy", "macro_f1"))


def find_file(folder: Path, task: Task, split: Literal["train", "valid"]) -> Path:
    """The task's file in a GLUE folder: `SST-2/train.tsv`, `SST-2_train.tsv` or either as .gz.

    Raises:
        ConfigError: it is not there.
    """
    names = [f"{start}{part}.tsv{end}" for part in SPLITS[split] for start in (f"{task.stem}_", f"{task.stem}/") for end in ("", ".gz")]
    for name in names:
        if task.stem and (folder / name).is_file():
            return folder / name
    wanted = names[0] if task.stem else "a file of SQuAD's format"
    raise ConfigError(f"{folder}: no {split} file of {task.name} (for example {wanted}). Name it with --{split} FILE, or correct --data.")
