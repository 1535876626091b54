"""MinHash against datatrove's: seconds per signature, recall and precision against brute force, memory as the corpus grows."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.peer_env import ROOT, run_peer
from benchmarks.prep_inputs import arguments, crawl, english_texts, report
from data_prep.dedup.minhash import band_hashes
from data_prep.words import split_words

TEXTS, QUICK_TEXTS = 1000, 250
COPIES = 4
SIMILAR = 0.8
BANDS, ROWS, NGRAM = 14, 8, 5
REPEATS = (1, 4, 16)
BASE_DOCUMENTS, QUICK_BASE_DOCUMENTS = 400_000, 100_000


def main() -> None:
    options = arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "texts.jsonl"
        texts = with_edited_copies(english_texts(crawl(options, Path(name)), file, limit=QUICK_TEXTS if options.quick else TEXTS))
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        peer = run_peer("datatrove", "datatrove_run.py", "minhash", file)
    sign(texts[0])
    begin = time.process_time()
    signatures = np.stack([sign(text) for text in texts])
    seconds = time.process_time() - begin
    similar = truly_similar(texts)
    ours, theirs = pairs_of(signatures), {tuple(pair) for pair in peer["pairs"]}
    figures: dict = {
        "name": "dedup",
        "quick": options.quick,
        "texts": len(texts),
        "similar_pairs": len(similar),
        "signature_ratio": peer["seconds"] / seconds,
        "docs_per_s": len(texts) / seconds,
        "peer_docs_per_s": len(texts) / peer["seconds"],
        "recall": len(similar & ours) / len(similar),
        "peer_recall": len(similar & theirs) / len(similar),
        "precision": len(similar & ours) / len(ours),
        "peer_precision": len(similar & theirs) / len(theirs),
    }
    for times in REPEATS:
        base = QUICK_BASE_DOCUMENTS if options.quick else BASE_DOCUMENTS
        done = subprocess.run([sys.executable, "-m", "benchmarks.dedup_memory", str(base), str(times)], cwd=ROOT, capture_output=True, text=True, check=True)
        figures[f"peak_memory_{times}x"] = json.loads(done.stdout)["peak_bytes"]
    report("MinHash against datatrove's", [(key, f"{value:,}" if isinstance(value, int) else f"{value}") for key, value in figures.items()], figures)


def sign(text: str) -> np.ndarray:
    return band_hashes(split_words(text), ngram=NGRAM, bands=BANDS, rows=ROWS)


def with_edited_copies(texts: list[str]) -> list[str]:
    """The texts, each followed by copies in which a few words are replaced, so that similarities of all sizes occur."""
    generator = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    everything = []
    for text in texts:
        words = text.split(" ")
        everything.append(text)
        for copy in range(1, COPIES):
            edited = list(words)
            for place in generator.integers(0, len(words), max(1, len(words) * copy // 60)):
                edited[place] = "".join(generator.choice(letters, 8))
            everything.append(" ".join(edited))
    return everything


def truly_similar(texts: list[str]) -> set[tuple[int, int]]:
    """Pairs whose word 5-grams have a Jaccard similarity of at least 0.8, by brute force over all pairs that share an n-gram."""
    shingles = []
    for text in texts:
        words = split_words(text)
        folded = words.folded[words.folded != 0].tolist()
        shingles.append({tuple(folded[index : index + NGRAM]) for index in range(max(1, len(folded) - NGRAM + 1))})
    owners: dict = {}
    for number, grams in enumerate(shingles):
        for gram in grams:
            owners.setdefault(gram, []).append(number)
    candidates = {pair for members in owners.values() if 1 < len(members) <= 200 for pair in itertools.combinations(members, 2)}
    return {(one, other) for one, other in candidates if len(shingles[one] & shingles[other]) >= SIMILAR * len(shingles[one] | shingles[other])}


def pairs_of(signatures: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of texts that agree in a band."""
    buckets: dict = {}
    for (number, band), value in np.ndenumerate(signatures):
        buckets.setdefault((band, value), []).append(number)
    return {pair for members in buckets.values() for pair in itertools.combinations(members, 2)}


if __name__ == "__main__":
    main()
