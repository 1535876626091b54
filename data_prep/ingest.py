"""First step: read a stretch of input, extract, filter and sign it; the documents that stay go to Parquet."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dedup.minhash import band_hashes
from data_prep.dedup.sorted_hashes import write_sorted
from data_prep.extraction import Extract
from data_prep.filters.c4 import C4
from data_prep.filters.decontaminate import Decontaminate
from data_prep.filters.fineweb import FineWeb
from data_prep.filters.images import Images
from data_prep.filters.lines import Lines
from data_prep.filters.quality import Quality
from data_prep.filters.repetition import Repetition
from data_prep.filters.unicode import Unicode
from data_prep.filters.url import Url
from data_prep.hashing import hash64, hash64_of
from data_prep.language import Language
from data_prep.plan import DedupNode, Plan
from data_prep.privacy import Privacy
from data_prep.records import Bad, Record, Redirect, Removed, write_records
from data_prep.redirects import write_redirects
from data_prep.samples import MARGIN, STAGES_WITH_LIMITS, Sample, Sampler, StageFunction, as_json, moved_limits
from data_prep.source_plan import PICTURE_KINDS, IdxSource, Source, WikipediaSource
from data_prep.sources import read
from data_prep.sources.spans import Span
from data_prep.words import words_of
from rwtrain.files import content_hash

BATCH = 128


@dataclass(slots=True)
class StageCount:
    """What one stage did to one unit.

    Attributes:
        documents: documents that left the stage.
        characters: their characters.
        cpu_seconds: time spent in the stage.
        reasons: how many documents were removed for which reason.
        samples: a few removed and kept documents (`data_prep.samples.Sample`).
    """

    documents: int = 0
    characters: int = 0
    cpu_seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "documents": self.documents,
            "characters": self.characters,
            "cpu_seconds": round(self.cpu_seconds, 4),
            "reasons": dict(sorted(self.reasons.items())),
            "samples": as_json(self.samples),
        }


def stages_for(plan: Plan, source: Source, only: Collection[str] | None = None) -> list[tuple[str, StageFunction]]:
    """The stages (or `only` these of them) that a source's documents pass, in order; class-labelled images pass none."""
    if isinstance(source, IdxSource):
        return []
    is_picture = source.kind in PICTURE_KINDS
    candidates: list[tuple[str, bool, Callable[[], StageFunction]]] = [
        ("url", plan.url.enabled and source.kind in ("warc", "wet", "warc_images"), lambda: Url(plan.url)),
        ("extract", not is_picture, lambda: Extract(plan.extract)),
        ("unicode", plan.unicode.enabled, lambda: Unicode(plan.unicode)),
        ("language", plan.language.enabled and not is_picture, lambda: Language(plan.language)),
        ("repetition", plan.repetition.enabled and not is_picture, lambda: Repetition(plan.repetition)),
        ("quality", plan.quality.enabled and not is_picture, lambda: Quality(plan.quality)),
        ("c4", plan.c4.enabled and not is_picture, lambda: C4(plan.c4)),
        ("fineweb", plan.fineweb.enabled and not is_picture, lambda: FineWeb(plan.fineweb)),
        ("lines", plan.lines.enabled and not is_picture, lambda: Lines(plan.lines)),
        ("privacy", plan.privacy.enabled, lambda: Privacy(plan.privacy)),
        ("decontaminate", bool(plan.decontaminate.paths), lambda: Decontaminate(plan.decontaminate)),
        ("images", is_picture, lambda: Images(plan.images)),
    ]
    return [(name, make()) for name, applies, make in candidates if applies and name not in source.skip and (only is None or name in only)]


STAGE_ORDER = ("read", "url", "extract", "unicode", "language", "repetition", "quality", "c4", "fineweb", "lines", "privacy", "decontaminate", "images")


def samplers_for(plan: Plan, source: Source, stages: list[tuple[str, StageFunction]]) -> dict[str, Sampler]:
    """What chooses the samples of each of a source's stages."""
    tighter, looser = (dict(stages_for(moved_limits(plan, margin), source, STAGES_WITH_LIMITS)) for margin in (MARGIN, -MARGIN))
    return {name: Sampler(tighter.get(name), looser.get(name)) for name, _ in stages}


def is_deduplicated(plan: Plan, source: Source) -> bool:
    """Whether a source's documents take part in deduplication."""
    if isinstance(source, IdxSource) or "dedup" in source.skip:
        return False
    return plan.dedup.images if source.kind in PICTURE_KINDS else plan.dedup.exact or plan.dedup.fuzzy


