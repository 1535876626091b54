"""Semantic textual similarity: does the cosine of two embeddings agree with people's scores?"""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from rwtrain.errors import DataError
from rwtrain.evaluate.model import EvaluatedModel, untrained

COLUMNS = ("sentence1", "sentence2", "score")
# Columns of tables without a header, by their number: plain pairs, and the STS benchmark's own files (Cer et al. 2017).
HEADERLESS = {3: list(COLUMNS), 7: ["genre", "file", "year", "index", "score", "sentence1", "sentence2"]}


def read_pairs(path: str | Path) -> tuple[list[str], list[str], np.ndarray]:
    """(first sentences, second sentences, scores) from a JSON-lines file, or a TSV or CSV file; plain or as .gz.

    A table has a header with these names, or none: then it has three columns in this order, or the seven of the STS benchmark's files.

    Raises:
        DataError: no such file, a field is missing, or a score is no number.
    """
    path = Path(path)
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") if path.suffix == ".gz" else path.open(encoding="utf-8", newline="") as stream:
            kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
            records = list(_json_lines(path, stream) if kind == ".jsonl" else _table(stream, tabs=kind == ".tsv"))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(path, f"cannot be read ({error})", "Give a .jsonl, .tsv or .csv file in UTF-8, plain or as .gz") from error
    firsts, seconds, scores = [], [], []
    for number, record in records:
        missing = [name for name in COLUMNS if not isinstance(record.get(name), (str, int, float))]
        if missing:
            raise DataError(path, f"no {', no '.join(missing)}", f"Every record needs {', '.join(COLUMNS)}", record=number)
        try:
            score = float(record["score"])
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise DataError(path, f"score {record['score']!r} is no number", "Correct it or leave the record out", record=number)
        firsts.append(str(record["sentence1"]))
        seconds.append(str(record["sentence2"]))
        scores.append(score)
    if len(scores) < 2:
        raise DataError(path, f"{len(scores)} pairs", "A correlation needs two or more")
    return firsts, seconds, np.array(scores)


def _json_lines(path: Path, stream: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(path, f"not JSON ({error})", "Write one JSON object per line", record=number) from error
        if not isinstance(record, dict):
            raise DataError(path, "not a JSON object", "Write one JSON object per line", record=number)
        yield number, record


def _table(stream: TextIO, *, tabs: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = csv.reader(stream, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL)
    first = next(rows, [])
    header = first if set(COLUMNS) <= set(first) else HEADERLESS.get(len(first), first)
    if header is not first:
        yield rows.line_num, dict(zip(header, first, strict=True))
    for row in rows:
        if row:
            yield rows.line_num, dict(zip(header, row, strict=False))


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def pearson(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation; 0 if one of them does not vary."""
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / norm) if norm else 0.0


def evaluate_similarity(model: EvaluatedModel, path: str | Path, *, compare_untrained: bool = True, progress: bool = False) -> dict[str, Any]:
    """Spearman's and Pearson's correlation of cosine and score, beside a model before training.

    Returns:
        spearman, pearson, untrained_spearman, untrained_pearson (None where not asked for), pairs.

    Raises:
        DataError: the file cannot be used (see `read_pairs`).
    """
    firsts, seconds, scores = read_pairs(path)
    result: dict[str, Any] = {"spearman": None, "pearson": None, "untrained_spearman": None, "untrained_pearson": None, "pairs": len(scores)}
    for prefix, judge in (("", model), ("untrained_", untrained(model) if compare_untrained else None)):
        if judge is None:
            continue
        vectors = judge.embed_texts(firsts + seconds, progress="sentences" if progress else None)
        cosines = (vectors[: len(firsts)].astype(np.float64) * vectors[len(firsts) :]).sum(1)
        result[prefix + "spearman"] = pearson(ranks(cosines), ranks(scores))
        result[prefix + "pearson"] = pearson(cosines, scores)
    return result
