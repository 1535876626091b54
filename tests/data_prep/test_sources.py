from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.inputs import find_files
from data_prep.records import Bad, Record
from data_prep.source_plan import IdxSource, LabelledImages, TextSource
from data_prep.sources import idx, text
from rwtrain.errors import DataError
from tests.data_prep.builders import stretches, write_idx


def read_text(path: Path, **settings: str) -> list[Record | Bad]:
    source = TextSource(kind="text", name="t", paths=[str(path)], **settings)
    return [record for span in stretches(source, unit_bytes=1) for record in text.read(source, span)]


def test_bad_json_lines_cost_those_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "one"}\n{"text": "\xff"}\nnot json\n{"other": 1}\n[1]\n\n{"text": "two", "url": "http://a.test/"}\n')
    found = read_text(path)
    assert [record.text for record in found if isinstance(record, Record)] == ["one", "two"]
    assert [(bad.record, bad.reason.split("(")[0].strip()) for bad in found if isinstance(bad, Bad)] == [
        ("byte 16", "invalid UTF-8 at byte 10 of the line"),
        ("byte 30", "not JSON"),
        ("byte 39", "no text in column `text`"),
        ("byte 52", "not a JSON object"),
    ]
    assert found[-1].source == "http://a.test/"


def test_truncated_gzip_json_lines(tmp_path: Path) -> None:
    data = gzip.compress(b"".join(json.dumps({"text": f"row {number} " + "x" * (number % 90)}).encode() + b"\n" for number in range(5000)))
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(data[: len(data) // 2])
    found = read_text(path)
    assert len(found) > 100
    assert isinstance(found[-1], Bad)
    assert [record.text.split()[1] for record in found[:100] if isinstance(record, Record)] == [str(number) for number in range(100)]


def test_parquet_rows_through_datasets(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"body": ["a", "b", None], "key": ["k1", "k2", "k3"]}), path)
    found = read_text(path, format="parquet", text_column="body", id_column="key")
    assert [(record.doc_id, record.text) for record in found if isinstance(record, Record)] == [("t:rows.parquet:k1", "a"), ("t:rows.parquet:k2", "b")]
    assert [bad.record for bad in found if isinstance(bad, Bad)] == ["row 2"]


def test_unreadable_parquet_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"not parquet")
    (bad,) = read_text(path, format="parquet")
    assert isinstance(bad, Bad)


def test_missing_corpus_names_the_pattern() -> None:
    with pytest.raises(DataError, match=r"nowhere/\*\.gz: no file matches \(source `web`\)"):
        find_files(["nowhere/*.gz"], source="web")


def test_labels_of_files_in_several_folders_differ(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.gz").write_bytes(b"")
    assert [label for _, label in find_files([str(tmp_path / "*/x.gz")], source="s")] == ["a/x.gz", "b/x.gz"]


def idx_source(tmp_path: Path, labels: list[int], classes: list[str]) -> IdxSource:
    images, numbers = write_idx(tmp_path, labels)
    pair = LabelledImages(images=str(images), labels=str(numbers), split="train")
    return IdxSource(kind="idx", name="i", files=[pair], classes=classes, templates=["a {}", "one {} here", "{}"])


def test_idx_images_become_png_with_captions_of_their_class(tmp_path: Path) -> None:
    source = idx_source(tmp_path, [0, 1, 0, 1] * 10, ["cat", "dog"])
    records = [record for span in stretches(source, unit_bytes=1) for record in idx.read(source, span, seed=0)]
    assert len(records) == 40
    for number, record in enumerate(records):
        name = ["cat", "dog"][number % 2]
        assert record.text in {f"a {name}", f"one {name} here", name}
        with Image.open(io.BytesIO(record.images[0])) as image:
            assert (image.format, image.size, image.getpixel((0, 0))) == ("PNG", (4, 4), number)
    assert len({record.text for record in records}) == 6
    assert len({record.content_id for record in records}) == 2
    assert {record.content_id for record in records[::2]}.isdisjoint({record.content_id for record in records[1::2]})


def test_a_class_without_a_name_is_refused(tmp_path: Path) -> None:
    source = idx_source(tmp_path, [0, 2], ["cat", "dog"])
    with pytest.raises(DataError, match="record 1: class number 2, but the plan names 2 classes"):
        list(idx.read(source, stretches(source, unit_bytes=1)[0], seed=0))


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-20], lambda data: gzip.compress(gzip.decompress(data)[:-3]), lambda data: gzip.compress(b"no idx file"), lambda data: b""]
)
def test_damaged_idx_files_are_refused(tmp_path: Path, damage) -> None:
    images, labels = write_idx(tmp_path, [0, 1])
    images.write_bytes(damage(images.read_bytes()))
    with pytest.raises(DataError, match=r"images\.gz"):
        idx.read_pair(LabelledImages(images=str(images), labels=str(labels), split="train"))
