"""Packing plans on disk: made once for a dataset and a row length, memory-mapped by every rank of every run."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from rwtrain.data.packing import PACKING_VERSION, PackingPlan, pack
from rwtrain.data.shards import MANIFEST, ShardDataset
from rwtrain.files import atomic_path, content_hash, write_json

COLUMNS = ("row_offsets", "document", "start", "length")
log = logging.getLogger(__name__)


def packing_plan(dataset: ShardDataset, seq_len: int, cache: Path | None) -> PackingPlan:
    """The plan of a dataset: from `cache` if it is there and whole, else made and left there for others.

    Any number of processes may call it at once: each writes a file of its own, and the last rename wins with equal content.

    Args:
        cache: folder of plans; None keeps the plan in this process's memory only.
    """
    if cache is None:
        return pack(dataset.lengths, seq_len)
    key = xxhash.xxh3_64_hexdigest(f"{content_hash(dataset.folder / MANIFEST)} {seq_len} {PACKING_VERSION}".encode())
    path = cache / f"packing-{seq_len}-{key}.arrow"
    if (found := _read(path, seq_len)) is not None:
        return found
    plan = pack(dataset.lengths, seq_len)
    _write(path, plan)
    return _read(path, seq_len) or plan


def _write(path: Path, plan: PackingPlan) -> None:
    columns = [pa.LargeListArray.from_arrays(pa.array([0, len(values)], pa.int64()), pa.array(values)) for values in (getattr(plan, name) for name in COLUMNS)]
    batch = pa.record_batch(columns, names=list(COLUMNS))
    with atomic_path(path) as temporary:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        digest = content_hash(temporary)
    write_json(path.with_suffix(".json"), {"hash": digest, "rows": len(plan), "fill": plan.fill})


def _read(path: Path, seq_len: int) -> PackingPlan | None:
    """The plan in a file; None if there is none or its checksum differs."""
    try:
        expected = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["hash"]
        if content_hash(path) != expected:
            log.warning("%s: the packing plan is damaged and will be made again", path)
            return None
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    arrays: dict[str, np.ndarray] = {name: batch.column(name).values.to_numpy() for name in COLUMNS}
    return PackingPlan(**arrays, seq_len=seq_len)
