"""Last step: the units' token files, in plan order, become Arrow shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from data_prep.plan import Plan
from data_prep.work import key_of
from rwtrain.data.shards import MANIFEST, ShardWriter
from rwtrain.data.tokenizer import Tokenizer
from rwtrain.files import atomic_folder, content_hash

SPLITS = ("train", "valid", "test")
KINDS = ("text", "images")
ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class TokenisedUnit:
    """A finished tokenise unit: what kind of documents, where, and the counts."""

    kind: str
    path: Path
    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A written dataset: its name (`text/train`), folder and shard manifest."""

    name: str
    folder: Path
    manifest: dict[str, Any]

    def manifest_summary(self) -> dict[str, Any]:
        """What the corpus manifest says about it."""
        counts = {key: self.manifest[key] for key in ("documents", "tokens", "mentions", "images", "bytes")}
        return {**counts, "manifest_hash": content_hash(self.folder / MANIFEST)}


def write_datasets(plan: Plan, folder: Path, units: Sequence[TokenisedUnit], tokenizer: Tokenizer, *, store_hash: str | None, quiet: bool) -> list[Dataset]:
    """Write `folder/KIND/SPLIT` for every kind and split that has documents; datasets that are up to date are left alone."""
    datasets = []
    for kind in KINDS:
        mine = [unit for unit in units if unit.kind == kind]
        manifests: dict[str, dict[str, Any]] = {}
        missing: dict[str, str] = {}
        for split in SPLITS:
            if not any(unit.result["documents"].get(split, 0) for unit in mine):
                shutil.rmtree(folder / kind / split, ignore_errors=True)
                continue
            key = key_of("shards", plan.shards.model_dump(), split, tokenizer.hash, store_hash, [unit.result["hash"] for unit in mine])
            found = _up_to_date(folder / kind / split, key)
            if found is None:
                missing[split] = key
            else:
                manifests[split] = found
        documents = sum(unit.result["documents"].get(split, 0) for unit in mine for split in missing)
        with tqdm(total=documents, desc=f"{kind} shards"[:10].ljust(10), unit="doc", disable=quiet or not missing, mininterval=0.5) as bar:
            manifests |= _write(plan, folder / kind, [unit.path for unit in mine], missing, tokenizer, store_hash, bar)
        datasets += [Dataset(f"{kind}/{split}", folder / kind / split, manifests[split]) for split in SPLITS if split in manifests]
    return datasets


def _up_to_date(target: Path, key: str) -> dict[str, Any] | None:
    try:
        manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
        whole = all((target / shard["file"]).stat().st_size == shard["bytes"] for shard in manifest["shards"])
    except (OSError, ValueError, KeyError):
        return None
    return manifest if whole and manifest["provenance"].get("key") == key else None


def _write(
    plan: Plan, folder: Path, paths: Sequence[Path], keys: dict[str, str], tokenizer: Tokenizer, store_hash: str | None, bar: tqdm
) -> dict[str, dict[str, Any]]:
    """Write the splits that have a key, in one pass over the units; return their manifests."""
    if not keys:
        return {}
    with ExitStack() as stack:
        writers = {
            split: ShardWriter(
                stack.enter_context(atomic_folder(folder / split)),
                vocab_size=tokenizer.vocab_size,
                tokenizer_hash=tokenizer.hash,
                entity_store_hash=store_hash,
                provenance={"corpus": plan.name, "split": split, "key": key},
                max_shard_bytes=plan.shards.max_bytes,
            )
            for split, key in keys.items()
        }
        for path in paths:
            with pq.ParquetFile(str(path)) as file:
                for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
                    splits = batch.column("split")
                    for split, writer in writers.items():
                        chosen = batch.filter(pc.equal(splits, split))
                        writer.add_batch(chosen)
                        bar.update(len(chosen))
        return {split: writer.close() for split, writer in writers.items()}
