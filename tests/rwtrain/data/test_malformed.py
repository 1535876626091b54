"""Malformed inputs of training: named with file, record and remedy before or while they would be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rwtrain.config.schema import BatchConfig, TrainConfig
from rwtrain.data.recipe import BatchBuilder, Recipe
from rwtrain.data.shards import Document, ShardDataset, ShardWriter
from rwtrain.errors import DataError
from rwtrain.train.setup import make_loader, open_inputs


def configured(settings: dict, **data: str) -> TrainConfig:
    return TrainConfig.model_validate({**settings, "run": "unused", "data": {**settings["data"], **data}})


def test_an_image_that_does_not_decode_is_named(train_settings: dict, tmp_path: Path) -> None:
    source = ShardDataset(train_settings["data"]["images"])
    known = {key: source.manifest[key] for key in ("vocab_size", "tokenizer_hash", "entity_store_hash")}
    with ShardWriter(tmp_path / "images", **known) as writer:
        for number in range(12):
            shard, row = source.locate(number)
            encoded = shard.images(row)[0]
            writer.add(Document(doc_id=f"photo-{number}", tokens=source.tokens(number), content_id=number, images=[encoded[:40]]))
    config = configured(train_settings, images=str(tmp_path / "images"))
    loader = make_loader(config, open_inputs(config, verify=True), rank=0, world_size=1)
    with pytest.raises(DataError, match=r"images, record photo-\d+: An image of 40 bytes cannot be decoded"):
        loader.micro_batch(0, 0)


def test_a_span_outside_its_document_is_neither_written_nor_read(train_settings: dict, tmp_path: Path) -> None:
    source = ShardDataset(train_settings["data"]["text"])
    known = {key: source.manifest[key] for key in ("vocab_size", "tokenizer_hash", "entity_store_hash")}
    with ShardWriter(tmp_path / "unused", **known) as writer, pytest.raises(DataError, match="record d: a mention of tokens 3 to 9 in a document of 8"):
        writer.add(Document(doc_id="d", tokens=np.arange(8), content_id=0, mention_start=[3], mention_end=[9], mention_entity=[0]))
    for column, value, message in (("mention_end", 5000, r"tokens \d+ to 5000 of"), ("mention_entity", 77, "entity 77")):
        folder = tmp_path / column
        shutil.copytree(source.folder, folder)
        change(folder, column, value)
        with pytest.raises(DataError, match=rf"shard-00000\.arrow, record \d+: 1 mentions lie outside.*{message}"):
            open_inputs(configured(train_settings, text=str(folder)), verify=True)


def change(folder: Path, column: str, value: int) -> None:
    """Set the third mention's `column` in the first shard, with a right checksum."""
    from rwtrain.files import content_hash

    path = folder / "shard-00000.arrow"
    batch = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).get_batch(0)
    old: Any = batch.column(column)
    values = old.values.to_numpy().copy()
    values[2] = value
    changed = pa.LargeListArray.from_arrays(old.offsets, pa.array(values))
    batch = batch.set_column(batch.schema.get_field_index(column), batch.schema.field(column), changed)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][0] |= {"hash": content_hash(path), "bytes": path.stat().st_size}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_vector_that_is_not_finite_is_named(train_settings: dict, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(train_settings["data"]["entity_store"], store)
    path = next(store.rglob("entity_vectors.npy"))
    vectors = np.load(path)
    vectors[7, 3] = np.nan
    np.save(path, vectors)
    config = configured(train_settings, entity_store=str(store))
    with pytest.raises(DataError, match=r"entity_vectors\.npy, record 7: the vector holds values that are not finite"):
        open_inputs(config, verify=False)


def test_segments_and_blocks_that_overlap_are_refused() -> None:
    builder = BatchBuilder(Recipe(BatchConfig(seq_len=20, text_rows=1), 1, 0, 0, 0, image_tokens=0, entity_dim=0), image_size=0)
    builder.add_segment(0, np.arange(8), block_tokens=0)
    with pytest.raises(ValueError, match=r"row 0: a segment of 6 tokens .* at place 5, where 8 of 20 places are taken"):
        builder.add_segment(0, np.arange(6), block_tokens=6, at=5)
    with pytest.raises(ValueError, match="a block must lie inside its segment"):
        builder.add_segment(0, np.arange(6), block_tokens=9)
    with pytest.raises(ValueError, match="segment of 13 tokens"):
        builder.add_segment(0, np.arange(13), block_tokens=0)
