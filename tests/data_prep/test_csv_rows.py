from __future__ import annotations

import csv
import gzip
import io
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.pipeline import Preparation
from data_prep.plan import Plan
from data_prep.records import Bad, Record
from data_prep.source_plan import TextSource
from data_prep.sources import text
from tests.data_prep.builders import prose, stretches


def read_all(path: Path, *, unit_bytes: int = 1 << 20, **options: object) -> list[Record | Bad]:
    source = TextSource.model_validate({"kind": "text", "name": "t", "paths": [str(path)], **options})
    return [item for span in stretches(source, unit_bytes=unit_bytes) for item in text.read(source, span)]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["a", "é", ",", '"', '""', "\n", "\r\n", ' "', '",', ',"', "long field "]), max_size=40).map("".join),
    st.sampled_from([1, 7, 1 << 20]),
)
def test_records_are_those_of_the_csv_module_whatever_the_cuts(tmp_path: Path, content: str, unit_bytes: int) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(
        b"\xef\xbb\xbftext,other,third,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,35,36,37,38,39,40,41\n"
        + content.encode()
    )
    expected = [row[0] for row in csv.reader(io.StringIO(content, newline="")) if row and row[0] != " "]  # a blank line is none; a quoted blank is one
    found = read_all(path, unit_bytes=unit_bytes)
    assert [item.text for item in found if isinstance(item, Record) and item.text != " "] == expected
    assert len({item.doc_id for item in found if isinstance(item, Record)}) == len(found)


def test_bad_records_cost_only_themselves(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    big = b'"' + b"x" * 300 + b"\n" + b"y" * 300 + b'"\n'
    path.write_bytes(b"id,text\r\n1,one\r\n2,\xff\r\n3,three,too,many\r\n\r\n" + b"4," + big + b"5," + b"z" * 700 + b"\n6\n7,seven\n" + b'8,"open\nto the end')
    found = read_all(path, max_record_bytes=500, id_column="id")
    assert [(item.doc_id, item.text) for item in found if isinstance(item, Record)] == [
        ("t:x.csv:1", "one"),
        ("t:x.csv:7", "seven"),
        ("t:x.csv:8", "open\nto the end"),
    ]
    reasons = [item.reason for item in found if isinstance(item, Bad)]
    assert reasons[0].startswith("not a CSV record in UTF-8")
    assert reasons[1] == "4 fields, the first record has 2"
    assert [reason.startswith("a record larger than 500 bytes") for reason in reasons[2:4]] == [True, True]
    assert reasons[4:] == ["no text in column `text`"]


def test_a_quotation_mark_that_is_never_closed_is_read_in_bounded_memory_and_linear_time(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b'text\n"open\n' + b'a "" b\n' * 300_000)
    begin = time.process_time()
    (bad,) = read_all(path, max_record_bytes=1000, unit_bytes=100_000)
    assert isinstance(bad, Bad)
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_a_large_table_is_cut_and_gives_the_same_shards(tmp_path: Path, suffix: str) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(["title", "text"])
    for number in range(60):
        writer.writerow([f"Title, {number}", f'{prose(number)}\n\n"{prose(number + 100)}"'])
    path = tmp_path / f"table{suffix}"
    data = buffer.getvalue().encode()
    path.write_bytes(gzip.compress(data) if suffix == ".csv.gz" else data)
    shards = []
    for unit_bytes in (1 << 20, 3_000):
        settings = {
            "unit_bytes": unit_bytes,
            "tokenizer": {"vocab_size": 400},
            "splits": {"valid": 0},
            "language": {"enabled": False},
            "repetition": {"enabled": False},
        }
        plan = Plan.model_validate({"sources": [{"kind": "text", "name": "t", "paths": [str(path)]}], **settings})
        out = tmp_path / f"out-{unit_bytes}"
        summary = Preparation(plan, out, workers=1, quiet=True).run()
        assert summary.funnel[0].documents == 60
        assert (len(list((out / "work/ingest").glob("*.parquet"))) > 2) == (unit_bytes == 3_000)
        shards.append([file.read_bytes() for file in sorted((out / "shards/text/train").glob("*.arrow"))])
    assert shards[0] == shards[1]
