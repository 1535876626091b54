from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from data_prep.records import Bad, Record
from data_prep.source_plan import WarcSource, WetSource
from data_prep.sources import warc
from data_prep.sources.spans import Span
from tests.data_prep.builders import conversion, page, response, stretches, write_warc

SAMPLE = Path(__file__).parents[2] / "examples/data/cc-main-2020-34-sample.warc.gz"


def read_all(path: Path, *, unit_bytes: int = 1 << 30, kind: str = "warc", **settings: int) -> tuple[list[Record], list[Bad]]:
    source = (WarcSource if kind == "warc" else WetSource)(kind=kind, name="s", paths=[str(path)], **settings)
    found = [record for span in stretches(source, unit_bytes=unit_bytes) for record in warc.read(source, span)]
    return [record for record in found if isinstance(record, Record)], [bad for bad in found if isinstance(bad, Bad)]


def test_common_crawl_slice_has_its_sixteen_pages() -> None:
    records, bad = read_all(SAMPLE)
    raw = gzip.decompress(SAMPLE.read_bytes())
    assert len(records) == raw.count(b"WARC-Type: response\r\n") == 16
    assert not bad
    assert records[0].source == "http://003338.cn/l41/481397.html"


@pytest.mark.parametrize("unit_bytes", [1_000, 7_777, 40_000])
def test_every_page_belongs_to_exactly_one_span(unit_bytes: int) -> None:
    whole, _ = read_all(SAMPLE)
    parts, bad = read_all(SAMPLE, unit_bytes=unit_bytes)
    assert [(record.doc_id, record.raw) for record in parts] == [(record.doc_id, record.raw) for record in whole]
    assert not bad


def test_truncated_gzip_gives_the_whole_records_and_names_the_rest(tmp_path: Path) -> None:
    members = [response(page(f"text {number}" * 50), uri=f"http://a.test/{number}") for number in range(4)]
    path = tmp_path / "cut.warc.gz"
    path.write_bytes(b"".join(members)[:-40])
    records, bad = read_all(path)
    assert [record.source for record in records] == ["http://a.test/0", "http://a.test/1", "http://a.test/2"]
    assert [(item.file, item.record) for item in bad] == [(str(path), str(sum(map(len, members[:3]))))]
    assert "ends before its end" in bad[0].reason


@pytest.mark.parametrize("lie", [-5, 3, 40, 700, 10_000_000])
def test_a_lying_content_length_costs_one_record(tmp_path: Path, lie: int) -> None:
    good = [response(page(f"good {number}" * 30), uri=f"http://a.test/{number}") for number in range(6)]
    liar = response(page("liar" * 30), uri="http://liar.test/", content_length=lie)
    path = tmp_path / "lie.warc.gz"
    path.write_bytes(b"".join([*good[:3], liar, *good[3:]]))
    for unit_bytes in (1 << 30, 300):
        records, bad = read_all(path, unit_bytes=unit_bytes)
        assert [record.source for record in records] == [f"http://a.test/{number}" for number in range(6)]
        assert [item.record for item in bad] == [str(sum(map(len, good[:3])))]
        assert "Content-Length" in bad[0].reason


def test_damage_inside_a_member_costs_that_record(tmp_path: Path) -> None:
    members = [response(page(f"text {number}" * 50), uri=f"http://a.test/{number}") for number in range(5)]
    data = bytearray(b"".join(members))
    start = len(members[0]) + len(members[1])
    data[start + 60 : start + 90] = bytes(30)
    path = tmp_path / "damaged.warc.gz"
    path.write_bytes(bytes(data))
    for unit_bytes in (1 << 30, 250):
        records, bad = read_all(path, unit_bytes=unit_bytes)
        assert [record.source[-1] for record in records] == ["0", "1", "3", "4"]
        assert [item.record for item in bad] == [str(start)]


