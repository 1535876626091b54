"""Damaged input of any kind ends in records and reasons: no crash, no hang, no file outside."""

from __future__ import annotations

import bz2
import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.records import Bad, Record
from data_prep.source_plan import WarcImageSource, WarcSource, WebDatasetSource, WetSource, WikipediaSource
from data_prep.sources import image_text, warc, warc_images, wikipedia
from data_prep.wikitext import wikitext_to_text
from tests.data_prep.builders import conversion, page, response, stretches

FUZZ = settings(max_examples=120, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
MEMBERS = [response(page(f"text {number}" * 9), uri=f"http://a.test/{number}") for number in range(5)] + [conversion(b"plain text", uri="http://a.test/w")]


@st.composite
def damaged(draw, data: bytes) -> bytes:
    """Data with a few bytes changed, inserted or cut away."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(len(changed) - 1, 0)))
        action = draw(st.sampled_from(["change", "insert", "cut", "end"]))
        if action == "change" and changed:
            changed[place] = draw(st.integers(0, 255))
        elif action == "insert":
            changed[place:place] = draw(st.binary(max_size=30))
        elif action == "cut":
            del changed[place : place + draw(st.integers(1, 40))]
        else:
            del changed[place:]
    return bytes(changed)


@FUZZ
@given(damaged(b"".join(MEMBERS)), st.sampled_from([100, 700, 1 << 30]))
def test_damaged_warc_members(tmp_path: Path, data: bytes, unit_bytes: int) -> None:
    path = tmp_path / "x.warc.gz"
    path.write_bytes(data)
    for source in (
        WarcSource(kind="warc", name="s", paths=[str(path)], max_record_bytes=10_000),
        WetSource(kind="wet", name="s", paths=[str(path)], max_record_bytes=10_000),
    ):
        found = [record for span in stretches(source, unit_bytes=unit_bytes) for record in warc.read(source, span)]
        assert all(isinstance(record, Record | Bad) for record in found)
        ids = [record.doc_id for record in found if isinstance(record, Record)]
        assert len(ids) == len(set(ids))
    images = WarcImageSource(kind="warc_images", name="s", paths=[str(path)])
    for span in stretches(images, unit_bytes=unit_bytes):
        list(warc_images.read(images, span))


@FUZZ
@given(damaged(gzip.decompress(b"".join(MEMBERS[:3]))))
def test_damaged_warc_content(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.warc"
    for content in (data, gzip.compress(data)):
        path.write_bytes(content)
        source = WarcSource(kind="warc", name="s", paths=[str(path)])
        found = [record for span in stretches(source, unit_bytes=1 << 30) for record in warc.read(source, span)]
        assert all(isinstance(record, Record | Bad) for record in found)


@FUZZ
@given(damaged(b"<mediawiki><page><title>A</title><ns>0</ns><id>1</id><revision><text>'''A''' is [[b]].</text></revision></page></mediawiki>"))
def test_damaged_dumps(tmp_path: Path, data: bytes) -> None:
    for name, content in (("x.xml", data), ("x.xml.bz2", bz2.compress(data)), ("y.xml.bz2", data)):
        path = tmp_path / name
        path.write_bytes(content)
        source = WikipediaSource(kind="wikipedia", name="w", paths=[str(path)])
        assert all(isinstance(record, Record | Bad) for record in wikipedia.read(source, stretches(source, unit_bytes=1)[0]))


@settings(max_examples=200, deadline=5000)
@given(
    st.lists(
        st.sampled_from(
            [
                "{{",
                "}}",
                "{|",
                "|}",
                "[[",
                "]]",
                "''",
                "'''",
                "==",
                "<ref>",
                "</ref>",
                "<math>",
                "|",
                "\n",
                "* ",
                "File:",
                "text ",
                "<!--",
                "-->",
                "&nbsp;",
                "http://a.test ",
            ]
        ),
        max_size=60,
    )
)
def test_any_wikitext_ends(pieces: list[str]) -> None:
    text, links = wikitext_to_text("".join(pieces))
    assert all(0 <= link.start < link.end <= len(text) for link in links)


def make_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in (("1.png", b"image"), ("1.txt", b"one"), ("../2.jpg", b"image"), ("../2.json", b'{"caption": "two"}')):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@FUZZ
@given(damaged(make_tar()))
def test_damaged_tars(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "in").mkdir(exist_ok=True)
    path = tmp_path / "in" / "x.tar"
    path.write_bytes(data)
    source = WebDatasetSource(kind="webdataset", name="t", paths=[str(path)], max_member_bytes=10_000)
    assert all(isinstance(record, Record | Bad) for record in image_text.read(source, stretches(source, unit_bytes=1)[0]))
    assert [item.name for item in tmp_path.iterdir()] == ["in"]
    assert [item.name for item in path.parent.iterdir()] == ["x.tar"]


def test_a_decompression_bomb_stays_small(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    head = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: 300000000\r\nContent-Type: application/http\r\n\r\n"
    bomb = gzip.compress(head + b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + bytes(300_000_000))
    path = tmp_path / "bomb.warc.gz"
    path.write_bytes(bomb + MEMBERS[0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    source = WarcSource(kind="warc", name="s", paths=[str(path)], max_record_bytes=1 << 20)
    found = list(warc.read(source, stretches(source, unit_bytes=1 << 30)[0]))
    assert [type(item) for item in found] == [Bad, Record]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
