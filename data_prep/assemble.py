"""Last step: the units' token files, in plan order, become Arrow shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from data_prep.plan import Plan
from data_prep.work import key_of
from rwtrain.data.shards import MANIFEST, Document, ShardWriter
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
        for split in SPLITS:
            target = folder / kind / split
            documents = sum(unit.result["documents"].get(split, 0) for unit in mine)
            if documents == 0:
                shutil.rmtree(target, ignore_errors=True)
                continue
            key = key_of("shards", plan.shards.model_dump(), split, tokenizer.hash, store_hash, [unit.result["hash"] for unit in mine])
            manifest = _up_to_date(target, key)
            if manifest is None:
                with tqdm(total=documents, desc=f"{kind}/{split}"[:10].ljust(10), unit="doc", disable=quiet, mininterval=0.5) as bar:
                    manifest = _write(plan, target, [unit.path for unit in mine], split, tokenizer, store_hash, key, bar)
            datasets.append(Dataset(f"{kind}/{split}", target, manifest))
    return datasets


def _up_to_date(target: Path, key: str) -> dict[str, Any] | None:
    try:
        manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
        whole = all((target / shard["file"]).stat().st_size == shard["bytes"] for shard in manifest["shards"])
    except (OSError, ValueError, KeyError):
        return None
    return manifest if whole and manifest["provenance"].get("key") == key else None


def _write(plan: Plan, target: Path, paths: Sequence[Path], split: str, tokenizer: Tokenizer, store_hash: str | None, key: str, bar: tqdm) -> dict[str, Any]:
    with atomic_folder(target) as temporary:
        writer = ShardWriter(
            temporary,
            vocab_size=tokenizer.vocab_size,
            tokenizer_hash=tokenizer.hash,
            entity_store_hash=store_hash,
            provenance={"corpus": plan.name, "split": split, "key": key},
            max_shard_bytes=plan.shards.max_bytes,
        )
        for path in paths:
            with pq.ParquetFile(str(path)) as file:
                for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
                    bar.update(_add(writer, batch, split))
        return writer.close()


def _add(writer: ShardWriter, batch: Any, split: str) -> int:
    chosen = [row for row, name in enumerate(batch.column("split").to_pylist()) if name == split]
    columns = {name: batch.column(name) for name in batch.schema.names if name != "split"}
    for row in chosen:
        values = {name: column[row] for name, column in columns.items()}
        writer.add(
            Document(
                doc_id=values["doc_id"].as_py(),
                source=values["source"].as_py(),
                language=values["language"].as_py(),
                content_id=values["content_id"].as_py(),
                tokens=values["tokens"].values.to_numpy(zero_copy_only=True),
                mention_start=_integers(values["mention_start"]),
                mention_end=_integers(values["mention_end"]),
                mention_entity=_integers(values["mention_entity"]),
                images=values["images"].as_py(),
            )
        )
    return len(chosen)


def _integers(scalar: Any) -> np.ndarray:
    return scalar.values.to_numpy(zero_copy_only=True)
