"""The whole preparation: ingest, deduplicate, cut repeats, train a tokenizer, tokenise and link, write shards, report."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep import zeroshot
from data_prep.assemble import Dataset, TokenisedUnit, write_datasets
from data_prep.dedup.sorted_hashes import SortedHashes
from data_prep.dedup.step import Duplicates, find_duplicates
from data_prep.dedup.substring import Documents, cut_repeats, mask_hash
from data_prep.duplicate_examples import read_clusters
from data_prep.engines import Engine
from data_prep.engines.processes import Processes
from data_prep.ingest import ingest, is_deduplicated
from data_prep.jobs import Inputs, Job, describe_jobs, look_at_inputs, refuse_empty
from data_prep.linking import LinkInputs, link_inputs
from data_prep.links import wiki_of
from data_prep.packing_figures import measure_packing
from data_prep.plan import DedupNode, Plan
from data_prep.pool import Pool
from data_prep.privacy import Privacy
from data_prep.redirects import join_redirects
from data_prep.report import write_report
from data_prep.source_plan import WikipediaSource
from data_prep.summary import Summary, as_json, summarise
from data_prep.tokenise import Task, tokenise
from data_prep.tokenizer_step import make_tokenizer
from data_prep.work import Unit, WorkFolder, code_hash, key_of, remove_leftovers
from rwtrain.data.shards import ShardDataset
from rwtrain.data.tokenizer import Tokenizer
from rwtrain.files import content_hash, write_json, write_text


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """What deduplication and cutting left.

    Attributes:
        documents: for every job, where its documents are now and which of them are left.
        texts: outcome for the text documents, None if it is off.
        pictures: outcome for the image–text pairs, None if it is off.
        cuts: what cutting did to each text unit.
    """

    documents: list[Documents]
    texts: Duplicates | None
    pictures: Duplicates | None
    cuts: list[dict[str, Any]]


class Preparation:
    """One run of a plan into one folder. Finished units of an earlier, interrupted run are reused.

    Args:
        plan: what to do.
        out: output folder.
        workers: number of processes on this machine; None for one per core.
        engine: does the units of work instead of them; it is closed in the end.
        quiet: show no progress bars.
    """

    def __init__(self, plan: Plan, out: str | Path, *, workers: int | None = None, engine: Engine | None = None, quiet: bool = False) -> None:
        self.plan = plan
        self.out = Path(out)
        self.engine = engine or Processes(workers or os.cpu_count() or 1)
        self.work = WorkFolder(self.out / "work")
        self.quiet = quiet

    def run(self) -> Summary:
        """Do everything; return the figures that the report shows.

        Raises:
            DataError: an input is missing or unreadable, or no document survived.
            RWTrainError: another process works in the same folder.
        """
        plan = self.plan
        with self.work.locked(), Pool(self.engine, self.work, quiet=self.quiet) as pool:
            remove_leftovers(self.out)
            links = link_inputs(plan.link)
            store_hash = links.store_hash if links is not None else None
            inputs = look_at_inputs(plan, pool)
            jobs = inputs.jobs
            results = pool.run(ingest, [job.unit for job in jobs], label="ingest")
            self._write_quarantine([*inputs.quarantine, *(bad for result in results for bad in result["quarantine"])])
            refuse_empty(plan, jobs, results, self.out / "quarantine.jsonl")
            left = self._deduplicate(jobs, results, pool)
            model = self.out / "tokenizer" / "tokenizer.model"
            characters = sum(result["characters"] for result in results)
            tokenizer = make_tokenizer(plan, model, left.documents, self.work, characters=characters, quiet=self.quiet)
            tokenised = self._tokenise(jobs, left.documents, tokenizer, links, pool)
            datasets = write_datasets(plan, self.out / "shards", tokenised, tokenizer, store_hash=store_hash, quiet=self.quiet)
            zeroshot.write(plan, self.out / "eval")
            paths = [self.work.path("ingest", job.unit.key, ".parquet") for job in jobs if is_deduplicated(plan, job.source) and not job.is_picture]
            clusters = read_clusters(left.texts.clusters, paths, ngram=plan.dedup.ngram) if left.texts is not None else []
            packing = [
                measure_packing(dataset.name, ShardDataset(dataset.folder).lengths, seq_len)
                for dataset in datasets
                if dataset.name.startswith("text/")
                for seq_len in plan.report.seq_lens
            ]
            summary = summarise(jobs, results, left.texts, left.pictures, left.cuts, tokenised, datasets, clusters=clusters, packing=packing)
            self._write_manifest(inputs, tokenizer, store_hash, datasets)
            if plan.privacy.enabled:
                summary.scrub_samples(Privacy(plan.privacy).scrub)
            write_json(self.out / "summary.json", as_json(summary))
            write_report(self.out / "report.html", plan, summary, workers=self.engine.workers)
            self.work.remove_unused()
        return summary

    def dry_run(self) -> str:
        """Look at the inputs and say what `run` would do; raises as it does for inputs."""
        with self.work.locked(), Pool(self.engine, self.work, quiet=self.quiet) as pool:
            return describe_jobs(
                self.plan, self.out, look_at_inputs(self.plan, pool).jobs, self.work, engine=f"{self.engine.name} with {self.engine.workers} workers"
            )

    def _write_quarantine(self, records: Sequence[list[str]]) -> None:
        rows = [dict(zip(("file", "record", "reason"), bad, strict=True)) for bad in records]
        write_text(self.out / "quarantine.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def _deduplicate(self, jobs: Sequence[Job], results: Sequence[dict[str, Any]], pool: Pool) -> Deduplicated:
        plan = self.plan
        documents = [Documents(self.work.path("ingest", job.unit.key, ".parquet"), result["hash"], None) for job, result in zip(jobs, results, strict=True)]
        chosen = [number for number, job in enumerate(jobs) if is_deduplicated(plan, job.source)]
        outcomes: dict[bool, Duplicates | None] = {False: None, True: None}
        for pictures, config in ((False, plan.dedup), (True, DedupNode(exact=True, fuzzy=False, bands=plan.dedup.bands))):
            mine = [number for number in chosen if jobs[number].is_picture == pictures]
            if not mine:
                continue
            keys = [jobs[number].unit.key for number in mine]
            files = [SortedHashes(str(self.work.path("ingest", key, "")), results[number]["documents"]) for key, number in zip(keys, mine, strict=True)]
            found = outcomes[pictures] = find_duplicates(files, keys, config, pool)
            for number, keep in zip(mine, found.keep, strict=True):
                documents[number] = Documents(documents[number].path, documents[number].hash, keep)
        cuts: list[dict[str, Any]] = []
        texts = [number for number, job in enumerate(jobs) if not job.is_picture and "substring" not in job.source.skip]
        if plan.substring.enabled and texts:
            shortened, cuts = cut_repeats([documents[number] for number in texts], plan.substring, pool)
            for number, unit in zip(texts, shortened, strict=True):
                documents[number] = unit
        return Deduplicated(documents, outcomes[False], outcomes[True], cuts)

    def _tokenise(self, jobs: Sequence[Job], documents: Sequence[Documents], tokenizer: Tokenizer, links: LinkInputs | None, pool: Pool) -> list[TokenisedUnit]:
        plan = self.plan
        settings = [plan.seed, plan.splits.model_dump(), plan.link.model_dump(exclude={"store", "entities"}), tokenizer.hash]
        with_links = links is not None and links.entities is not None
        dumps = {job.unit.key: wiki_of(job.source.language) for job in jobs if with_links and isinstance(job.source, WikipediaSource)}
        redirects = join_redirects(list(dumps), pool) if dumps else None
        wikis = tuple(sorted(set(dumps.values())))
        units = []
        for job, left in zip(jobs, documents, strict=True):
            mine = links if "link" not in job.source.skip else None
            is_dump = job.unit.key in dumps
            depends = [mine and mine.hash, [redirects and redirects.name, wikis] if is_dump else None]
            key = key_of("tokenise", code_hash(), settings, depends, left.hash, mask_hash(left.keep))
            task = Task(plan, left, str(tokenizer.path), mine, redirects if is_dump else None, wikis)
            units.append(Unit("tokenise", key, left.path.stat().st_size, job.unit.what, task))
        results = pool.run(tokenise, units, label="tokenise")
        paths = [self.work.path("tokenise", unit.key, ".parquet") for unit in units]
        return [TokenisedUnit("images" if job.is_picture else "text", path, result) for job, path, result in zip(jobs, paths, results, strict=True)]

    def _write_manifest(self, inputs: Inputs, tokenizer: Tokenizer, store_hash: str | None, datasets: list[Dataset]) -> None:
        write_json(
            self.out / "manifest.json",
            {
                "name": self.plan.name,
                "inputs": [{"file": path, "hash": found} for path, found in inputs.hashes.items()],
                "tokenizer_hash": tokenizer.hash,
                "entity_store_hash": store_hash,
                "datasets": {dataset.name: dataset.manifest_summary() for dataset in datasets},
                "quarantine_hash": content_hash(self.out / "quarantine.jsonl"),
                "code_hash": code_hash(),
                "plan": self.plan.model_dump(mode="json"),
            },
        )
