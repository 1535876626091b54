"""Work units of the first stage: a stretch of one input file."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rwtrain.errors import DataError


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of an input file.

    Attributes:
        path: the file.
        label: short name of the file, unique within its source; document ids begin with it.
        start: first byte, row or image.
        stop: one past the last.
        weight: how many input bytes this is, for progress.
        companions: other files that the stretch needs (labels of images).
    """

    path: str
    label: str
    start: int
    stop: int
    weight: int
    companions: tuple[str, ...] = ()


def find_files(patterns: Sequence[str], *, source: str) -> list[tuple[str, str]]:
    """(path, label) of every file that the patterns match, sorted within each pattern.

    Raises:
        DataError: a pattern matches no file.
    """
    paths: list[str] = []
    for pattern in patterns:
        found = sorted(name for name in glob.glob(pattern, recursive=True) if os.path.isfile(name))
        if not found:
            raise DataError(pattern, f"no file matches (source `{source}`)", f"Correct the path; it is read relative to the current folder, {Path.cwd()}")
        paths += [name for name in found if name not in paths]
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    return [(path, os.path.relpath(os.path.abspath(path), folder).replace(os.sep, "/")) for path in paths]


def whole_files(patterns: Sequence[str], *, source: str) -> list[Span]:
    """One span per file."""
    spans = []
    for path, label in find_files(patterns, source=source):
        size = os.path.getsize(path)
        spans.append(Span(path, label, 0, size, size))
    return spans


def byte_ranges(patterns: Sequence[str], *, source: str, unit_bytes: int) -> list[Span]:
    """Spans of about `unit_bytes` each; a record belongs to the span in which it begins."""
    spans = []
    for path, label in find_files(patterns, source=source):
        size = os.path.getsize(path)
        count = max(1, round(size / unit_bytes))
        edges = [size * number // count for number in range(count + 1)]
        spans += [Span(path, label, start, stop, stop - start) for start, stop in itertools.pairwise(edges)]
    return spans
