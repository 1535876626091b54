"""Shards: what goes in comes out, readable by any Arrow tool; damage is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rwtrain.data.shards import Document, ShardDataset, ShardWriter, arrow_schema
from rwtrain.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with ShardWriter(tmp_path / "set", vocab_size=70_000, tokenizer_hash="t", max_shard_bytes=600) as writer:
        for number in range(20):
            writer.add(
                Document(
                    doc_id=f"d{number}",
                    tokens=np.arange(number, number + 30) + 65_530,
                    content_id=2**63 + number,
                    source=f"s{number}",
                    language="de",
                    mention_start=[3, 9],
                    mention_end=[5, 12],
                    mention_entity=[number, 7],
                    images=[bytes([number, 0, 255])] * (number % 3),
                )
            )
    return tmp_path / "set"


def test_what_goes_in_comes_out(folder: Path) -> None:
    dataset = ShardDataset(folder, verify=True)
    assert len(dataset) == 20
    assert len(dataset.manifest["shards"]) > 3
    assert dataset.lengths.tolist() == [30] * 20
    assert dataset.tokens(13, 28).tolist() == [65_571, 65_572]  # beyond 16 bits
    assert dataset.tokens(13, 4, 6).tolist() == [65_547, 65_548]
    assert [part.tolist() for part in dataset.mentions(13)] == [[3, 9], [5, 12], [13, 7]]
    shard, row = dataset.locate(14)
    assert (shard.doc_id(row), shard.source(row), shard.language(row)) == ("d14", "s14", "de")
    assert shard.images(row) == [bytes([14, 0, 255])] * 2
    assert int(shard.content_id[row]) == 2**63 + 14
    assert (dataset.manifest["tokens"], dataset.manifest["mentions"], dataset.manifest["images"]) == (600, 40, sum(n % 3 for n in range(20)))


def test_batches_give_the_same_files_as_documents_one_by_one(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    documents = [
        Document(
            doc_id=f"d{number}",
            tokens=generator.integers(0, 90, generator.integers(2, 40)).astype(np.uint16),
            content_id=number << 50,
            source=f"http://ä.test/{number}",
            language="de",
            mention_start=[1] * (number % 3 > 0),
            mention_end=[2] * (number % 3 > 0),
            mention_entity=[number] * (number % 3 > 0),
            images=[bytes(number)] * (number % 4),
        )
        for number in range(50)
    ]
    settings = {"vocab_size": 90, "tokenizer_hash": "t", "max_shard_bytes": 900}
    with ShardWriter(tmp_path / "one", **settings) as writer:
        for document in documents:
            writer.add(document)
    rows = [{name: getattr(document, name) for name in arrow_schema("uint16").names} for document in documents]
    whole = pa.RecordBatch.from_pylist([{**row, "split": "train"} for row in rows], arrow_schema("uint16").append(pa.field("split", pa.large_string())))
    with ShardWriter(tmp_path / "batches", **settings) as writer:
        for start, count in ((0, 0), (0, 20), (20, 1), (21, 0), (21, 29)):
            writer.add_batch(whole.slice(start, count))
    with ShardWriter(tmp_path / "both", **settings) as writer:
        writer.add_batch(whole.slice(0, 11))
        for document in documents[11:30]:
            writer.add(document)
        writer.add_batch(whole.slice(30))
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) > 4
    for other in ("batches", "both"):
        assert sorted(path.name for path in (tmp_path / other).iterdir()) == names
        assert all((tmp_path / other / name).read_bytes() == (tmp_path / "one" / name).read_bytes() for name in names)


def test_tokens_are_views_of_the_file(folder: Path) -> None:
    tokens = ShardDataset(folder).tokens(0)
    assert not tokens.flags.owndata
    assert not tokens.flags.writeable


def test_any_arrow_tool_reads_a_shard(folder: Path) -> None:
    table = pa.ipc.open_file(folder / "shard-00000.arrow").read_all()
    assert table["doc_id"][0].as_py() == "d0"
    assert table["tokens"][0].as_py()[:2] == [65_530, 65_531]


def test_an_interrupted_writer_leaves_no_dataset(tmp_path: Path) -> None:
    def interrupted() -> None:
        with ShardWriter(tmp_path / "set", vocab_size=10, tokenizer_hash="t") as writer:
            writer.add(Document(doc_id="a", tokens=np.array([1, 2]), content_id=0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(DataError, match=r"no finished dataset.*manifest\.json.*rwtrain prep"):
        ShardDataset(tmp_path / "set")


def damage(folder: Path, tmp_path: Path, change: str) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shard = copy / "shard-00001.arrow"
    content = bytearray(shard.read_bytes())
    if change == "flip":
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    elif change == "cut":
        shard.write_bytes(content[:-10])
    elif change == "missing":
        shard.unlink()
    elif change == "version":
        manifest = json.loads((copy / "manifest.json").read_text())
        (copy / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 99}))
    elif change == "escape":
        manifest = json.loads((copy / "manifest.json").read_text())
        manifest["shards"][1]["file"] = "../set/shard-00002.arrow"
        (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("flip", r"shard-00001\.arrow: checksum .* the manifest says .* corrupt"),
        ("cut", r"shard-00001\.arrow: \d+ bytes, the manifest says \d+"),
        ("missing", r"shard-00001\.arrow: the shard is missing"),
        ("version", r"schema version 99"),
        ("escape", r"copy/shard-00002\.arrow: .*the manifest says"),
    ],
)
def test_damage_is_refused_by_name(folder: Path, tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ShardDataset(damage(folder, tmp_path, change), verify=True)
