"""An import from beginning to end: parts, rows, ranges of rows, store. Memory is bounded, and a killed import continues where it was.

The parts stand in a hidden folder beside the store until the store is complete. What they hold depends on the sources alone, so an import
that was killed and repeated writes the same bytes as one that was not, with any number of workers.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from rwtrain.errors import DataError
from rwtrain.files import content_hash, write_json
from rwtrain.knowledge.assembling import RANGE_ROWS, Job, assemble, groups_of, resolve
from rwtrain.knowledge.numbering import number_entities, read_summary
from rwtrain.knowledge.parts import load_columns, part_path
from rwtrain.knowledge.reading import UNIT_BYTES, Source, Workers, fingerprint, is_done, open_work, parse_sources
from rwtrain.knowledge.store import SPLITS
from rwtrain.knowledge.writing import KEPT_REJECTS, Rejects, refuse_occupied, write_store

logger = logging.getLogger(__name__)

PARTS_VERSION = 2
ExtraParts = Callable[[Path], list[Path]]


def import_sources(
    sources: list[Source],
    out: Path,
    *,
    provenance: dict[str, Any],
    nothing: str,
    languages: tuple[str, ...] = (),
    extra: tuple[Path, ExtraParts] | None = None,
    relation_labels: dict[str, str] | None = None,
    rejects: Rejects | None = None,
    count_sitelinks: bool = False,
    workers: int | None = None,
    unit_bytes: int = UNIT_BYTES,
    quiet: bool = True,
) -> dict[str, Any]:
    """Import sources into the store `out`; return the store's manifest.

    Args:
        sources: files of lines; the label of each is the split of its triples.
        out: the store.
        provenance: how the store was made; files and their checksums are added.
        nothing: what to say if no entity is found.
        languages: of names, the preferred one first; facts name them by their place here.
        extra: a file that is not made of lines, and the function that makes its parts below a folder (facts only).
        relation_labels: labels of relations by id, besides those in the sources.
        rejects: what was set aside before.
        count_sitelinks: popularity is the number of sitelinks, not of training triples.
        workers: processes; all cores by default.
        unit_bytes: bytes of text in a part.
        quiet: no progress bars.

    Raises:
        DataError: a source cannot be read, or holds no entity; or something else stands at `out`.
    """
    refuse_occupied(out)
    _remove_leftovers(out)
    workers = workers or len(os.sched_getaffinity(0))
    paths = [source.path for source in sources] + ([extra[0]] if extra else [])
    folder = out.with_name(f".{out.name}.import")
    plan = {"version": PARTS_VERSION, "files": fingerprint(paths), "unit_bytes": unit_bytes, "languages": languages, "provenance": provenance}
    if open_work(folder, plan):
        logger.info("continuing the import that was interrupted (%s)", folder)
    prefixes, splits = _parse(sources, extra, folder, unit_bytes=unit_bytes, workers=workers, quiet=quiet)
    counts = _once(folder / "numbered.json", lambda: number_entities(prefixes, folder, quiet=quiet))
    if not counts["entities"]:
        shutil.rmtree(folder)
        raise DataError(sources[0].path, nothing, "Check that the file is in the format you named")
    relations, trained = _relations(prefixes, splits)
    job = Job(folder, prefixes, splits, relations, trained, languages)
    groups = _resolve_all(job, workers, quiet)
    ranges = _assemble_all(job, groups, counts["entities"], workers, quiet)
    rejects, dropped, labels = _tell(job, groups, ranges, rejects or Rejects(), relation_labels or {})
    dropped.update({reason: count for reason, count in counts.items() if reason != "entities"})
    made = {"languages": list(languages), "sources": [{"file": path.name, "hash": content_hash(path)} for path in paths]}
    manifest = write_store(
        out,
        entities=tqdm(_entity_batches(ranges), desc="writing", unit="batch", disable=quiet),
        relations=[(name, labels.get(name, "")) for name in relations],
        triples={split: _pieces(ranges, split) for split in SPLITS},
        rejects=rejects,
        provenance=provenance | made,
        popularity=(load_columns(prefix, "sitelinks").column("count").to_numpy() for prefix in ranges) if count_sitelinks else None,
        dropped={reason: count for reason, count in dropped.items() if count},
        redirects=folder / "redirects.arrow" if (folder / "redirects.arrow").is_file() else None,
    )
    shutil.rmtree(folder)
    return manifest


def _remove_leftovers(out: Path) -> None:
    """Remove stores that killed imports did not complete."""
    for path in out.parent.glob(f".{out.name}.*.tmp"):
        owner = path.name.split(".")[-2]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(path, ignore_errors=True)


def _parse(
    sources: list[Source], extra: tuple[Path, ExtraParts] | None, folder: Path, *, unit_bytes: int, workers: int, quiet: bool
) -> tuple[list[Path], list[str]]:
    """The parts of all sources below `folder`, and the split of each."""
    parsed = parse_sources(sources, folder, unit_bytes=unit_bytes, workers=workers, quiet=quiet)
    prefixes = [prefix for found in parsed for prefix in found]
    splits = [source.label for source, found in zip(sources, parsed, strict=True) for _ in found]
    if extra:
        found = extra[1](folder)
        prefixes += found
        splits += [SPLITS[0]] * len(found)
    return prefixes, splits


def _once(path: Path, compute: Callable[[], dict[str, int]]) -> dict[str, int]:
    """The result of a step, kept in a file that is written when the step is complete."""
    if not path.is_file():
        write_json(path, compute())
    return json.loads(path.read_text(encoding="utf-8"))


def _relations(prefixes: list[Path], splits: list[str]) -> tuple[dict[str, int], frozenset[str]]:
    """Rows of relations in order of first appearance, training triples first; and those that occur in training triples."""
    rows: dict[str, int] = {}
    trained: set[str] = set()
    for split in SPLITS:
        for prefix, own in zip(prefixes, splits, strict=True):
            if own != split:
                continue
            for name in read_summary(prefix)["relations"]:
                if split == SPLITS[0]:
                    trained.add(name)
                if name in trained:
                    rows.setdefault(name, len(rows))
    return rows, frozenset(trained)


def _resolve_all(job: Job, workers: int, quiet: bool) -> list[Path]:
    groups = groups_of(job.prefixes)
    prefixes = [job.folder / f"group-{number:06d}" for number in range(len(groups))]
    with Workers(workers if len(groups) > 1 else 1, busy_limit=2 * workers) as pool:
        for group, prefix in zip(tqdm(groups, desc="resolving", unit="group", disable=quiet), prefixes, strict=True):
            if not is_done(prefix):
                pool.submit(resolve, job, group, prefix)
        pool.drain()
    return prefixes


def _assemble_all(job: Job, groups: list[Path], entities: int, workers: int, quiet: bool) -> list[Path]:
    starts = range(0, entities, RANGE_ROWS)
    prefixes = [job.folder / f"range-{number:06d}" for number in range(len(starts))]
    with Workers(workers if len(starts) > 1 else 1, busy_limit=2 * workers) as pool:
        for start, prefix in zip(tqdm(starts, desc="assembling", unit="range", disable=quiet), prefixes, strict=True):
            if not is_done(prefix):
                pool.submit(assemble, job, groups, start, min(start + RANGE_ROWS, entities), prefix)
        pool.drain()
    return prefixes


def _entity_batches(ranges: list[Path]) -> Iterator[pa.RecordBatch]:
    for prefix in ranges:
        reader = pa.ipc.open_file(pa.memory_map(str(part_path(prefix, "entities"))))
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def _pieces(ranges: list[Path], split: str) -> Iterator[np.ndarray]:
    for prefix in ranges:
        yield load_columns(prefix, split).column("row").to_numpy().reshape(-1, 3)


def _tell(job: Job, groups: list[Path], ranges: list[Path], rejects: Rejects, labels: dict[str, str]) -> tuple[Rejects, Counter[str], dict[str, str]]:
    """Everything that was set aside, with lines counted from the beginning of each file; and the relations' labels."""
    dropped: Counter[str] = Counter()
    before: Counter[str] = Counter()
    files, offsets = [], []
    for prefix in job.prefixes:
        summary = read_summary(prefix)
        file, offset = summary["file"], before[summary["file"]]
        files.append(file)
        offsets.append(offset)
        rejects.counts.update(summary["rejects"])
        dropped.update(summary["dropped"])
        for entry in summary["kept"]:
            _keep(rejects, file, entry["record"] + offset if isinstance(entry["record"], int) else entry["record"], entry["reason"], entry["content"])
        before[file] += summary["lines"]
    found: dict[str, list[tuple[int, str]]] = {}
    for prefix in groups:
        summary = read_summary(prefix)
        dropped.update(summary["dropped"])
        rejects.counts.update(summary["rejects"])
        for entry in summary["kept"]:
            _keep(rejects, files[entry["part"]], entry["record"] + offsets[entry["part"]], entry["reason"], entry["content"])
        for name, entries in summary["relation_labels"].items():
            found.setdefault(name, []).extend((place, text) for place, text in entries)
    for prefix in ranges:
        summary = read_summary(prefix)
        rejects.counts["repeated triple"] += summary["repeated"]
        for part, line in summary["kept"]:
            _keep(rejects, files[part], line + offsets[part], "repeated triple", "")
    rejects.counts += Counter()  # drops reasons that never occurred
    return rejects, dropped, {name: min(entries, key=lambda entry: entry[0])[1] for name, entries in found.items()} | labels


def _keep(rejects: Rejects, file: str, record: int | str, reason: str, content: str) -> None:
    if len(rejects.kept) < KEPT_REJECTS:
        rejects.kept.append({"file": file, "record": record, "reason": reason, "content": content})
