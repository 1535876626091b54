"""Hostile pages and images: whatever they hold, they end as a document, a removal or a named record, in bounded memory and time."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.extraction import Extract
from data_prep.filters.images import Images
from data_prep.pipeline import Preparation
from data_prep.plan import ExtractNode, ImageNode, Plan
from data_prep.records import Bad, Record, Removed
from data_prep.source_plan import WarcSource
from data_prep.sources import warc
from data_prep.sources.spans import Span
from tests.data_prep.builders import page, prose, response
from tests.data_prep.test_fuzz import damaged

FUZZ = settings(max_examples=60, deadline=5000)
METHODS = [method for method in get_args(ExtractNode.model_fields["method"].annotation) if method != "trafilatura"]
HUGE = 120_000_000
LIMIT = 1 << 20
PIECES = [
    "<div>",
    "</div>",
    "<p>",
    "</p>",
    "<table><tr><td>",
    "<script>",
    "</script>",
    "<!--",
    "-->",
    "<svg>",
    "<math>",
    "<template>",
    "<select>",
    "<textarea>",
]
PIECES += ["&#0;", "&#x110000;", "&amp", "<![CDATA[", "]]>", "<?xml ", "\0", "text ", "<a href=", "'", '"', ">", "<img src=x alt=y>", "<figure>", "\ud800"]


@contextmanager
def memory_stays_below(more: int) -> Iterator[None]:
    """Fail if this process's resident size rises by more than `more` bytes at any moment."""

    def status(name: str) -> int:
        return 1024 * int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)).split()[1])

    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    except OSError:
        pytest.skip("this kernel does not let the peak be measured anew")
    before = status("VmRSS")
    yield
    assert status("VmHWM") - before < more


def prepared(folder: Path, members: list[bytes]) -> tuple[int, list[dict[str, str]]]:
    """(Documents kept, quarantine) of a crawl of these records."""
    path = folder / "x.warc.gz"
    path.write_bytes(b"".join(members))
    source = {"kind": "warc", "name": "web", "paths": [str(path)], "max_record_bytes": LIMIT}
    plan = Plan.model_validate({"sources": [source], "repetition": {"enabled": False}, "tokenizer": {"vocab_size": 400}})
    summary = Preparation(plan, folder / "out", workers=1, quiet=True).run()
    return summary.funnel[-1].documents, [json.loads(line) for line in (folder / "out/quarantine.jsonl").read_text().splitlines()]


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, compresslevel=1)


def deflated(data: bytes) -> bytes:
    return zlib.compress(data, level=1)


@pytest.mark.parametrize(("encoding", "encode"), [("gzip", gzipped), ("deflate", deflated)])
def test_a_compressed_page_that_inflates_beyond_the_limit_is_set_aside(tmp_path: Path, encoding: str, encode) -> None:
    good = [response(page(prose(number)), uri=f"http://a.test/{number}") for number in range(4)]
    bomb = response(encode(b"<p>" + bytes(HUGE)), headers=f"Content-Type: text/html\r\nContent-Encoding: {encoding}")
    members = [*good[:2], bomb, *good[2:]]
    (tmp_path / "warm").mkdir()
    prepared(tmp_path / "warm", good)  # loads what is loaded once
    with memory_stays_below(100_000_000):
        kept, quarantine = prepared(tmp_path, members)
    assert kept == 4
    (row,) = quarantine
    assert row["file"] == str(tmp_path / "x.warc.gz")
    assert str(sum(map(len, members[:2]))) in row["record"]
    assert "larger than" in row["reason"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "warm", "x.warc.gz"]


