"""Rows of Parquet and Arrow files, by groups of rows that can be read without the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.inputs import is_remote, open_input, size_of
from data_prep.records import Bad
from data_prep.sources.spans import Cuts, Span, grouped, whole

ROWS_AT_ONCE = 64
ARROW_FILE = b"ARROW1"
UNREADABLE = (pa.ArrowException, OSError, EOFError, ValueError)


def cut(path: str, *, unit_bytes: int) -> Cuts:
    """Stretches of row groups (Parquet) or record batches (Arrow); a file that cannot be read is one stretch, whose reader says why."""
    try:
        if path.endswith(".arrow"):
            return grouped([batch.nbytes for batch in _batches(path)], unit_bytes=unit_bytes)
        with pq.ParquetFile(_file(path)) as file:
            sizes = [file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups)]
        return grouped(sizes, unit_bytes=unit_bytes)
    except UNREADABLE:
        return whole(size_of(path))


def rows(span: Span, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, Any]] | Bad]:
    """(row number, row) of a stretch, with these columns and the optional ones that exist; a damaged group of rows costs that group."""
    try:
        yield from _arrow_rows(span, columns, optional) if span.path.endswith(".arrow") else _parquet_rows(span, columns, optional)
    except UNREADABLE as error:
        yield Bad(span.path, "all rows", f"the file cannot be read ({type(error).__name__}: {error})")


def _parquet_rows(span: Span, columns: Sequence[str], optional: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]] | Bad]:
    with pq.ParquetFile(_file(span.path)) as file:
        chosen = _chosen(span, file.schema_arrow.names, columns, optional)
        if isinstance(chosen, Bad):
            yield chosen
            return
        counts = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        for group in range(span.start, min(span.stop, len(counts))):
            number = first = sum(counts[:group])
            try:
                for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, row_groups=[group], columns=chosen):
                    for row in _values(span, number, batch):
                        yield row
                        number += 1
            except UNREADABLE as error:
                yield Bad(span.path, f"rows {number} to {first + counts[group] - 1}", f"they cannot be read ({error})")


def _arrow_rows(span: Span, columns: Sequence[str], optional: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]] | Bad]:
    number = 0
    for place, batch in enumerate(_batches(span.path)):
        if place >= span.stop:
            return
        if place >= span.start:
            chosen = _chosen(span, batch.schema.names, columns, optional)
            if isinstance(chosen, Bad):
                yield chosen
                return
            for start in range(0, batch.num_rows, ROWS_AT_ONCE):
                yield from _values(span, number + start, batch.select(chosen).slice(start, ROWS_AT_ONCE))
        number += batch.num_rows


def _chosen(span: Span, names: Sequence[str], columns: Sequence[str], optional: Sequence[str]) -> list[str] | Bad:
    if missing := [name for name in columns if name not in names]:
        return Bad(span.path, "all rows", f"no column `{missing[0]}`; there are {', '.join(names)}")
    return [*columns, *(name for name in optional if name in names and name not in columns)]


def _values(span: Span, number: int, batch: pa.RecordBatch) -> Iterator[tuple[int, dict[str, Any]] | Bad]:
    try:
        yield from enumerate(batch.to_pylist(), number)
    except UnicodeDecodeError:
        for place in range(batch.num_rows):
            try:
                yield number + place, batch.slice(place, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield Bad(span.path, f"row {number + place}", f"invalid UTF-8 at byte {error.start}")


def _file(path: str) -> Any:
    return open_input(path) if is_remote(path) else Path(path)


def _batches(path: str) -> Iterator[pa.RecordBatch]:
    """The record batches of an Arrow file in either format; local ones are memory-mapped."""
    source = pa.PythonFile(open_input(path)) if is_remote(path) else pa.memory_map(path)
    with source:
        if source.read(len(ARROW_FILE)) == ARROW_FILE:
            file = pa.ipc.open_file(source)
            for number in range(file.num_record_batches):
                yield file.get_batch(number)
        else:
            source.seek(0)
            yield from pa.ipc.open_stream(source)
