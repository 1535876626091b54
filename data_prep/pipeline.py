"""The whole preparation: ingest, deduplicate, train a tokenizer, tokenise and link, write shards, report."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import zeroshot
from data_prep.assemble import Dataset, TokenisedUnit, write_datasets
from data_prep.dedup.clusters import Signatures
from data_prep.dedup.step import Duplicates, find_duplicates
from data_prep.hashing import hash128_hex, unit_interval
from data_prep.ingest import ingest, is_deduplicated, stages_for
from data_prep.linking import open_linker
from data_prep.plan import IdxSource, Plan, Source
from data_prep.pool import Pool, Unit
from data_prep.records import read_records
from data_prep.report import write_report
from data_prep.sources import Span, spans
from data_prep.summary import Summary, summarise
from data_prep.tokenise import choose_split, tokenise
from data_prep.tokenizer_training import train_tokenizer
from data_prep.work import WorkFolder, code_hash, key_of
from rwtrain.data.tokenizer import Tokenizer
from rwtrain.errors import DataError
from rwtrain.files import atomic_path, content_hash, write_json, write_text


@dataclass(frozen=True, slots=True)
class Job:
    """One ingest unit: where it comes from and its unit of work."""

    source: Source
    span: Span
    unit: Unit


@dataclass(frozen=True, slots=True)
class Ingested:
    """A finished ingest unit with the documents that deduplication left.

    Attributes:
        job: the unit.
        result: what `ingest` returned.
        keep: which documents stay, [documents] bool; None for all.
    """

    job: Job
    result: dict[str, Any]
    keep: np.ndarray | None


class Preparation:
    """One run of a plan into one folder. Finished units of an earlier, interrupted run are reused.

    Args:
        plan: what to do.
        out: output folder.
        workers: number of processes; None for one per core.
        quiet: show no progress bars.
    """

    def __init__(self, plan: Plan, out: str | Path, *, workers: int | None = None, quiet: bool = False) -> None:
        self.plan = plan
        self.out = Path(out)
        self.workers = workers or os.cpu_count() or 1
        self.work = WorkFolder(self.out / "work")
        self.quiet = quiet

    def jobs(self) -> list[Job]:
        """Every ingest unit, in plan order.

        Raises:
            DataError: an input is missing or unreadable.
        """
        return [self._job(source, span) for source in self.plan.sources for span in spans(self.plan, source)]

    def _job(self, source: Source, span: Span) -> Job:
        plan = self.plan
        inputs = [self.work.hash_of_input(path) for path in (span.path, *span.companions)]
        settings = source.model_dump(mode="json", exclude={"paths", "files"})
        if isinstance(source, IdxSource):
            settings |= {"seed": plan.seed, "split": next(pair.split for pair in source.files if pair.images == span.path)}
        else:
            settings |= plan.model_dump(mode="json", include={"extract", "language", "repetition", "quality", "dedup"})
        key = key_of("ingest", code_hash(), inputs, settings, span.label, span.path, span.start, span.stop)
        return Job(source, span, Unit("ingest", key, span.weight, f"{span.path} [{span.start}:{span.stop}]", (plan, source, span)))

    def run(self) -> Summary:
        """Do everything; return the figures that the report shows.

        Raises:
            DataError: an input is missing or unreadable, or no document survived.
            RWTrainError: another process works in the same folder.
        """
        with self.work.locked(), Pool(self.workers, self.work, quiet=self.quiet) as pool:
            linker = open_linker(self.plan.link.store) if self.plan.link.store else None
            jobs = self.jobs()
            results = pool.run(ingest, [job.unit for job in jobs], label="ingest")
            self._write_quarantine(results)
            self._refuse_empty(jobs, results)
            units, duplicates = self._deduplicated(jobs, results, pool)
            tokenizer = self._tokenizer(units)
            store_hash = linker.store_hash if linker is not None else None
            tokenised = self._tokenised(units, tokenizer, store_hash, pool)
            datasets = write_datasets(self.plan, self.out / "shards", tokenised, tokenizer, store_hash=store_hash, quiet=self.quiet)
            zeroshot.write(self.plan, self.out / "eval")
            summary = summarise(self.plan, [(unit.job.source, unit.result) for unit in units], duplicates, tokenised, datasets)
            self._write_manifest(jobs, tokenizer, store_hash, datasets)
            write_report(self.out / "report.html", self.plan, summary, workers=self.workers)
            self.work.remove_unused()
        return summary

    def _write_quarantine(self, results: list[dict[str, Any]]) -> None:
        rows = [dict(zip(("file", "record", "reason"), bad, strict=True)) for result in results for bad in result["quarantine"]]
        write_text(self.out / "quarantine.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def _refuse_empty(self, jobs: list[Job], results: list[dict[str, Any]]) -> None:
        """Say which stage emptied the corpus, if no document of the text sources is left."""
        texts = [(job, result) for job, result in zip(jobs, results, strict=True) if not isinstance(job.source, IdxSource)]
        if not texts or any(result["documents"] for _, result in texts):
            return
        names = ["read", *dict.fromkeys(name for job, _ in texts for name, _ in stages_for(self.plan, job.source))]
        counts = {name: sum(result["stages"].get(name, {}).get("documents", 0) for _, result in texts) for name in names}
        bad = sum(len(result["quarantine"]) for _, result in texts)
        where = ", ".join(dict.fromkeys(job.span.path for job, _ in texts))
        if counts["read"] == 0:
            raise DataError(
                where,
                f"no document could be read ({bad} records set aside)",
                f"See {self.out / 'quarantine.jsonl'} for the reasons, and check the kind of source",
            )
        emptied = next(name for name in names if counts[name] == 0)
        before = counts[names[names.index(emptied) - 1]]
        raise DataError(
            where,
            f"no document is left of {counts['read']}: the stage `{emptied}` removed the last {before}",
            f"Loosen `{emptied}` in the plan, or list it under `skip` of a source",
        )

    def _deduplicated(self, jobs: list[Job], results: list[dict[str, Any]], pool: Pool) -> tuple[list[Ingested], Duplicates | None]:
        chosen = [number for number, job in enumerate(jobs) if is_deduplicated(self.plan, job.source)]
        if not chosen:
            return [Ingested(job, result, None) for job, result in zip(jobs, results, strict=True)], None
        keys = [jobs[number].unit.key for number in chosen]
        files = [Signatures(str(self.work.path("ingest", key, ".npy")), results[number]["documents"]) for key, number in zip(keys, chosen, strict=True)]
        duplicates = find_duplicates(files, keys, self.plan.dedup, pool)
        keep = dict(zip(chosen, duplicates.keep, strict=True))
        return [Ingested(job, results[number], keep.get(number)) for number, job in enumerate(jobs)], duplicates

    def _tokenizer(self, units: list[Ingested]) -> Tokenizer:
        """The tokenizer of this corpus, at `tokenizer/tokenizer.model` in the output folder."""
        target = self.out / "tokenizer" / "tokenizer.model"
        config = self.plan.tokenizer
        if config.model is not None:
            Tokenizer(config.model)
            with atomic_path(target) as temporary:
                shutil.copyfile(config.model, temporary)
            return Tokenizer(target)
        settings = [config.model_dump(), self.plan.seed, self.plan.splits.model_dump()]
        key = key_of("tokenizer", code_hash(), settings, [[unit.result["hash"], _mask_hash(unit.keep)] for unit in units])
        trained = self.work.path("tokenizer", key, ".model")
        if self.work.finished("tokenizer", key) is None:
            if not self.quiet:
                print(f"tokenizer : training {config.vocab_size} pieces", flush=True)
            model = train_tokenizer(self._training_texts(units), vocab_size=config.vocab_size, character_coverage=config.character_coverage)
            with atomic_path(trained) as temporary:
                temporary.write_bytes(model)
            self.work.finish("tokenizer", key, {})
        with atomic_path(target) as temporary:
            shutil.copyfile(trained, temporary)
        return Tokenizer(target)

    def _training_texts(self, units: list[Ingested]) -> Iterator[str]:
        """Texts of the training split, each caption once; a hash of the id chooses them if there are too many."""
        plan = self.plan
        characters = sum(_last_characters(unit.result) for unit in units)
        share = min(1.0, plan.tokenizer.train_characters / max(characters, 1))
        captions: set[str] = set()
        for unit in units:
            position = 0
            for batch in read_records(self.work.path("ingest", unit.job.unit.key, ".parquet")):
                for record in batch:
                    position += 1
                    if unit.keep is not None and not unit.keep[position - 1]:
                        continue
                    if (record.split or choose_split(record.doc_id, plan.splits, seed=plan.seed)) != "train":
                        continue
                    if record.images:
                        if record.text not in captions:
                            captions.add(record.text)
                            yield record.text
                    elif unit_interval(record.doc_id, plan.seed + 1) < share:
                        yield record.text

    def _tokenised(self, units: list[Ingested], tokenizer: Tokenizer, store_hash: str | None, pool: Pool) -> list[TokenisedUnit]:
        plan = self.plan
        settings = [plan.seed, plan.splits.model_dump(), plan.link.model_dump(exclude={"store"}), store_hash, tokenizer.hash]
        work = []
        for unit in units:
            link = store_hash is not None and "link" not in unit.job.source.skip
            key = key_of("tokenise", code_hash(), settings, link, unit.result["hash"], _mask_hash(unit.keep))
            records = self.work.path("ingest", unit.job.unit.key, ".parquet")
            arguments = (plan, str(records), unit.keep, str(tokenizer.path), link)
            work.append(Unit("tokenise", key, records.stat().st_size, unit.job.unit.what, arguments))
        results = pool.run(tokenise, work, label="tokenise")
        kinds = ["images" if isinstance(unit.job.source, IdxSource) else "text" for unit in units]
        paths = [self.work.path("tokenise", unit.key, ".parquet") for unit in work]
        return [TokenisedUnit(kind, path, result) for kind, path, result in zip(kinds, paths, results, strict=True)]

    def _write_manifest(self, jobs: list[Job], tokenizer: Tokenizer, store_hash: str | None, datasets: list[Dataset]) -> None:
        files = dict.fromkeys(path for job in jobs for path in (job.span.path, *job.span.companions))
        write_json(
            self.out / "manifest.json",
            {
                "name": self.plan.name,
                "inputs": [{"file": path, "hash": self.work.hash_of_input(path)} for path in files],
                "tokenizer_hash": tokenizer.hash,
                "entity_store_hash": store_hash,
                "datasets": {dataset.name: dataset.manifest_summary() for dataset in datasets},
                "quarantine_hash": content_hash(self.out / "quarantine.jsonl"),
                "code_hash": code_hash(),
                "plan": self.plan.model_dump(mode="json"),
            },
        )


def _last_characters(result: dict[str, Any]) -> int:
    stages = [stage for name, stage in result["stages"].items() if name != "dedup"]
    return stages[-1]["characters"]


def _mask_hash(keep: np.ndarray | None) -> str | None:
    return None if keep is None else hash128_hex(keep.tobytes())


def dry_run(preparation: Preparation) -> str:
    """What a run would do: files, units, and how many of them are finished already."""
    jobs = preparation.jobs()
    lines = [f"plan `{preparation.plan.name}`, {preparation.workers} workers, output {preparation.out}"]
    for source in preparation.plan.sources:
        mine = [job for job in jobs if job.source.name == source.name]
        done = sum(preparation.work.finished("ingest", job.unit.key) is not None for job in mine)
        size = sum(job.span.weight for job in mine)
        names = ", ".join(name for name, _ in stages_for(preparation.plan, source)) or "none"
        files = len({job.span.path for job in mine})
        lines.append(f"  {source.name} ({source.kind}): {files} files, {size:,} bytes, {len(mine)} units ({done} finished); stages: {names}")
    return "\n".join(lines)
