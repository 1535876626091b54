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
from data_prep.words import Words, split_words

TEXTS, QUICK_TEXTS = 1000, 250
COPIES = 4
SIMILAR = 0.8
BANDS, ROWS, NGRAM = 14, 8, 5
REPEATS = (1, 4, 16)
SEEDS = (1, 2, 3, 4, 5)
STUDENT = 2.776
DOCUMENTS_OF_TEXTS = 4000
BASE_DOCUMENTS, QUICK_BASE_DOCUMENTS = 400_000, 100_000


def main() -> None:
    options = arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "texts.jsonl"
        texts = with_edited_copies(english_texts(crawl(options, Path(name)), file, limit=QUICK_TEXTS if options.quick else TEXTS))
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        peer = run_peer("datatrove", "datatrove_run.py", "minhash", file)
    words = [split_words(text) for text in texts]
    sign(texts[0])
    begin = time.process_time()
    for text in texts:
        sign(text)
    seconds = time.process_time() - begin
    similar = truly_similar(words)
    ours = [pairs_of(np.stack([sign(text, seed) for text in texts])) for seed in SEEDS]
    theirs = [{(one, other) for one, other in pairs} for pairs in peer["pairs"]]
    figures: dict = {
        "name": "dedup",
        "quick": options.quick,
        "texts": len(texts),
        "similar_pairs": len(similar),
        "signature_ratio": peer["seconds"] / seconds,
        "docs_per_s": len(texts) / seconds,
        "peer_docs_per_s": len(texts) / peer["seconds"],
        "predicted_recall": float(np.mean([1 - (1 - similarity**ROWS) ** BANDS for similarity in similar.values()])),
        **share("recall", [len(similar.keys() & found) / len(similar) for found in ours]),
        **share("peer_recall", [len(similar.keys() & found) / len(similar) for found in theirs]),
        **share("precision", [len(similar.keys() & found) / len(found) for found in ours]),
        **share("peer_precision", [len(similar.keys() & found) / len(found) for found in theirs]),
    }
    figures |= {f"peak_memory_{times}x": peak_of("texts", DOCUMENTS_OF_TEXTS, times) for times in REPEATS}
    base = QUICK_BASE_DOCUMENTS if options.quick else BASE_DOCUMENTS
    figures |= {f"peak_memory_random_{times}x": peak_of("random", base, times) for times in REPEATS}
    figures["random_documents_1x"], figures["text_documents_1x"] = base, DOCUMENTS_OF_TEXTS
    report("MinHash against datatrove's", [(key, f"{value:,}" if isinstance(value, int) else f"{value}") for key, value in figures.items()], figures)


def sign(text: str, seed: int = SEEDS[0]) -> np.ndarray:
    return band_hashes(split_words(text), ngram=NGRAM, bands=BANDS, rows=ROWS, seed=seed)


def share(name: str, values: list[float]) -> dict[str, float]:
    """Mean over the seeds, and half the width of its 95% confidence interval (Student's t with 4 degrees of freedom)."""
    return {name: float(np.mean(values)), f"{name}_ci95": float(STUDENT * np.std(values, ddof=1) / np.sqrt(len(values)))}


def peak_of(kind: str, documents: int, times: int) -> int:
    """Peak memory of deduplicating a corpus repeated `times` times with changes, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.dedup_memory", kind, str(documents), str(times)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["peak_bytes"]


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


def truly_similar(words: list[Words]) -> dict[tuple[int, int], float]:
    """Pairs whose word 5-grams have a Jaccard similarity of at least 0.8, and that similarity, by brute force over all pairs that share an n-gram."""
    shingles = []
    for text in words:
        folded = text.folded[text.folded != 0].tolist()
        shingles.append({tuple(folded[index : index + NGRAM]) for index in range(max(1, len(folded) - NGRAM + 1))})
    owners: dict = {}
    for number, grams in enumerate(shingles):
        for gram in grams:
            owners.setdefault(gram, []).append(number)
    candidates = {pair for members in owners.values() if 1 < len(members) <= 200 for pair in itertools.combinations(members, 2)}
    similarities = {(one, other): len(shingles[one] & shingles[other]) / len(shingles[one] | shingles[other]) for one, other in sorted(candidates)}
    return {pair: similarity for pair, similarity in similarities.items() if similarity >= SIMILAR}


def pairs_of(signatures: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of texts that agree in a band."""
    buckets: dict = {}
    for (number, band), value in np.ndenumerate(signatures):
        buckets.setdefault((band, value), []).append(number)
    return {pair for members in buckets.values() for pair in itertools.combinations(members, 2)}


if __name__ == "__main__":
    main()
