"""The figures of a run, added up over all units: what `summary.json` and the report show."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from data_prep.assemble import Dataset, TokenisedUnit
from data_prep.dedup.step import Duplicates
from data_prep.duplicate_examples import ClusterSample
from data_prep.ingest import STAGE_ORDER
from data_prep.jobs import Job
from data_prep.packing_figures import PackingFigures
from data_prep.samples import Sample

SAMPLES_PER_KIND = 4
SHORTEST_CPU_SECONDS = 0.01


@dataclass(slots=True)
class StageFigures:
    """One line of the funnel.

    Attributes:
        name: name of the stage.
        documents_in: documents that came in.
        documents: documents that stayed.
        characters: characters that stayed; before extraction those of the raw pages.
        tokens: tokens that stayed, estimated from the characters except in the last line; None before extraction.
        cpu_seconds: processor time of the stage.
        reasons: why documents were removed, most frequent first.
        samples: a few of them, and of those that stayed.
    """

    name: str
    documents_in: int
    documents: int
    characters: int
    cpu_seconds: float
    tokens: int | None = None
    reasons: list[tuple[str, int]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


@dataclass(slots=True)
class Speed:
    """How fast one step of the work was: documents that it took in, its processor seconds."""

    name: str
    documents: int
    cpu_seconds: float

    @property
    def documents_per_second(self) -> float | None:
        """Documents that one core takes in per second; None if the time is too short to tell."""
        return self.documents / self.cpu_seconds if self.cpu_seconds >= SHORTEST_CPU_SECONDS else None


@dataclass(slots=True)
class Summary:
    """All figures of a run.

    Attributes:
        funnel: the text documents' way through the stages.
        picture_funnel: the image–text pairs' way.
        languages: (language, documents, tokens) after all stages, most documents first; text documents only.
        lengths: (largest length of the bin in tokens, documents), ascending; text documents only.
        caption_lengths: the same for image–text pairs.
        cluster_sizes: (largest size of the bin, clusters of duplicates), ascending; text documents only.
        clusters: a few clusters of duplicates with their texts' beginnings.
        packing: how the documents of each dataset fit into rows.
        speeds: processor time of every step.
        quarantine: records set aside, by reason.
        datasets: what was written.
        mentions: entity mentions linked.
        links: links to wiki pages in the texts.
        links_with_entity: those whose page is about an entity of the store.
    """

    funnel: list[StageFigures]
    picture_funnel: list[StageFigures]
    languages: list[tuple[str, int, int]]
    lengths: list[tuple[int, int]]
    caption_lengths: list[tuple[int, int]]
    cluster_sizes: list[tuple[int, int]]
    clusters: list[ClusterSample]
    packing: list[PackingFigures]
    speeds: list[Speed]
    quarantine: list[tuple[str, int]]
    datasets: list[Dataset]
    mentions: int
    links: int
    links_with_entity: int

    @property
    def images(self) -> int:
        """Images in all datasets."""
        return sum(dataset.manifest["images"] for dataset in self.datasets)

    @property
    def tokens(self) -> int:
        """Tokens in all datasets."""
        return sum(dataset.manifest["tokens"] for dataset in self.datasets)

    def scrub_samples(self, scrub: Callable[[str], str]) -> None:
        """Apply `scrub` to the texts of all samples: they were taken before the stage that hides personal data."""
        for stage in [*self.funnel, *self.picture_funnel]:
            for sample in stage.samples:
                sample.text = scrub(sample.text)


def summarise(
    jobs: Sequence[Job],
    results: Sequence[dict[str, Any]],
    texts: Duplicates | None,
    pictures: Duplicates | None,
    cuts: Sequence[dict[str, Any]],
    tokenised: Sequence[TokenisedUnit],
    datasets: list[Dataset],
    *,
    clusters: list[ClusterSample],
    packing: list[PackingFigures],
) -> Summary:
    """Add up the results of all units."""
    text_results = [result for job, result in zip(jobs, results, strict=True) if not job.is_picture]
    picture_results = [result for job, result in zip(jobs, results, strict=True) if job.is_picture]
    text_units = [unit.result for unit in tokenised if unit.kind == "text"]
    picture_units = [unit.result for unit in tokenised if unit.kind == "images"]
    final_characters = sum(result["characters"] for result in text_units)
    funnel = _funnel(text_results)
    _add_dedup(funnel, text_results, texts, final_characters + sum(cut["cut_characters"] for cut in cuts))
    _add_cuts(funnel, cuts, final_characters)
    _add_tokens(funnel, text_units)
    picture_funnel = _funnel(picture_results)
    _add_dedup(picture_funnel, picture_results, pictures, sum(result["characters"] for result in picture_units))
    _add_tokens(picture_funnel, picture_units)
    documents, tokens = _added(text_units, "languages"), _added(text_units, "language_tokens")
    return Summary(
        funnel=funnel,
        picture_funnel=picture_funnel,
        languages=[(language, count, tokens[language]) for language, count in sorted(documents.items(), key=lambda item: (-item[1], item[0]))],
        lengths=_length_bins(text_units),
        caption_lengths=_length_bins(picture_units),
        cluster_sizes=texts.sizes if texts is not None else [],
        clusters=clusters,
        packing=packing,
        speeds=_speeds(funnel, picture_funnel, tokenised),
        quarantine=Counter(_kind_of(reason) for result in results for _, _, reason in result["quarantine"]).most_common(20),
        datasets=datasets,
        mentions=sum(unit.result["mentions"] for unit in tokenised),
        links=sum(unit.result["links"] for unit in tokenised),
        links_with_entity=sum(unit.result["links_with_entity"] for unit in tokenised),
    )


def _kind_of(reason: str) -> str:
    """A reason without its numbers, so that the same kind of damage counts together."""
    return re.sub(r"\d+", "…", reason.partition("(")[0]).strip()


def _added(results: Sequence[dict[str, Any]], name: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for result in results:
        total.update(result[name])
    return total


def _length_bins(results: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    return sorted(((1 << int(bits)) - 1, count) for bits, count in _added(results, "lengths").items())


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
                samples=_few([Sample(**sample) for stage in passed for sample in stage["samples"]]),
            )
        )
    return funnel


def _before(result: dict[str, Any], name: str) -> dict[str, Any]:
    """The last stage before `name` that this unit passed."""
    earlier = [stage for stage in STAGE_ORDER[: STAGE_ORDER.index(name)] if stage in result["stages"]]
    return result["stages"][earlier[-1]]


def _few(samples: list[Sample]) -> list[Sample]:
    seen: Counter[tuple[str, bool, bool]] = Counter()
    chosen = []
    for sample in samples:
        kind = (sample.reason, sample.kept, sample.near)
        seen[kind] += 1
        if seen[kind] <= SAMPLES_PER_KIND:
            chosen.append(sample)
    return chosen


def _add_dedup(funnel: list[StageFigures], results: Sequence[dict[str, Any]], duplicates: Duplicates | None, characters: int) -> None:
    if not funnel or duplicates is None:
        return
    signing = sum(result["stages"]["dedup"]["cpu_seconds"] for result in results if "dedup" in result["stages"])
    before = funnel[-1].documents
    reasons = [(name, count) for name, count in (("same content", duplicates.exact), ("nearly the same text", duplicates.fuzzy)) if count]
    funnel.append(StageFigures("dedup", before, before - duplicates.exact - duplicates.fuzzy, characters, signing + duplicates.cpu_seconds, reasons=reasons))


def _add_cuts(funnel: list[StageFigures], cuts: Sequence[dict[str, Any]], characters: int) -> None:
    if not funnel or not cuts:
        return
    before, removed = funnel[-1].documents, sum(cut["removed"] for cut in cuts)
    reasons = [("too little left after cutting", removed)] if removed else []
    funnel.append(StageFigures("substring", before, before - removed, characters, sum(cut["cpu_seconds"] for cut in cuts), reasons=reasons))


def _add_tokens(funnel: list[StageFigures], units: Sequence[dict[str, Any]]) -> None:
    """Tokens are counted at the end; earlier lines are estimated with the final characters per token."""
    tokens, characters = _added(units, "tokens").total(), sum(result["characters"] for result in units)
    has_text = "extract" not in [stage.name for stage in funnel]
    for stage in funnel:
        has_text = has_text or stage.name == "extract"
        if has_text and characters:
            stage.tokens = round(stage.characters * tokens / characters)
    if funnel:
        funnel[-1].tokens = tokens


def _speeds(funnel: list[StageFigures], picture_funnel: list[StageFigures], tokenised: Sequence[TokenisedUnit]) -> list[Speed]:
    total: dict[str, Speed] = {}
    for stage in [*funnel, *picture_funnel]:
        speed = total.setdefault(stage.name, Speed(stage.name, 0, 0.0))
        speed.documents += stage.documents_in
        speed.cpu_seconds += stage.cpu_seconds
    documents = sum(sum(unit.result["documents"].values()) for unit in tokenised)
    linking = sum(unit.result["link_seconds"] for unit in tokenised)
    if linking:
        total["link"] = Speed("link", documents, linking)
    total["tokenise"] = Speed("tokenise", documents, sum(unit.result["cpu_seconds"] for unit in tokenised) - linking)
    return list(total.values())


def as_json(summary: Summary) -> dict[str, Any]:
    """What `summary.json` holds."""
    values = asdict(summary)
    values["datasets"] = {dataset.name: dataset.manifest_summary() for dataset in summary.datasets}
    values["speeds"] = [{**asdict(speed), "documents_per_second": speed.documents_per_second} for speed in summary.speeds]
    return {"tokens": summary.tokens, "images": summary.images, **values}
