"""Main text of real articles against trafilatura: the published benchmark's F1 (4-grams of words, macro), and pages per processor second.

Both sides take turns; a ratio is the median over the turns.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peer_env import run_peer
from benchmarks.prep_inputs import arguments, report
from data_prep.extraction import Extract, decode
from data_prep.plan import ExtractNode
from data_prep.records import Record

SHINGLE = 4
WORD = re.compile(r"\w+")
# The two sides take turns, as the speed of a machine changes with its other work; a turn of ours is this many passes, as one is very short.
TURNS, QUICK_TURNS, PASSES = 7, 3, 25
MODES = ("precision", "default", "fast")


def main() -> None:
    options = arguments(__doc__ or "")
    load_before = os.getloadavg()[0]
    pages, truths = load(Path(options.data) / "commoncrawl" / "article-extraction-a.tar")
    seconds: list[float] = []
    peer_seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    texts: list[str] = []
    peer: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "pages.jsonl"
        file.write_text("".join(json.dumps({"html": decode(page, None)}) + "\n" for page in pages), encoding="utf-8")
        for _ in range(QUICK_TURNS if options.quick else TURNS):
            peer = run_peer("datatrove", "datatrove_run.py", "extraction", file)
            for mode in MODES:
                peer_seconds[mode].append(peer[mode]["seconds"])
            texts, own = measure(ExtractNode(), pages)
            seconds.append(own)
    peers = {mode: score(peer[mode]["texts"], truths) for mode in MODES}
    ratios = {mode: [theirs / own for theirs, own in zip(peer_seconds[mode], seconds, strict=True)] for mode in MODES}
    f1 = score(texts, truths)
    figures = {
        "name": "extraction",
        "quick": options.quick,
        "pages": len(pages),
        "turns": len(seconds),
        "docs_per_s": len(pages) / median(seconds),
        "peer_docs_per_s": len(pages) / median(peer_seconds["precision"]),
        "speed_ratio": median(ratios["precision"]),
        "speed_ratio_to_default_mode": median(ratios["default"]),
        "speed_ratio_to_fast_mode": median(ratios["fast"]),
        "speed_ratios_to_default_mode": [round(ratio, 1) for ratio in ratios["default"]],
        "f1": f1,
        "peer_f1": peers["precision"],
        "peer_f1_default": peers["default"],
        "peer_f1_fast_mode": peers["fast"],
        "f1_minus_trafilatura": f1 - max(peers.values()),
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
    }
    report("extraction against trafilatura", [(key, str(value)) for key, value in figures.items()], figures)


def measure(config: ExtractNode, pages: list[bytes]) -> tuple[list[str], float]:
    """Texts of one method, and the median of its processor seconds over some passes."""
    extract = Extract(config)
    records = [Record("0", "", raw=page) for page in pages]
    found = extract(records)
    seconds = []
    for _ in range(PASSES):
        begin = time.process_time()
        found = extract(records)
        seconds.append(time.process_time() - begin)
    return [item.text if isinstance(item, Record) else "" for item in found], median(seconds)


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
