"""The held-out class-labelled images as an evaluation file: PNG bytes and class names, with the caption templates beside them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from data_prep.plan import Plan
from data_prep.source_plan import IdxSource
from data_prep.sources import idx
from rwtrain.files import atomic_path, write_text


def write(plan: Plan, folder: Path) -> None:
    """Write `zeroshot.parquet` (columns `image`, `label`) and `zeroshot.yaml` (`classes`, `templates`) if the plan marks images for it."""
    for source in plan.sources:
        if not isinstance(source, IdxSource):
            continue
        pairs = [pair for pair in source.files if pair.zero_shot]
        if not pairs:
            continue
        images: list[bytes] = []
        labels: list[str] = []
        for pair in pairs:
            pixels, numbers = idx.read_pair(pair)
            images += [idx.png(image) for image in pixels]
            labels += [idx.class_name(source, pair, int(label), row) for row, label in enumerate(numbers)]
        with atomic_path(folder / "zeroshot.parquet") as temporary:
            pq.write_table(pa.table({"image": pa.array(images, pa.binary()), "label": labels}), temporary, compression="zstd")
        write_text(folder / "zeroshot.yaml", yaml.safe_dump({"classes": source.classes, "templates": source.templates}, sort_keys=False))
