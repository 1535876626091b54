"""Rows of CSV files (RFC 4180, read as pandas and Python's `csv` read it), in stretches; a record may go over several lines."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from data_prep.records import Bad
from data_prep.sources.plain import COMPRESSED, UNREADABLE, cut_plain, open_plain
from data_prep.sources.spans import Cuts, Span, at_places

QUOTED, UNQUOTED = rb'"(?:[^"]|"")*+"[^,]*+', rb'[^",][^,]*+'
FIELD = rb"(?:" + QUOTED + rb"|" + UNQUOTED + rb")?"
# A line with which a record ends: one that begins a record, and one that begins inside quotation marks.
WHOLE = re.compile(rb"(?:" + FIELD + rb",)*+" + FIELD)
REST = re.compile(rb'(?:[^"]|"")*+"[^,]*+(?:,' + FIELD + rb")*+")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def cut(path: str, prefix: Path, *, unit_bytes: int, max_record_bytes: int) -> Cuts:
    """Stretches between records: every record is looked at once, as only the ones before tell whether a line begins one."""

    def places(stream: BinaryIO, size: int) -> Cuts:
        begins = (place for place, _ in records(stream, 0, size, max_bytes=max_record_bytes))
        return at_places(begins, size, unit_bytes=unit_bytes)

    return cut_plain(path, prefix, unit_bytes=unit_bytes, cut=places)


def rows(span: Span, *, max_record_bytes: int) -> Iterator[tuple[int, dict[str, Any]] | Bad]:
    """(First byte, row by the names of the file's first record) of a stretch; one bad record costs that record only."""
    # The size of what a compressed file holds is known only if it has an index; without one the span is the whole file.
    stop = None if span.index is None and span.path.partition("::")[0].endswith(COMPRESSED) else span.stop
    csv.field_size_limit(sys.maxsize)  # records are limited, so fields need not be
    place = span.start
    try:
        with open_plain(span) as stream:
            head, names = next(records(stream, 0, None, max_bytes=max_record_bytes), (0, b""))
            columns = _fields((names or b"").removeprefix(BYTE_ORDER_MARK))
            stream.seek(span.start)
            for place, record in records(stream, span.start, stop, max_bytes=max_record_bytes):
                if place == head:
                    continue
                if record is None:
                    yield Bad(span.path, f"byte {place}", f"a record larger than {max_record_bytes} bytes; is a quotation mark not closed?")
                    continue
                try:
                    fields = _fields(record)
                except (UnicodeDecodeError, csv.Error) as error:
                    yield Bad(span.path, f"byte {place}", f"not a CSV record in UTF-8 ({error})")
                    continue
                if len(fields) > len(columns):
                    yield Bad(span.path, f"byte {place}", f"{len(fields)} fields, the first record has {len(columns)}")
                    continue
                yield place, dict(zip(columns, fields, strict=False))
    except (*UNREADABLE, UnicodeDecodeError, csv.Error) as error:
        yield Bad(span.path, f"byte {place}", f"the rest of the file cannot be read ({error})")


def records(stream: BinaryIO, start: int, stop: int | None, *, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """(First byte, bytes) of the records that begin before `stop`, from the place `start` of the stream on; None for one that is too large.

    Behind a line that is too large for a record, another record begins.
    """
    position = begin = start
    parts: list[bytes] = []
    length, is_open = 0, False
    while line := stream.readline(max_bytes + 1):
        if not is_open:
            begin, parts, length = position, [], 0
            if stop is not None and begin >= stop:
                return
        position += len(line)
        length += len(line)
        if len(line) > max_bytes:
            while not line.endswith(b"\n") and (line := stream.readline(max_bytes)):
                position += len(line)
            yield begin, None
            is_open = False
            continue
        if not is_open and not line.strip():
            continue
        is_open = not _ends_record(line, inside=is_open)
        if length <= max_bytes:
            parts.append(line)
        if not is_open:
            yield begin, b"".join(parts) if length <= max_bytes else None
    if is_open:
        yield begin, b"".join(parts) if length <= max_bytes else None


def _ends_record(line: bytes, *, inside: bool) -> bool:
    """Whether a record ends with a line, which begins `inside` quotation marks or not."""
    if b'"' not in line:
        return not inside
    return (REST if inside else WHOLE).fullmatch(line.rstrip(b"\r\n")) is not None


def _fields(record: bytes) -> list[str]:
    return next(csv.reader([record.decode("utf-8")]), [])
