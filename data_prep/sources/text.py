"""Rows with a text column: JSON lines, text, CSV, Parquet, Arrow and saved datasets in stretches; other JSON by the `datasets` library."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.inputs import is_remote, size_of
from data_prep.records import Bad, Record
from data_prep.source_plan import TextSource
from data_prep.sources import csv_rows, tables
from data_prep.sources.plain import COMPRESSED, UNREADABLE, cut_plain, open_plain
from data_prep.sources.spans import Cuts, Span, even, whole

FORMATS = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".txt": "text"}
JSON_LINES = (".jsonl", ".ndjson")


def cut(source: TextSource, path: str, prefix: Path, *, unit_bytes: int) -> Cuts:
    kind = _format(source, path)
    if kind in ("parquet", "arrow"):
        return tables.cut(path, unit_bytes=unit_bytes)
    if kind == "csv":
        return csv_rows.cut(path, prefix, unit_bytes=unit_bytes, max_record_bytes=source.max_record_bytes)
    if kind == "text" or _is_json_lines(path):
        return cut_plain(path, prefix, unit_bytes=unit_bytes, cut=lambda _, size: even(size, unit_bytes=unit_bytes))
    return whole(size_of(path))


def read(source: TextSource, span: Span) -> Iterator[Record | Bad]:
    """The rows of a stretch that hold text. A row is known by its number, or by its first byte in files of lines."""
    kind = _format(source, span.path)
    if kind in ("parquet", "arrow"):
        rows = tables.rows(span, [source.text_column, *([source.id_column] if source.id_column else [])], ["url"])
    elif kind == "csv":
        rows = csv_rows.rows(span, max_record_bytes=source.max_record_bytes)
    elif kind == "text" or _is_json_lines(span.path):
        rows = _line_rows(source, span, kind)
    else:
        rows = _dataset_rows(kind, span)
    unit = "byte" if kind in ("csv", "text") or _is_json_lines(span.path) else "row"
    for item in rows:
        if isinstance(item, Bad):
            yield item
            continue
        place, row = item
        text = row.get(source.text_column)
        if not isinstance(text, str):
            yield Bad(span.path, f"{unit} {place}", f"no text in column `{source.text_column}`")
            continue
        key = place if source.id_column is None else row.get(source.id_column)
        yield Record(f"{source.name}:{span.label}:{key}", str(row.get("url") or f"{span.path}#{place}"), text=text, language=source.language)


def _format(source: TextSource, path: str) -> str:
    if source.format is not None and not path.endswith(".arrow"):
        return source.format
    return FORMATS.get(_suffix(path), "json")


def _suffix(path: str) -> str:
    """Last suffix of a file's name, looking through compression."""
    name = Path(path.partition("::")[0])
    return Path(name.stem).suffix if name.suffix in COMPRESSED else name.suffix


def _is_json_lines(path: str) -> bool:
    return _suffix(path) in JSON_LINES


def _line_rows(source: TextSource, span: Span, kind: str) -> Iterator[tuple[int, dict[str, Any]] | Bad]:
    """Lines that begin in the span; one bad line costs that line only."""
    for item in _lines(span, max_bytes=source.max_record_bytes):
        if isinstance(item, Bad):
            yield item
            continue
        place, line = item
        try:
            text = line.decode("utf-8")
            row = {source.text_column: text.rstrip("\r\n")} if kind == "text" else json.loads(text)
        except UnicodeDecodeError as error:
            yield Bad(span.path, f"byte {place}", f"invalid UTF-8 at byte {error.start} of the line")
            continue
        except (ValueError, RecursionError) as error:
            yield Bad(span.path, f"byte {place}", f"not JSON ({error})")
            continue
        yield (place, row) if isinstance(row, dict) else Bad(span.path, f"byte {place}", "not a JSON object")


def _lines(span: Span, *, max_bytes: int) -> Iterator[tuple[int, bytes] | Bad]:
    """(first byte, line) of the lines that are not blank."""
    position = span.start
    # The size of what a compressed file holds is known only if it has an index; without one the span is the whole file.
    stop = None if span.index is None and span.path.partition("::")[0].endswith(COMPRESSED) else span.stop
    try:
        with open_plain(span) as stream:
            if position > 0:
                position -= 1
                stream.seek(position)
                while not (rest := stream.readline(max_bytes)).endswith(b"\n") and rest:
                    position += len(rest)
                position += len(rest)
            while stop is None or position < stop:
                line = stream.readline(max_bytes + 1)
                begin, length = position, len(line)
                while length > max_bytes and line and not line.endswith(b"\n"):
                    line = stream.readline(max_bytes)
                    length += len(line)
                position += length
                if not length:
                    return
                if length > max_bytes:
                    yield Bad(span.path, f"byte {begin}", f"a line larger than {max_bytes} bytes")
                elif line.strip():
                    yield begin, line
    except UNREADABLE as error:
        yield Bad(span.path, f"byte {position}", f"the rest of the file cannot be read ({error})")


def _dataset_rows(kind: str, span: Span) -> Iterator[tuple[int, dict[str, Any]] | Bad]:
    from datasets import load_dataset  # slow to import, and only these formats need it

    number = -1
    path = span.path if is_remote(span.path) else str(Path(span.path).absolute())
    try:
        for number, row in enumerate(load_dataset(kind, data_files=path, split="train", streaming=True)):
            yield number, dict(row)
    except Exception as error:
        yield Bad(span.path, f"after row {number + 1}", f"the rest of the file cannot be read ({type(error).__name__}: {error})")