def test_garbage_between_records_is_stepped_over(tmp_path: Path) -> None:
    path = tmp_path / "garbage.warc.gz"
    path.write_bytes(response(page("one"), uri="http://a.test/1") + b"\x1f\x8b\x08 not gzip at all" * 20 + response(page("two"), uri="http://a.test/2"))
    records, bad = read_all(path)
    assert [record.source for record in records] == ["http://a.test/1", "http://a.test/2"]
    assert len(bad) == 1


def test_only_successful_html_pages_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mixed.warc.gz"
    path.write_bytes(
        response(b"\x89PNG", headers="Content-Type: image/png")
        + response(page("gone"), status="404 Not Found")
        + response(page("here"), uri="http://a.test/here")
    )
    records, bad = read_all(path)
    assert [record.source for record in records] == ["http://a.test/here"]
    assert not bad


def test_chunked_and_compressed_pages_are_decoded(tmp_path: Path) -> None:
    html = page("decoded text " * 40)
    chunked = (
        b"".join(f"{len(html[start : start + 100]):x}\r\n".encode() + html[start : start + 100] + b"\r\n" for start in range(0, len(html), 100)) + b"0\r\n\r\n"
    )
    path = tmp_path / "encoded.warc.gz"
    path.write_bytes(
        response(chunked, headers="Content-Type: text/html\r\nTransfer-Encoding: chunked")
        + response(gzip.compress(html), headers="Content-Type: text/html\r\nContent-Encoding: gzip")
        + response(page("last"))
    )
    records, bad = read_all(path)
    assert [record.raw for record in records] == [html, html, page("last")]
    assert not bad


def test_a_page_beyond_the_limit_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "large.warc.gz"
    path.write_bytes(response(page("a" * 5_000_000), uri="http://bomb.test/") + response(page("b"), uri="http://a.test/"))
    records, bad = read_all(path, max_record_bytes=100_000)
    assert [record.source for record in records] == ["http://a.test/"]
    assert "larger than 100000 bytes" in bad[0].reason


def test_uncompressed_and_single_member_files_are_read(tmp_path: Path) -> None:
    plain = gzip.decompress(write_warc(tmp_path / "many.warc.gz", 5).read_bytes())
    (tmp_path / "plain.warc").write_bytes(plain)
    (tmp_path / "single.warc.gz").write_bytes(gzip.compress(plain))
    expected = [record.source for record in read_all(tmp_path / "many.warc.gz")[0]]
    for name in ("plain.warc", "single.warc.gz"):
        for unit_bytes in (1 << 30, 200):
            records, bad = read_all(tmp_path / name, unit_bytes=unit_bytes)
            assert [record.source for record in records] == expected, (name, unit_bytes)
            assert not bad


def test_a_file_that_is_no_warc_is_set_aside(tmp_path: Path) -> None:
    for content in (b"", b"hello", gzip.compress(b"hello"), b"\x1f\x8b\x08"):
        path = tmp_path / "no.warc.gz"
        path.write_bytes(content)
        records, bad = read_all(path)
        assert not records
        assert len(bad) == (1 if content else 0), content


def test_wet_records_and_invalid_utf8(tmp_path: Path) -> None:
    path = tmp_path / "x.warc.wet.gz"
    path.write_bytes(
        conversion("Grüße".encode(), uri="http://a.test/1") + conversion(b"ab\xff\xfe", uri="http://a.test/2") + conversion(b"end", uri="http://a.test/3")
    )
    records, bad = read_all(path, kind="wet")
    assert [record.text for record in records] == ["Grüße", "end"]
    assert [item.reason for item in bad] == ["invalid UTF-8 at byte 2 of the record"]


def test_a_span_that_begins_inside_compressed_data_ignores_false_magic_numbers(tmp_path: Path) -> None:
    inner = gzip.compress(b"not a warc record")
    path = tmp_path / "nested.warc.gz"
    path.write_bytes(response(page("x") + inner * 3, uri="http://a.test/1") + response(page("y"), uri="http://a.test/2"))
    size = path.stat().st_size
    source = WarcSource(kind="warc", name="s", paths=[str(path)])
    records = list(warc.read(source, Span(str(path), path.name, 10, size, size)))
    assert [record.source for record in records if isinstance(record, Record)] == ["http://a.test/2"]
