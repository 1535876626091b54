"""Work units of the first stage: a stretch of one input file."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

from data_prep.inputs import size_of
from data_prep.records import Bad


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of an input file.

    Attributes:
        path: the file, or its URL.
        label: short name of the file, unique within its source; document ids begin with it.
        start: first byte, row group or image.
        stop: one past the last.
        weight: how many input bytes this is, for progress.
        companions: other files that the stretch needs (labels of images).
        index: file that finds places in the input, if its kind of source needs one.
    """

    path: str
    label: str
    start: int
    stop: int
    weight: int
    companions: tuple[str, ...] = ()
    index: str | None = None


@dataclass(slots=True)
class Cuts:
    """How a file is cut into stretches.

    Attributes:
        stretches: (start, stop, input bytes) of each, in order; together they cover the file.
        bad: what was found to be unreadable while looking for the places to cut.
        index: suffix of the index beside the unit, "" without one; of a compressed file's, the stretches count decompressed bytes.
    """

    stretches: list[tuple[int, int, int]]
    bad: list[Bad] = field(default_factory=list)
    index: str = ""


def whole(size: int) -> Cuts:
    """The file as one stretch."""
    return Cuts([(0, size, size)])


def even(size: int, *, unit_bytes: int) -> Cuts:
    """Stretches of about `unit_bytes` bytes each; a record belongs to the stretch in which it begins."""
    count = max(1, round(size / unit_bytes))
    edges = [size * number // count for number in range(count + 1)]
    return Cuts([(start, stop, stop - start) for start, stop in itertools.pairwise(edges)])


def at_places(places: Iterable[int], size: int, *, unit_bytes: int) -> Cuts:
    """Stretches that begin at some of the ascending `places` (records that may not be split), of `unit_bytes` or a little more."""
    edges = [0]
    for place in places:
        if place - edges[-1] >= unit_bytes:
            edges.append(place)
    return Cuts([(start, stop, stop - start) for start, stop in itertools.pairwise([*edges, size])])


def grouped(weights: list[int], *, unit_bytes: int) -> Cuts:
    """Stretches of whole groups (of rows) with these bytes each, of `unit_bytes` or a little more; places count groups."""
    stretches, first, weight = [], 0, 0
    for number, size in enumerate(weights, 1):
        weight += size
        if weight >= unit_bytes or number == len(weights):
            stretches.append((first, number, weight))
            first, weight = number, 0
    return Cuts(stretches or [(0, 0, 0)])


def whole_file(path: str, label: str) -> Span:
    """All of a file, to be read in one go."""
    size = size_of(path)
    return Span(path, label, 0, size, size)
