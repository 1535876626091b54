"""Examples of a task from its files: TSV, CSV or JSON lines with named columns, or SQuAD's JSON; plain or as .gz."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rwtrain.errors import DataError
from rwtrain.finetune.tasks import Task

Record = tuple[int, dict[str, Any]]
KINDS = ".jsonl, .tsv or .csv (.json for SQuAD) in UTF-8, plain or as .gz"


@dataclass(frozen=True)
class Example:
    """One example.

    Attributes:
        second: the other text of a pair, or the context of a question.
        label: class number or score, None where the file has none.
        answers: (text, first character in the context) of a question; empty: it has no answer there.
    """

    id: str
    first: str
    second: str | None = None
    label: float | None = None
    answers: list[tuple[str, int]] = field(default_factory=list)


def suffix(path: Path) -> str:
    """The kind of a file by its name, without .gz."""
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def open_text(path: Path) -> TextIO:
    return gzip.open(path, "rt", encoding="utf-8-sig", newline="") if path.suffix == ".gz" else path.open(encoding="utf-8-sig", newline="")


def read_records(path: Path, headerless: tuple[tuple[str, ...], ...] = (), needed: tuple[str, ...] = ()) -> Iterator[Record]:
    """(line, record) of a table or a JSON-lines file.

    Args:
        headerless: column names where the first row is no header, that is, lacks one of `needed`.

    Raises:
        DataError: the file cannot be read, or a line is malformed.
    """
    try:
        with open_text(path) as stream:
            yield from _json_lines(path, stream) if suffix(path) == ".jsonl" else _table(path, stream, headerless, needed)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(path, f"cannot be read ({error})", f"Give a file {KINDS}") from error


def _json_lines(path: Path, stream: TextIO) -> Iterator[Record]:
    for number, line in enumerate(stream, 1):
        if line.strip():
            try:
                record = json.loads(line)
            except ValueError as error:
                raise DataError(path, f"not JSON ({error})", "Write one JSON object per line", record=number) from error
            if not isinstance(record, dict):
                raise DataError(path, "not a JSON object", "Write one JSON object per line", record=number)
            yield number, record


def _table(path: Path, stream: TextIO, headerless: tuple[tuple[str, ...], ...], needed: tuple[str, ...]) -> Iterator[Record]:
    tabs = suffix(path) == ".tsv"
    csv.field_size_limit(1 << 24)
    rows = csv.reader(stream, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL)
    first = next(rows, [])
    header = tuple(first)
    if not set(needed) <= set(first):
        header = next((names for names in headerless if len(names) == len(first)), header)
        if header != tuple(first):
            yield rows.line_num, dict(zip(header, first, strict=True))
    for row in rows:
        if row:
            yield rows.line_num, dict(zip(header, row, strict=False))


def columns_of(path: Path) -> list[str]:
    """The column names of a table with a header, or the keys of the first JSON line."""
    _, record = next(read_records(path), (0, {}))
    return list(record)


def read_examples(path: Path, task: Task, *, labels: tuple[str, ...] = ()) -> list[Example]:
    """All examples of a file.

    Args:
        labels: the classes by number.

    Raises:
        DataError: names the file, the record and what is wrong with it.
    """
    if task.kind == "answer":
        return read_squad(path)
    first, second, gold = task.columns
    needed = tuple(name for name in (first, second) if name)
    numbers = {name: number for number, name in enumerate(labels)}
    found = []
    for number, record in read_records(path, task.headerless, (*needed, gold)):
        missing = [name for name in needed if not isinstance(record.get(name), str)]
        if missing:
            raise DataError(path, f"no {', no '.join(missing)}", f"Every record needs {', '.join(needed)}", record=number)
        label = _label(path, number, task, record.get(gold), numbers)
        found.append(Example(str(record.get("id", record.get("index", number))), record[first], record[second] if second else None, label))
    if not found:
        raise DataError(path, "holds no example", f"Give a file {KINDS}, with the columns {', '.join((*needed, gold))}")
    return found


def _label(path: Path, number: int, task: Task, value: Any, numbers: dict[str, int]) -> float | None:
    if value is None or value == "":
        return None
    if task.kind == "regress":
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise DataError(path, f"score {value!r} is no number", "Correct it or leave the record out", record=number) from error
    if str(value) not in numbers:
        raise DataError(path, f"label {value!r} is none of {', '.join(numbers)}", "Correct it, or leave the record out", record=number)
    return numbers[str(value)]


def labels_of(path: Path, task: Task) -> tuple[str, ...]:
    """The classes of a task: its own, or those of its training file in alphabetical order."""
    if task.labels or task.kind != "classify":
        return task.labels
    return tuple(sorted({str(record[task.columns[2]]) for _, record in read_records(path) if record.get(task.columns[2]) not in (None, "")}))


def read_squad(path: Path) -> list[Example]:
    """Questions of a file in SQuAD's format (1.1, 2.0, XQuAD).

    Raises:
        DataError: it is not in that format, or an answer is not where it is said to be.
    """
    try:
        with open_text(path) as stream:
            articles = json.load(stream)["data"]
        found = []
        for article in articles:
            for paragraph in article["paragraphs"]:
                context = paragraph["context"]
                for question in paragraph["qas"]:
                    answers = [(answer["text"], int(answer["answer_start"])) for answer in question.get("answers", [])]
                    wrong = next((text for text, start in answers if context[start : start + len(text)] != text), None)
                    if wrong is not None:
                        raise DataError(path, f"answer {wrong!r} is not where answer_start says", "Correct the file", record=question["id"])
                    found.append(Example(str(question["id"]), question["question"], context, answers=answers))
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DataError(path, f"not a file of SQuAD's format ({error!r})", "Give a .json file with data, paragraphs, qas, plain or as .gz") from error
    if not found:
        raise DataError(path, "holds no question", "Give another file")
    return found
