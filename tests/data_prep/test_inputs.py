"""Inputs that are URLs: found by pattern, read in stretches, known by the version that their server names."""

from __future__ import annotations

import gzip
import json
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from data_prep.inputs import find_files, version_of
from data_prep.records import Record
from data_prep.sources import READERS
from rwtrain.errors import DataError, RWTrainError
from tests.data_prep.builders import prose, stretches, write_warc
from tests.data_prep.test_splitting import source_of

TEXTS = [prose(number, 24) for number in range(60)]


def write_texts(path: Path) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


def texts_of(url: str, kind: str = "text") -> list[str]:
    source = source_of(kind, url)
    spans = stretches(source, unit_bytes=4000)
    assert len(spans) > 1
    return [record.text or record.source for span in spans for record in READERS[kind].read(source, span) if isinstance(record, Record)]


class Ranges(SimpleHTTPRequestHandler):
    """A server that gives parts of files, as those of crawls do, and a mark for every version."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.is_dir() or "Range" not in self.headers:
            super().do_GET()
            return
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        data = path.read_bytes()
        part = data[int(first) : int(last or len(data)) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_files_of_a_web_server(server: str, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    write_texts(tmp_path / "rows.jsonl")
    write_warc(tmp_path / "pages.warc.gz", 40)
    assert texts_of(f"{server}/rows.jsonl") == TEXTS
    assert texts_of(f"{server}/pages.warc.gz", "warc") == [f"http://example.test/{number}" for number in range(40)]
    assert find_files([f"{server}/*.jsonl"], source="s") == [(f"{server}/rows.jsonl", "rows.jsonl")]
    before = version_of(f"{server}/rows.jsonl")
    assert before[1] == (tmp_path / "rows.jsonl").stat().st_size
    with open(tmp_path / "rows.jsonl", "a") as stream:
        stream.write("\n")
    assert version_of(f"{server}/rows.jsonl") != before
    with pytest.raises(DataError, match=r"none\.jsonl: no file matches"):
        find_files([f"{server}/none.jsonl"], source="s")


def test_memory_archives_and_file_addresses(tmp_path: Path) -> None:
    rows = write_texts(tmp_path / "rows.jsonl").read_bytes()
    with fsspec.open("memory://bucket/rows.jsonl", "wb") as stream:
        stream.write(rows)
    with fsspec.open("memory://bucket/rows.jsonl.gz", "wb") as stream:
        stream.write(gzip.compress(rows * 1, 1))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("in/rows.jsonl", rows)
    assert texts_of("memory://bucket/rows.jsonl") == TEXTS
    assert texts_of(f"zip://in/*.jsonl::file://{tmp_path}/all.zip") == TEXTS
    assert texts_of(f"file://{tmp_path}/*.jsonl") == TEXTS
    assert find_files([f"file://{tmp_path}/*.jsonl"], source="s") == [(f"{tmp_path}/rows.jsonl", "rows.jsonl")]
    assert version_of("memory://bucket/rows.jsonl") == version_of("memory://bucket/rows.jsonl")
    before = version_of("memory://bucket/rows.jsonl")
    with fsspec.open("memory://bucket/rows.jsonl", "wb") as stream:
        stream.write(rows[:-1] + b" ")  # as long as before
    assert version_of("memory://bucket/rows.jsonl") != before


def test_a_file_system_that_is_not_installed_names_the_extra() -> None:
    with pytest.raises(RWTrainError, match=r"^s3://bucket/x\.gz: s3:// needs another package .*pip install 'rwtrain\[remote\]'$"):
        find_files(["s3://bucket/x.gz"], source="s")
    with pytest.raises(RWTrainError, match=r"nothing://x: .*Correct the address"):
        find_files(["nothing://x"], source="s")


def test_labels_of_local_and_remote_files_are_unique(tmp_path: Path) -> None:
    for place in (tmp_path / "a", tmp_path / "b"):
        place.mkdir()
        (place / "x.jsonl").write_text("{}")
    with fsspec.open("memory://c/x.jsonl", "wb") as stream:
        stream.write(b"{}")
    labels = [label for _, label in find_files([str(tmp_path / "*/x.jsonl"), "memory://c/x.jsonl"], source="s")]
    assert labels == ["a/x.jsonl", "b/x.jsonl", "x.jsonl"]
