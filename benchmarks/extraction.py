"""Main text of real articles against trafilatura: the published benchmark's F1 (4-grams of words, macro), and pages per processor second."""

from __future__ import annotations

import gzip
import json
import re
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.peer_env import run_peer
from benchmarks.prep_inputs import arguments, report
from data_prep.extraction import Extract, decode
from data_prep.plan import ExtractNode
from data_prep.records import Record

SHINGLE = 4
WORD = re.compile(r"\w+")


def main() -> None:
    options = arguments(__doc__ or "")
    pages, truths = load(Path(options.data) / "commoncrawl" / "article-extraction-a.tar")
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "pages.jsonl"
        file.write_text("".join(json.dumps({"html": decode(page, None)}) + "\n" for page in pages), encoding="utf-8")
        peer = run_peer("datatrove", "datatrove_run.py", "extraction", file)
    f1, seconds = measure(ExtractNode(), pages, truths)
    peers = {mode: score(result["texts"], truths) for mode, result in peer.items()}
    figures = {
        "name": "extraction",
        "quick": options.quick,
        "pages": len(pages),
        "docs_per_s": len(pages) / seconds,
        "peer_docs_per_s": len(pages) / peer["precision"]["seconds"],
        "speed_ratio": peer["precision"]["seconds"] / seconds,
        "speed_ratio_to_default_mode": peer["default"]["seconds"] / seconds,
        "speed_ratio_to_fast_mode": peer["fast"]["seconds"] / seconds,
        "f1": f1,
        "peer_f1": peers["precision"],
        "peer_f1_default": peers["default"],
        "peer_f1_fast_mode": peers["fast"],
        "f1_minus_trafilatura": f1 - max(peers.values()),
    }
    report("extraction against trafilatura", [(key, str(value)) for key, value in figures.items()], figures)


def measure(config: ExtractNode, pages: list[bytes], truths: list[str]) -> tuple[float, float]:
    """F1 and processor seconds of one method."""
    extract = Extract(config)
    extract([Record("0", "", raw=pages[0])])
    records = [Record("0", "", raw=page) for page in pages]
    begin = time.process_time()
    found = extract(records)
    seconds = time.process_time() - begin
    return score([item.text if isinstance(item, Record) else "" for item in found], truths), seconds


def load(path: Path) -> tuple[list[bytes], list[str]]:
    """HTML pages and the main texts that people marked in them."""
    with tarfile.open(path) as tar:
        members = {Path(member.name).name: tar.extractfile(member) for member in tar if member.isfile()}
        truth = json.loads(members["ground-truth.json"].read())  # type: ignore[union-attr]
        keys = [key for key in truth if f"{key}.html.gz" in members]
        return [gzip.decompress(members[f"{key}.html.gz"].read()) for key in keys], [truth[key]["articleBody"] for key in keys]  # type: ignore[union-attr]


def shingles(text: str) -> Counter:
    words = WORD.findall(text)
    return Counter(tuple(words[index : index + SHINGLE]) for index in range(max(len(words) - SHINGLE + 1, int(bool(words)))))


def score(texts: list[str], truths: list[str]) -> float:
    """F1 of the mean precision and the mean recall over pages."""
    precisions, recalls = [], []
    for text, truth in zip(texts, truths, strict=True):
        found, wanted = shingles(text), shingles(truth)
        right = (found & wanted).total()
        precisions.append(right / found.total() if found else float(not wanted))
        recalls.append(right / wanted.total() if wanted else 1.0)
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return 2 * precision * recall / (precision + recall)


if __name__ == "__main__":
    main()
