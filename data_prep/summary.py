"""The figures of a run, added up over all units."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from data_prep.assemble import Dataset, TokenisedUnit
from data_prep.dedup.step import Duplicates
from data_prep.ingest import STAGE_ORDER
from data_prep.jobs import Job

SAMPLES = 3


@dataclass(slots=True)
class StageFigures:
    """One line of the funnel.

    Attributes:
        name: name of the stage.
        documents_in: documents that came in.
        documents: documents that stayed.
        characters: characters that stayed; before extraction those of the raw pages.
        cpu_seconds: processor time of the stage.
        reasons: why documents were removed, most frequent first.
        samples: [reason, id, source, beginning of the text] of a few of them.
    """

    name: str
    documents_in: int
    documents: int
    characters: int
    cpu_seconds: float
    reasons: list[tuple[str, int]] = field(default_factory=list)
    samples: list[list[str]] = field(default_factory=list)

    @property
    def documents_per_second(self) -> float | None:
        """Documents that one core takes in per second; None if the time is too short to tell."""
        return self.documents_in / self.cpu_seconds if self.cpu_seconds >= 0.01 else None


@dataclass(slots=True)
class Summary:
    """All figures of a run.

    Attributes:
        funnel: the text documents' way through the stages.
        picture_funnel: the image–text pairs' way.
        languages: documents by language, after all filters.
        lengths: (largest length of the bin in tokens, documents), ascending; text documents only.
        quarantine: records set aside, by reason.
        datasets: what was written.
        mentions: entity mentions linked.
    """

    funnel: list[StageFigures]
    picture_funnel: list[StageFigures]
    languages: list[tuple[str, int]]
    lengths: list[tuple[int, int]]
    quarantine: list[tuple[str, int]]
    datasets: list[Dataset]
    mentions: int

    @property
    def images(self) -> int:
        """Images in all datasets."""
        return sum(dataset.manifest["images"] for dataset in self.datasets)

    @property
    def tokens(self) -> int:
        """Tokens in all datasets."""
        return sum(dataset.manifest["tokens"] for dataset in self.datasets)


def summarise(
    jobs: Sequence[Job],
    results: Sequence[dict[str, Any]],
    texts: Duplicates | None,
    pictures: Duplicates | None,
    cuts: Sequence[dict[str, Any]],
    tokenised: Sequence[TokenisedUnit],
    datasets: list[Dataset],
) -> Summary:
    """Add up the results of all units."""
    text_results = [result for job, result in zip(jobs, results, strict=True) if not job.is_picture]
    picture_results = [result for job, result in zip(jobs, results, strict=True) if job.is_picture]
    text_units = [unit.result for unit in tokenised if unit.kind == "text"]
    lengths = _added(text_units, "lengths")
    final_characters = sum(result["characters"] for result in text_units)
    funnel = _funnel(text_results)
    _add_dedup(funnel, text_results, texts, final_characters + sum(cut["cut_characters"] for cut in cuts))
    _add_cuts(funnel, cuts, final_characters)
    picture_funnel = _funnel(picture_results)
    _add_dedup(picture_funnel, picture_results, pictures, sum(unit.result["characters"] for unit in tokenised if unit.kind == "images"))
    return Summary(
        funnel=funnel,
        picture_funnel=picture_funnel,
        languages=_added(text_units, "languages").most_common(),
        lengths=sorted(((1 << int(bits)) - 1, count) for bits, count in lengths.items()),
        quarantine=Counter(_kind_of(reason) for result in results for _, _, reason in result["quarantine"]).most_common(20),
        datasets=datasets,
        mentions=sum(unit.result["mentions"] for unit in tokenised),
    )


def _kind_of(reason: str) -> str:
    """A reason without its numbers, so that the same kind of damage counts together."""
    return re.sub(r"\d+", "…", reason.partition("(")[0]).strip()


def _added(results: Sequence[dict[str, Any]], name: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for result in results:
        total.update(result[name])
    return total


def _funnel(results: Sequence[dict[str, Any]]) -> list[StageFigures]:
    funnel: list[StageFigures] = []
    for name in STAGE_ORDER:
        passed = [result["stages"][name] for result in results if name in result["stages"]]
        if not passed:
            continue
        # Documents of sources that skip this stage go around it.
        around = [_before(result, name) for result in results if name not in result["stages"]]
        reasons = _added(passed, "reasons")
        documents = sum(stage["documents"] for stage in passed) + sum(stage["documents"] for stage in around)
        funnel.append(
            StageFigures(
                name,
                documents_in=documents + reasons.total() if name != "read" else documents,
                documents=documents,
                characters=sum(stage["characters"] for stage in [*passed, *around]),
                cpu_seconds=sum(stage["cpu_seconds"] for stage in passed),
                reasons=reasons.most_common(),
                samples=_few([sample for stage in passed for sample in stage["samples"]]),
            )
        )
    return funnel


def _before(result: dict[str, Any], name: str) -> dict[str, Any]:
    """The last stage before `name` that this unit passed."""
    earlier = [stage for stage in STAGE_ORDER[: STAGE_ORDER.index(name)] if stage in result["stages"]]
    return result["stages"][earlier[-1]]


def _few(samples: list[list[str]]) -> list[list[str]]:
    seen: Counter[str] = Counter()
    chosen = []
    for sample in samples:
        seen[sample[0]] += 1
        if seen[sample[0]] <= SAMPLES:
            chosen.append(sample)
    return chosen


def _add_dedup(funnel: list[StageFigures], results: Sequence[dict[str, Any]], duplicates: Duplicates | None, characters: int) -> None:
    if not funnel or duplicates is None:
        return
    signing = sum(result["stages"]["dedup"]["cpu_seconds"] for result in results if "dedup" in result["stages"])
    before = funnel[-1].documents
    reasons = [(name, count) for name, count in (("same content", duplicates.exact), ("nearly the same text", duplicates.fuzzy)) if count]
    funnel.append(StageFigures("dedup", before, before - duplicates.exact - duplicates.fuzzy, characters, signing + duplicates.cpu_seconds, reasons))


def _add_cuts(funnel: list[StageFigures], cuts: Sequence[dict[str, Any]], characters: int) -> None:
    if not funnel or not cuts:
        return
    before, removed = funnel[-1].documents, sum(cut["removed"] for cut in cuts)
    reasons = [("too little left after cutting", removed)] if removed else []
    funnel.append(StageFigures("substring", before, before - removed, characters, sum(cut["cpu_seconds"] for cut in cuts), reasons))
