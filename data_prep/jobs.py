"""The first step's units of work: what they are, what they depend on, and what to say when they leave nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.ingest import stages_for
from data_prep.plan import PICTURE_KINDS, IdxSource, Plan, Source
from data_prep.pool import Unit
from data_prep.sources import Span, spans
from data_prep.sources.spans import find_files
from data_prep.work import WorkFolder, code_hash, key_of
from rwtrain.errors import DataError

# Settings that the first step does not look at; a change of these reuses its results.
LATER_SETTINGS = {"name", "seed", "sources", "unit_bytes", "splits", "link", "tokenizer", "shards", "substring", "report"}


@dataclass(frozen=True, slots=True)
class Job:
    """One ingest unit: where it comes from and its unit of work."""

    source: Source
    span: Span
    unit: Unit

    @property
    def is_picture(self) -> bool:
        """Whether its documents are images with text."""
        return self.source.kind in PICTURE_KINDS


def make_jobs(plan: Plan, work: WorkFolder) -> list[Job]:
    """Every ingest unit, in plan order.

    Raises:
        DataError: an input is missing or unreadable.
    """
    lists = [*plan.url.blocklists, *([plan.url.words] if plan.url.words else [])]
    lists += [path for path, _ in find_files(plan.decontaminate.paths, source="decontaminate")] if plan.decontaminate.paths else []
    settings = [plan.model_dump(mode="json", exclude=LATER_SETTINGS), [_hash_of_list(path, work) for path in lists]]
    return [_job(plan, source, span, settings, work) for source in plan.sources for span in spans(plan, source)]


def _hash_of_list(path: str, work: WorkFolder) -> str:
    if not Path(path).is_file():
        raise DataError(path, "no such file", "Correct the path in the plan; it is read relative to the current folder")
    return work.hash_of_input(path)


def _job(plan: Plan, source: Source, span: Span, settings: list[Any], work: WorkFolder) -> Job:
    inputs = [work.hash_of_input(path) for path in (span.path, *span.companions)]
    own = source.model_dump(mode="json", exclude={"paths", "files"})
    if isinstance(source, IdxSource):
        depends: Any = [plan.seed, next(pair.split for pair in source.files if (pair.images, pair.labels) == (span.path, *span.companions))]
    else:
        depends = settings
    key = key_of("ingest", code_hash(), inputs, own, depends, span.label, span.path, span.start, span.stop)
    return Job(source, span, Unit("ingest", key, span.weight, f"{span.path} [{span.start}:{span.stop}]", (plan, source, span)))


def refuse_empty(plan: Plan, jobs: Sequence[Job], results: Sequence[dict[str, Any]], quarantine: Path) -> None:
    """Raise a `DataError` that names the stage which emptied the corpus, if no text document is left (or no picture, without text sources)."""
    chosen = [(job, result) for job, result in zip(jobs, results, strict=True) if not job.is_picture] or list(zip(jobs, results, strict=True))
    if any(result["documents"] for _, result in chosen):
        return
    names = ["read", *dict.fromkeys(name for job, _ in chosen for name, _ in stages_for(plan, job.source))]
    counts = {name: sum(result["stages"].get(name, {}).get("documents", 0) for _, result in chosen) for name in names}
    where = ", ".join(dict.fromkeys(job.span.path for job, _ in chosen))
    if counts["read"] == 0:
        bad = sum(len(result["quarantine"]) for _, result in chosen)
        raise DataError(where, f"no document could be read ({bad} records set aside)", f"See {quarantine} for the reasons, and check the kind of source")
    emptied = next(name for name in names if counts[name] == 0)
    before = counts[names[names.index(emptied) - 1]]
    raise DataError(
        where,
        f"no document is left of {counts['read']}: the stage `{emptied}` removed the last {before}",
        f"Loosen `{emptied}` in the plan, or list it under `skip` of a source",
    )


def dry_run(plan: Plan, out: Path) -> str:
    """What a run would do: files, units, and how many of them are finished already."""
    work = WorkFolder(out / "work")
    jobs = make_jobs(plan, work)
    lines = [f"plan `{plan.name}`, output {out}"]
    for source in plan.sources:
        mine = [job for job in jobs if job.source.name == source.name]
        done = sum(work.finished("ingest", job.unit.key) is not None for job in mine)
        size = sum(job.span.weight for job in mine)
        names = ", ".join(name for name, _ in stages_for(plan, source)) or "none"
        files = len({job.span.path for job in mine})
        lines.append(f"  {source.name} ({source.kind}): {files} files, {size:,} bytes, {len(mine)} units ({done} finished); stages: {names}")
    return "\n".join(lines)