def ingest(arguments: tuple[Plan, Source, Span], prefix: Path) -> dict[str, Any]:
    """Do one unit: `prefix.parquet` holds its documents, `prefix.values.npy` and `prefix.order.npy` their signatures.

    For a Wikipedia dump `prefix.redirects.npy` holds its redirects.
    """
    plan, source, span = arguments
    stages = stages_for(plan, source)
    run = _Ingest(stages, samplers_for(plan, source, stages))
    signatures: list[np.ndarray] = []

    def batches() -> Iterator[list[Record]]:
        for batch in run.batches(read(plan, source, span)):
            if is_deduplicated(plan, source):
                with run.timed("dedup"):
                    signatures.extend(signature(record, plan.dedup) for record in batch)
            yield batch

    output = prefix.with_name(f"{prefix.name}.parquet")
    rows = write_records(output, batches())
    for name, sampler in run.samplers.items():
        run.counts[name].samples = sampler.samples
    if isinstance(source, WikipediaSource):
        write_redirects(prefix, run.redirects, source.language)
    write_sorted(prefix, np.stack(signatures).T if signatures else np.zeros((1 + plan.dedup.bands, 0), np.uint64))
    return {
        "documents": rows,
        "characters": run.counts[run.last].characters,
        "hash": content_hash(output),
        "stages": {name: count.as_json() for name, count in run.counts.items()},
        "quarantine": [[bad.file, bad.record, bad.reason] for bad in run.bad],
    }


def signature(record: Record, config: DedupNode) -> np.ndarray:
    """Hash of text and images, then one hash per MinHash band, [1 + bands] uint64; images have no bands."""
    exact = np.array([hash64(record.text) if not record.images else hash64_of([record.text.encode(), *record.images])], np.uint64)
    if not config.fuzzy or record.images:
        return np.concatenate([exact, np.zeros(config.bands, np.uint64)])
    return np.concatenate([exact, band_hashes(words_of(record), ngram=config.ngram, bands=config.bands, rows=config.rows)])


class _Timer:
    def __init__(self, count: StageCount) -> None:
        self.count = count

    def __enter__(self) -> None:
        self.start = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.count.cpu_seconds += time.process_time() - self.start


class _Ingest:
    """Push batches through the stages and keep count."""

    def __init__(self, stages: list[tuple[str, StageFunction]], samplers: dict[str, Sampler]) -> None:
        self.stages = stages
        self.samplers = samplers
        self.counts: dict[str, StageCount] = {"read": StageCount()} | {name: StageCount() for name, _ in stages}
        self.bad: list[Bad] = []
        self.redirects: list[Redirect] = []
        self.last = list(self.counts)[-1]

    def timed(self, stage: str) -> _Timer:
        return _Timer(self.counts.setdefault(stage, StageCount()))

    def batches(self, records: Iterator[Record | Redirect | Bad]) -> Iterator[list[Record]]:
        while batch := self._read(records):
            yield self._pass_stages(batch)

    def _read(self, records: Iterator[Record | Redirect | Bad]) -> list[Record]:
        batch: list[Record] = []
        count = self.counts["read"]
        with self.timed("read"):
            for record in records:
                if isinstance(record, Bad):
                    self.bad.append(record)
                    continue
                if isinstance(record, Redirect):
                    self.redirects.append(record)
                    continue
                batch.append(record)
                count.documents += 1
                count.characters += len(record.text if record.raw is None else record.raw)
                if len(batch) == BATCH:
                    break
        return batch

    def _pass_stages(self, batch: list[Record]) -> list[Record]:
        for name, function in self.stages:
            with self.timed(name):
                outcomes = function(batch)
            self.samplers[name].look(batch, outcomes)
            batch = [kept for record, outcome in zip(batch, outcomes, strict=True) if (kept := self._sort(name, record, outcome)) is not None]
            self.counts[name].documents += len(batch)
            self.counts[name].characters += sum(len(record.text) for record in batch)
        return batch

    def _sort(self, stage: str, record: Record, outcome: Record | Removed | Bad) -> Record | None:
        if isinstance(outcome, Record):
            return outcome
        count = self.counts[stage]
        if isinstance(outcome, Bad):
            self.bad.append(outcome)
            count.reasons["set aside in quarantine"] += 1
            return None
        count.reasons[outcome.reason] += 1
        return None