@pytest.mark.parametrize(
    ("encoding", "body", "reason"),
    [
        ("gzip", b"no gzip at all", "Gzip"),
        ("deflate", b"\x00\x01garbage", "decompression"),
        ("zstd", b"x" * 50, ""),
        ("br", "brotli", "larger than"),
    ],
)
def test_a_content_encoding_that_cannot_be_undone_costs_that_page_and_is_named(tmp_path: Path, encoding: str, body: bytes | str, reason: str) -> None:
    data = body if isinstance(body, bytes) else pytest.importorskip("brotli").compress(bytes(HUGE), quality=1)
    wrong = response(data, headers=f"Content-Type: text/html\r\nContent-Encoding: {encoding}")
    path = tmp_path / "x.warc.gz"
    path.write_bytes(response(page("one"), uri="http://a.test/1") + wrong + response(page("two"), uri="http://a.test/2"))
    source = WarcSource(kind="warc", name="s", paths=[str(path)], max_record_bytes=LIMIT)
    size = path.stat().st_size
    with memory_stays_below(50_000_000):
        found = list(warc.read(source, Span(str(path), path.name, 0, size, size)))
    assert [item.source for item in found if isinstance(item, Record)] == ["http://a.test/1", "http://a.test/2"]
    (bad,) = [item for item in found if isinstance(item, Bad)]
    assert (bad.file, bad.record) == (str(path), str(len(response(page("one"), uri="http://a.test/1"))))
    assert reason in bad.reason


@FUZZ
@given(st.lists(st.sampled_from(PIECES), max_size=80), st.sampled_from(METHODS))
def test_any_html_ends(pieces: list[str], method: str) -> None:
    raw = "".join(pieces).encode("utf-8", "surrogatepass")
    (outcome,) = Extract(ExtractNode.model_validate({"method": method}))([Record("1", "http://a.test/", raw=raw)])
    assert isinstance(outcome, Record | Removed | Bad)
    if isinstance(outcome, Record):
        outcome.text.encode("utf-8")


@FUZZ
@given(st.binary(max_size=400), st.sampled_from([None, "utf-8", "gb18030", "shift_jis", "utf-7", "no-such-charset", "utf-16"]))
def test_any_bytes_end(raw: bytes, charset: str | None) -> None:
    (outcome,) = Extract(ExtractNode())([Record("1", "http://a.test/", raw=b"<p>" + raw, charset=charset)])
    assert isinstance(outcome, Record | Removed | Bad)


@pytest.mark.parametrize("method", METHODS)
def test_deep_nesting_ends(method: str) -> None:
    for depth, tag in ((2000, "div"), (2000, "b"), (1000, "table")):
        raw = f"<{tag}>".encode() * depth + b"<p>the end of the page</p>"
        (outcome,) = Extract(ExtractNode.model_validate({"method": method}))([Record("1", "http://a.test/", raw=raw)])
        assert isinstance(outcome, Record | Removed | Bad)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((48, 40), 60).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


ENCODED = {kind: encoded(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF")}


@settings(max_examples=150, deadline=5000)
@given(st.sampled_from(sorted(ENCODED)).flatmap(lambda kind: damaged(ENCODED[kind])))
def test_damaged_images_have_a_reason_or_decode(data: bytes) -> None:
    reason = Images(ImageNode()).reason(data)
    assert reason is None or reason.startswith("image")


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + b"".join(chunks) + chunk(b"IEND", b"")


def test_image_bombs_stay_small() -> None:
    zeros = zlib.compress(bytes(HUGE))
    bombs = {
        "many pixels": png(40_000, 40_000, chunk(b"IDAT", zeros)),
        "much data for few pixels": png(40, 40, chunk(b"IDAT", zeros)),
        "a compressed comment": png(40, 40, chunk(b"zTXt", b"Comment\0\0" + zeros), chunk(b"IDAT", zlib.compress(bytes(40 * 121)))),
        "a compressed profile": png(40, 40, chunk(b"iCCP", b"icc\0\0" + zeros), chunk(b"IDAT", zlib.compress(bytes(40 * 121)))),
    }
    stage = Images(ImageNode())
    stage.reason(ENCODED["PNG"])
    for name, data in bombs.items():
        with memory_stays_below(80_000_000):
            reason = stage.reason(data)
        assert reason is None or reason.startswith("image"), name
    assert stage.reason(bombs["many pixels"]) == "image too large"
