"""The first step's units of work: what they are, what they depend on, and what to say when they leave nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.ingest import is_deduplicated, stages_for
from data_prep.inputs import find_files, is_remote, size_of, version_of
from data_prep.plan import Plan
from data_prep.pool import Pool
from data_prep.source_plan import PICTURE_KINDS, IdxSource, Source
from data_prep.sources.spans import Span
from data_prep.sources.survey import InputFile, files_of, spans_of, survey
from data_prep.work import Unit, WorkFolder, code_hash, key_of
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


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the run reads.

    Attributes:
        jobs: every ingest unit, in plan order.
        hashes: content hash (or version) of every input file.
        quarantine: [file, place, reason] of what is unreadable as far as is known before the first stage.
    """

    jobs: list[Job]
    hashes: dict[str, str]
    quarantine: list[list[str]]


def look_at_inputs(plan: Plan, pool: Pool) -> Inputs:
    """Find and survey every input file, and cut it into units.

    Raises:
        DataError: an input is missing or unreadable.
    """
    work = pool.work
    found = [(source, file) for source in plan.sources for file in files_of(source)]
    units = [_survey_unit(source, file, plan.unit_bytes) for source, file in found]
    results = pool.run(survey, units, label="inputs")
    lists = [*plan.url.blocklists, *([plan.url.words] if plan.url.words else [])]
    lists += [path for path, _ in find_files(plan.decontaminate.paths, source="decontaminate")] if plan.decontaminate.paths else []
    settings = [plan.model_dump(mode="json", exclude=LATER_SETTINGS), [_hash_of_list(path, work) for path in lists]]
    hashes: dict[str, str] = {}
    jobs: list[Job] = []
    for (source, file), unit, result in zip(found, units, results, strict=True):
        hashes |= dict(zip((file.path, *file.companions), result["hashes"], strict=True))
        spans = spans_of(file, result, work.path("survey", unit.key, ""))
        jobs += [_job(plan, source, span, settings, result["hashes"]) for span in spans]
    return Inputs(jobs, hashes, [bad for result in results for bad in result["quarantine"]])


def _survey_unit(source: Source, file: InputFile, unit_bytes: int) -> Unit:
    try:
        versions = [version_of(path) for path in (file.path, *file.companions)]
        size = size_of(file.path)
    except OSError as error:
        raise DataError(file.path, f"cannot be read ({error})", "Check the path and the right to read it") from error
    key = key_of("survey", code_hash(), versions, source.model_dump(mode="json", exclude={"paths", "files"}), unit_bytes)
    return Unit("survey", key, size, file.path, (source, file, unit_bytes))


def _hash_of_list(path: str, work: WorkFolder) -> str:
    if not is_remote(path) and not Path(path).is_file():
        raise DataError(path, "no such file", "Correct the path in the plan; it is read relative to the current folder")
    return work.hash_of_input(path)


def _job(plan: Plan, source: Source, span: Span, settings: list[Any], inputs: list[str]) -> Job:
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


def describe_jobs(plan: Plan, out: Path, jobs: Sequence[Job], work: WorkFolder, *, engine: str) -> str:
    """What a run would do: files, units and their sizes, stages, and what is finished already."""
    lines = [f"plan `{plan.name}`, output {out}, engine: {engine}"]
    for source in plan.sources:
        mine = [job for job in jobs if job.source.name == source.name]
        done = sum(work.finished("ingest", job.unit.key) is not None for job in mine)
        names = ", ".join(name for name, _ in stages_for(plan, source)) or "none"
        lines.append(f"  {source.name} ({source.kind}): {len({job.span.path for job in mine})} files, {_megabytes(mine)}")
        lines.append(f"    {len(mine)} units of up to {max((job.span.weight for job in mine), default=0) / 1e6:,.1f} MB, {done} finished; stages: {names}")
    lines.append(f"in all {len(jobs)} units, {_megabytes(jobs)}; a killed run does at most the units in progress again")
    after = [
        ("deduplicate", any(is_deduplicated(plan, source) for source in plan.sources)),
        ("cut repeated runs", plan.substring.enabled),
        (f"train a tokenizer of {plan.tokenizer.vocab_size:,} pieces", plan.tokenizer.model is None),
        ("link entities", plan.link.store is not None or plan.link.entities is not None),
    ]
    return "\n".join([*lines, "then: " + ", ".join([*(name for name, happens in after if happens), "tokenise", "write shards", "report"])])


def _megabytes(jobs: Sequence[Job]) -> str:
    return f"{sum(job.span.weight for job in jobs) / 1e6:,.1f} MB"
