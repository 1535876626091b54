"""The figures of a run, added up over all units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from data_prep.assemble import Dataset, TokenisedUnit
from data_prep.dedup.step import Duplicates
from data_prep.plan import IdxSource, Plan, Source

SAMPLES = 3
FUNNEL_ORDER = ("read", "extract", "language", "repetition", "quality")


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
        languages: documents by language, after all filters.
        lengths: (largest length of the bin in tokens, documents), ascending; text documents only.
        quarantine: records set aside, by reason.
        datasets: what was written.
        images: captioned images read.
        mentions: entity mentions linked.
    """

    funnel: list[StageFigures]
    languages: list[tuple[str, int]]
    lengths: list[tuple[int, int]]
    quarantine: list[tuple[str, int]]
    datasets: list[Dataset]
    images: int
    mentions: int

    @property
    def tokens(self) -> int:
        """Tokens in all datasets."""
        return sum(dataset.manifest["tokens"] for dataset in self.datasets)


def summarise(
    plan: Plan, units: Sequence[tuple[Source, dict[str, Any]]], duplicates: Duplicates | None, tokenised: Sequence[TokenisedUnit], datasets: list[Dataset]
) -> Summary:
    """Add up the results of all units."""
    texts = [result for source, result in units if not isinstance(source, IdxSource)]
    funnel = _funnel(texts)
    _add_dedup(funnel, texts, duplicates, tokenised)
    text_units = [unit.result for unit in tokenised if unit.kind == "text"]
    lengths = _added(text_units, "lengths")
    return Summary(
        funnel=funnel,
        languages=_added(text_units, "languages").most_common(),
        lengths=sorted(((1 << int(bits)) - 1, count) for bits, count in lengths.items()),
        quarantine=Counter(reason for _, result in units for _, _, reason in result["quarantine"]).most_common(20),
        datasets=datasets,
        images=sum(result["documents"] for source, result in units if isinstance(source, IdxSource)),
        mentions=sum(unit.result["mentions"] for unit in tokenised),
    )


def _added(results: Sequence[dict[str, Any]], name: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for result in results:
        total.update(result[name])
    return total


def _funnel(results: Sequence[dict[str, Any]]) -> list[StageFigures]:
    funnel: list[StageFigures] = []
    for name in FUNNEL_ORDER:
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
    earlier = [stage for stage in FUNNEL_ORDER[: FUNNEL_ORDER.index(name)] if stage in result["stages"]]
    return result["stages"][earlier[-1]]


def _few(samples: list[list[str]]) -> list[list[str]]:
    seen: Counter[str] = Counter()
    chosen = []
    for sample in samples:
        seen[sample[0]] += 1
        if seen[sample[0]] <= SAMPLES:
            chosen.append(sample)
    return chosen


def _add_dedup(funnel: list[StageFigures], texts: Sequence[dict[str, Any]], duplicates: Duplicates | None, tokenised: Sequence[TokenisedUnit]) -> None:
    if not funnel or duplicates is None:
        return
    signing = sum(result["stages"]["dedup"]["cpu_seconds"] for result in texts if "dedup" in result["stages"])
    before = funnel[-1].documents
    characters = sum(unit.result["characters"] for unit in tokenised if unit.kind == "text")
    reasons = [(name, count) for name, count in (("same text", duplicates.exact), ("nearly the same text", duplicates.fuzzy)) if count]
    funnel.append(StageFigures("dedup", before, before - duplicates.exact - duplicates.fuzzy, characters, signing + duplicates.cpu_seconds, reasons))
