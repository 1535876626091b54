"""Rows of local JSON lines, Parquet, Arrow, CSV or text files, read by the `datasets` library in streaming mode."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

from data_prep.plan import TextSource
from data_prep.records import Bad, Record
from data_prep.sources.spans import Span, whole_files


def spans(source: TextSource, *, unit_bytes: int) -> list[Span]:
    return whole_files(source.paths, source=source.name)


def read(source: TextSource, span: Span) -> Iterator[Record | Bad]:
    """The rows of a file that hold text."""
    rows = _json_lines(span.path) if source.format == "json" and _is_json_lines(span.path) else _dataset_rows(source, span)
    for number, row in enumerate(rows):
        if isinstance(row, Bad):
            yield row
            continue
        text = row.get(source.text_column)
        if not isinstance(text, str):
            yield Bad(span.path, f"row {number}", f"no text in column `{source.text_column}`")
            continue
        key = number if source.id_column is None else row.get(source.id_column)
        yield Record(f"{source.name}:{span.label}:{key}", str(row.get("url") or f"{span.path}#{number}"), text=text, language=source.language)


def _is_json_lines(path: str) -> bool:
    return path.endswith((".jsonl", ".jsonl.gz"))


def _json_lines(path: str) -> Iterator[dict[str, Any] | Bad]:
    """Rows of a JSON lines file; unlike `datasets`, one bad line costs that line only."""
    with gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb") as stream:
        number = -1
        try:
            for number, line in enumerate(stream):
                if not line.strip():
                    continue
                yield _parse_line(path, number, line)
        except (EOFError, OSError) as error:
            yield Bad(path, f"after line {number + 1}", f"the rest of the file cannot be read ({error})")


def _parse_line(path: str, number: int, line: bytes) -> dict[str, Any] | Bad:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Bad(path, f"line {number + 1}", f"invalid UTF-8 at byte {error.start} of the line")
    except ValueError as error:
        return Bad(path, f"line {number + 1}", f"not JSON ({error})")
    return row if isinstance(row, dict) else Bad(path, f"line {number + 1}", "not a JSON object")


def _dataset_rows(source: TextSource, span: Span) -> Iterator[dict[str, Any] | Bad]:
    from datasets import load_dataset  # slow to import, and only this source needs it

    number = -1
    try:
        for number, row in enumerate(load_dataset(source.format, data_files=span.path, split="train", streaming=True)):  # noqa: B007
            yield dict(row)
    except Exception as error:
        yield Bad(span.path, f"after row {number + 1}", f"the rest of the file cannot be read ({type(error).__name__}: {error})")
