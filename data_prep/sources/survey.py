"""Before the first stage: look at every input file once, for its hash and for the places where it can be cut into units."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.inputs import find_files
from data_prep.source_plan import IdxSource, Source
from data_prep.sources import READERS
from data_prep.sources.spans import Cuts, Span
from data_prep.work import WorkFolder
from rwtrain.errors import DataError


@dataclass(frozen=True, slots=True)
class InputFile:
    """An input of a source: path or URL, short unique name, and the files that belong to it."""

    path: str
    label: str
    companions: tuple[str, ...] = ()


def files_of(source: Source) -> list[InputFile]:
    """The input files of a source, in order.

    Raises:
        DataError: a pattern matches no file.
    """
    if isinstance(source, IdxSource):
        return [InputFile(pair.images, os.path.basename(pair.images), (pair.labels,)) for pair in source.files]
    return [InputFile(path, label) for path, label in find_files(source.paths, source=source.name)]


def survey(arguments: tuple[Source, InputFile, int], prefix: Path) -> dict[str, Any]:
    """Do one unit: hashes of a file and its companions, and its stretches; an index, if it needs one, lies beside `prefix`.

    Raises:
        DataError: the file cannot be read at all.
    """
    source, file, unit_bytes = arguments
    work = WorkFolder(prefix.parents[1])
    try:
        hashes = [work.hash_of_input(path) for path in (file.path, *file.companions)]
        cuts: Cuts = READERS[source.kind].cut(source, file.path, prefix, unit_bytes=unit_bytes)
    except OSError as error:
        raise DataError(file.path, f"cannot be read ({error})", "Check the path and the right to read it") from error
    return {
        "hashes": hashes,
        "stretches": cuts.stretches,
        "index": cuts.index,
        "quarantine": [[bad.file, bad.record, bad.reason] for bad in cuts.bad],
    }


def spans_of(file: InputFile, result: dict[str, Any], prefix: Path) -> list[Span]:
    """The stretches that a survey found."""
    index = f"{prefix}{result['index']}" if result["index"] else None
    return [Span(file.path, file.label, start, stop, weight, file.companions, index) for start, stop, weight in result["stretches"]]


def survey_here(source: Source, folder: Path, *, unit_bytes: int) -> tuple[list[Span], Sequence[list[str]]]:
    """The stretches of a source's files and what could not be read, found in this process; `folder` keeps indexes."""
    spans: list[Span] = []
    quarantine: list[list[str]] = []
    for number, file in enumerate(files_of(source)):
        prefix = folder / "survey" / f"{source.name}-{number}"
        result = survey((source, file, unit_bytes), prefix)
        spans += spans_of(file, result, prefix)
        quarantine += result["quarantine"]
    return spans, quarantine
