"""One large file becomes several units, and the units together hold what the file holds."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from pydantic import TypeAdapter

from data_prep.records import Bad, Record
from data_prep.source_plan import Source
from data_prep.sources import READERS
from data_prep.sources.bz2_blocks import BLOCK, find_marks, read_blocks
from data_prep.sources.survey import survey_here
from rwtrain.errors import DataError
from tests.data_prep.builders import prose, response, stretches, write_dump
from tests.data_prep.test_image_sources import picture, write_tar

SAMPLE = Path(__file__).parents[2] / "examples/data/enwiki-pages-articles1-shortened.xml.bz2"
ROWS = [{"text": f"row {number} {prose(number, 12)}", "id": f"k{number}"} for number in range(400)]


def source_of(kind: str, path: Path, **settings: Any) -> Source:
    return TypeAdapter(Source).validate_python({"kind": kind, "name": "s", "paths": [str(path)], **settings})


def read_in_units(source: Source, unit_bytes: int) -> tuple[list[list[Record]], list[Bad]]:
    """The records of every unit, and all that was set aside."""
    found = [list(READERS[source.kind].read(source, span)) for span in stretches(source, unit_bytes=unit_bytes)]
    return [[item for item in unit if isinstance(item, Record)] for unit in found], [item for unit in found for item in unit if isinstance(item, Bad)]


def write_rows(path: Path) -> Path:
    """The rows in the format that the name says, in many groups."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    table = pa.Table.from_pylist(ROWS)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=23)
    elif path.suffix == ".arrow":
        with pa.OSFile(str(path), "wb") as sink, (pa.ipc.new_file if path.stem == "file" else pa.ipc.new_stream)(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=23)
    elif path.suffix == ".txt":
        path.write_text("".join(row["text"] + "\r\n" for row in ROWS))
    else:
        data = lines.encode()
        path.write_bytes(gzip.compress(data[:9000]) + gzip.compress(data[9000:]) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet", "file.arrow", "stream.arrow", "rows.txt"])
def test_rows_of_one_file_are_shared_out(tmp_path: Path, name: str) -> None:
    source = source_of("text", write_rows(tmp_path / name))
    units, bad = read_in_units(source, 4000)
    whole, _ = read_in_units(source, 1 << 40)
    assert not bad
    assert len(whole) == 1
    assert len(units) > 2
    assert all(units)
    assert [record for unit in units for record in unit] == whole[0]
    assert [record.text for record in whole[0]] == [row["text"] for row in ROWS]


@pytest.mark.parametrize("suffix", [".bz2", ".xz", ".zst"])
def test_other_compressions_are_read_in_one_unit(tmp_path: Path, suffix: str) -> None:
    plain = write_rows(tmp_path / "rows.jsonl").read_bytes()
    path = tmp_path / f"rows.jsonl{suffix}"
    if suffix == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as sink:
            sink.write(plain)
    else:
        path.write_bytes(bz2.compress(plain) if suffix == ".bz2" else lzma.compress(plain))
    (unit,), bad = read_in_units(source_of("text", path), 1000)
    assert [record.text for record in unit] == [row["text"] for row in ROWS]
    assert not bad


@pytest.mark.parametrize("unit_bytes", [500, 3000])
def test_a_cut_gzip_file_is_read_as_far_as_it_goes_in_units(tmp_path: Path, unit_bytes: int) -> None:
    data = write_rows(tmp_path / "rows.jsonl.gz").read_bytes()
    (tmp_path / "cut.jsonl.gz").write_bytes(data[: len(data) * 3 // 4])
    source = source_of("text", tmp_path / "cut.jsonl.gz")
    spans, quarantine = survey_here(source, tmp_path / "work", unit_bytes=unit_bytes)
    found = [item for span in spans for item in READERS["text"].read(source, span)]
    records = [item for item in found if isinstance(item, Record)]
    assert [record.text for record in records] == [row["text"] for row in ROWS[: len(records)]]
    assert 100 < len(records) < 400
    assert [(file, reason.partition(" (")[0]) for file, _, reason in quarantine] == [(str(tmp_path / "cut.jsonl.gz"), "the rest of the file cannot be read")]


def test_a_damaged_row_group_costs_that_group(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.parquet")
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(3).column(0)
    data[column.data_page_offset : column.data_page_offset + 12] = bytes(12)
    path.write_bytes(bytes(data))
    units, bad = read_in_units(source_of("text", path), 1 << 30)
    assert len(units[0]) == 400 - 23
    assert [item.record for item in bad] == ["rows 69 to 91"]


@pytest.mark.parametrize("unit_bytes", [40_000, 300_000, 900_000])
def test_a_dump_is_cut_inside_its_bzip2_stream(unit_bytes: int) -> None:
    source = source_of("wikipedia", SAMPLE)
    units, bad = read_in_units(source, unit_bytes)
    whole, _ = read_in_units(source, 1 << 40)
    assert not bad
    assert len(whole[0]) == 106
    assert [record for unit in units for record in unit] == whole[0]
    assert sum(map(bool, units)) == min(len(units), 7)  # 6,089,746 bytes are seven blocks of 900,000


def test_every_block_of_several_streams_is_found(tmp_path: Path) -> None:
    parts = [prose(number, 3000).encode() for number in range(4)]
    path = tmp_path / "x.bz2"
    path.write_bytes(b"".join(bz2.compress(part, 1) for part in [*parts, b"", bytes(range(256)) * 1000]))
    with open(path, "rb") as stream:
        blocks = [content for _, content in read_blocks(stream, 0)]
        assert b"".join(block for block in blocks if isinstance(block, bytes)) == b"".join(parts) + bytes(range(256)) * 1000
        places = [bit // 8 for bit, mark in find_marks(stream, 0) if mark == BLOCK]
        assert [next(read_blocks(stream, place))[0] for place in places] == places
        assert next(read_blocks(stream, places[2] + 1))[0] == places[3]


def test_a_damaged_block_costs_its_pages(tmp_path: Path) -> None:
    pages = [(f"Page {number}", 0, f"text {number} {prose(number, 300)}", None) for number in range(900)]
    path = write_dump(tmp_path / "dump.xml.bz2", pages)
    xml = bz2.decompress(path.read_bytes())
    data = bytearray(bz2.compress(xml, 1))
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    for unit_bytes in (50_000, 1 << 30):
        units, bad = read_in_units(source_of("wikipedia", path), unit_bytes)
        numbers = [int(record.doc_id[2:]) for unit in units for record in unit]
        lost = sorted(set(range(1, 901)) - set(numbers))
        assert numbers == sorted(numbers)
        assert 0 < len(lost) < 120
        assert lost == list(range(lost[0], lost[-1] + 1))
        assert len(bad) == 1
        assert "damaged" in bad[0].reason


@pytest.mark.parametrize("unit_bytes", [300, 5000])
def test_plain_dumps_and_page_marks_across_cuts(tmp_path: Path, unit_bytes: int) -> None:
    packed = write_dump(tmp_path / "dump.xml.bz2", [(f"Page {number}", 0, f"text {number} " * (number % 40), None) for number in range(1, 150)])
    path = tmp_path / "dump.xml"
    path.write_bytes(bz2.decompress(packed.read_bytes()))
    units, bad = read_in_units(source_of("wikipedia", path), unit_bytes)
    whole, _ = read_in_units(source_of("wikipedia", path), 1 << 40)
    assert not bad
    assert [record for unit in units for record in unit] == whole[0]


@pytest.mark.parametrize("name", ["pages.warc", "pages.warc.gz"])
def test_a_crawl_without_a_member_per_record_is_cut_at_records(tmp_path: Path, name: str) -> None:
    plain = b"".join(gzip.decompress(response(f"<p>{prose(number)}</p>".encode(), uri=f"http://a.test/{number}")) for number in range(60))
    path = tmp_path / name
    path.write_bytes(gzip.compress(plain) if path.suffix == ".gz" else plain)
    source = source_of("warc", path)
    units, bad = read_in_units(source, 2000)
    assert not bad
    assert len(units) > 5
    assert [record.source for unit in units for record in unit] == [f"http://a.test/{number}" for number in range(60)]
    assert [record.doc_id for unit in units for record in unit] == [record.doc_id for record in read_in_units(source, 1 << 40)[0][0]]


@pytest.mark.parametrize("mode", ["", "gz"])
def test_tars_are_cut_between_samples(tmp_path: Path, mode: str) -> None:
    members = {f"{number:03}.{suffix}": picture(number, (8, 8)) if suffix == "png" else b"caption" for number in range(40) for suffix in ("png", "txt")}
    path = write_tar(tmp_path / "x.tar", members)
    if mode:
        path = tmp_path / "x.tar.gz"
        path.write_bytes(gzip.compress((tmp_path / "x.tar").read_bytes()))
    units, bad = read_in_units(source_of("webdataset", path), 3000)
    assert not bad
    assert len(units) > 2
    assert [(record.doc_id, record.images[0]) for unit in units for record in unit] == [(f"s:{path.name}:{n:03}", picture(n, (8, 8))) for n in range(40)]


def test_a_foreign_header_inside_a_tar_is_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {f"{number}.{suffix}": b"data" for number in range(9) for suffix in ("png", "txt")})
    with tarfile.open(path) as tar:
        place = tar.getmembers()[10].offset
    data = bytearray(path.read_bytes())
    data[place : place + 512] = b"x" * 512
    path.write_bytes(bytes(data))
    _, quarantine = survey_here(source_of("webdataset", path), tmp_path / "work", unit_bytes=1000)
    assert [bad[1:] for bad in quarantine] == [[f"byte {place}", "no tar header; the rest of the tar cannot be read"]]


def test_saved_datasets_are_folders(tmp_path: Path) -> None:
    data = Dataset.from_list(ROWS)
    data.select(range(100, 300)).save_to_disk(tmp_path / "one", num_shards=3)
    units, bad = read_in_units(source_of("text", tmp_path / "one", id_column="id"), 1 << 30)
    assert [record.text for unit in units for record in unit] == [row["text"] for row in ROWS[100:300]]
    assert [record.doc_id for record in units[0][:1]] == ["s:data-00000-of-00003.arrow:k100"]
    assert (len(units), bad) == (3, [])
    DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "dict")
    with pytest.raises(DataError, match=r"a dataset with the splits train, test.*Name the folder of one split"):
        stretches(source_of("text", tmp_path / "dict"), unit_bytes=1000)


def test_a_missing_column_is_named_with_the_others(tmp_path: Path) -> None:
    _, (bad,) = read_in_units(source_of("text", write_rows(tmp_path / "rows.parquet"), text_column="body"), 1 << 30)
    assert bad.reason == "no column `body`; there are text, id"


def test_a_line_beyond_the_limit_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n' + json.dumps({"text": "x" * 50_000}) + '\n{"text": "b"}\n')
    for unit_bytes in (100, 1 << 30):
        units, bad = read_in_units(source_of("text", path, max_record_bytes=1000), unit_bytes)
        assert [record.text for unit in units for record in unit] == ["a", "b"]
        assert [(item.record, item.reason) for item in bad] == [("byte 14", "a line larger than 1000 bytes")]
