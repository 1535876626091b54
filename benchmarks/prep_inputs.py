"""Inputs that the preparation benchmarks share."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from data_prep.extraction import Extract
from data_prep.language import identify
from data_prep.plan import ExtractNode
from data_prep.records import Record
from data_prep.source_plan import WarcSource
from data_prep.sources import warc
from data_prep.sources.gzip_members import read_member
from data_prep.sources.spans import whole_file
from rwtrain.errors import RWTrainError

DATA_VARIABLE = "RWTRAIN_BENCH_DATA"
QUICK_PAGES = 500


def arguments(description: str) -> argparse.Namespace:
    """The arguments that every preparation benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a part of the data, under 5 minutes on two cores")
    parser.add_argument(
        "--data", default=os.environ.get(DATA_VARIABLE), help=f"folder with web-docs/web-docs-a.warc.gz and commoncrawl/ (default: ${DATA_VARIABLE})"
    )
    options = parser.parse_args()
    if options.data is None or not Path(options.data).is_dir():
        raise SystemExit(f"error: name the folder of benchmark data with --data or ${DATA_VARIABLE}")
    return options


def crawl(options: argparse.Namespace, folder: Path) -> Path:
    """The crawl to prepare: all of it, or with --quick every n-th page in a file of its own."""
    whole = Path(options.data) / "web-docs" / "web-docs-a.warc.gz"
    if not options.quick:
        return whole
    source = WarcSource(kind="warc", name="web", paths=[str(whole)])
    offsets = [
        int(record.doc_id.rpartition(":")[2])
        for span in [whole_file(str(whole), whole.name)]
        for record in warc.read(source, span)
        if isinstance(record, Record)
    ]
    part = folder / "part.warc.gz"
    with open(whole, "rb") as stream, open(part, "wb") as output:
        for offset in offsets[:: len(offsets) // QUICK_PAGES]:
            _, end = read_member(stream, offset, max_bytes=1 << 30)
            stream.seek(offset)
            output.write(stream.read(end - offset))
    return part


def english_texts(path: Path, output: Path, *, limit: int) -> list[str]:
    """Extracted English texts of a crawl; also written to `output` as JSON lines, for peers."""
    source = WarcSource(kind="warc", name="web", paths=[str(path)])
    extract = Extract(ExtractNode())
    pages = (record for record in warc.read(source, whole_file(str(path), path.name)) if isinstance(record, Record))
    found = (item for page in pages for item in extract([page]) if isinstance(item, Record))
    texts = [item.text for item in found if identify(item.text[:1000])[0] == "en"]
    if not texts:
        raise RWTrainError(f"{path}: no English page. Give another crawl.")
    texts = texts[:: max(1, len(texts) // limit)]
    write_texts(texts, output)
    return texts


def write_texts(texts: list[str], output: Path) -> None:
    """Write texts as JSON lines, for peers."""
    output.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


def report(title: str, rows: list[tuple[str, str]], figures: dict) -> None:
    """Print a table and the JSON object."""
    width = max(len(name) for name, _ in rows)
    print(title)
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")
    print(json.dumps(figures))
