"""Entity linking: speed and memory with a million names, and quality on gold texts against baselines and spaCy's entity ruler.

    python -m benchmarks.linking --data DIR [--quick]

Speed is measured with FB15k-237's names and made-up ones like them (benchmarks/linking_names.py), in CPU-seconds of one thread.

Quality: DIR holds *.jsonl or *.jsonl.gz gold files in the ELEVANT format; their mentions are restricted to the entities of FB15k-237
(examples/data/fb15k237). Texts whose CRC-32 is even are for development: the linker is calibrated on them. Figures are of the other texts,
and of all texts of sets named by --held-out, which are not used for development at all. `default_f1` is without calibration: with the
weights that the linker is built with, which were learned from the development texts of oke-2015-train, oke-2016-train, rss-500,
news-fair-v2-no-coref and wiki-fair-v2-no-coref.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.linking_baselines import baseline_f1, confusion, spacy_f1, total_confusion
from benchmarks.linking_names import grown_store
from rwtrain.knowledge.calibration import calibrate
from rwtrain.knowledge.gold import Document, evaluate_documents, read_gold, rows_of
from rwtrain.knowledge.import_tsv import import_tsv
from rwtrain.knowledge.linker import build_linker
from rwtrain.knowledge.store import EntityStore
from rwtrain.knowledge.training import train_transe
from rwtrain.knowledge.transe import TransEConfig
from rwtrain.model.linking_refinedweb import EntityLinker

GRAPH = Path(__file__).parent.parent / "examples" / "data" / "fb15k237"
COLUMNS = {
    "mentions": "mentions",
    "spotting_recall": "spotted",
    "candidate_recall": "candidate",
    "disambiguation_accuracy": "disamb",
    "prior_accuracy": "prior",
    "random_accuracy": "random",
    "accuracy": "of all",
    "f1": "F1",
    "default_f1": "default",
    "left_context_f1": "left",
    "prior_f1": "F1 prior",
    "random_f1": "F1 random",
    "spacy_f1": "F1 spaCy",
}


def best_mb_s(work: Any, text_bytes: int, *, repeats: int) -> float:
    """Megabytes of UTF-8 a CPU-second, the best of several rounds."""
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return text_bytes / 1e6 / min(seconds)


def speed(store: EntityStore, scratch: Path, texts: list[str], *, names: int, repeats: int) -> dict[str, Any]:
    """Spotting and whole linking with the real names and with many more."""
    size = sum(len(text.encode()) for text in texts)
    started = time.process_time()
    description = build_linker(grown_store(store, scratch / "grown", names=names), scratch / "grown-linker")
    seconds = time.process_time() - started
    grown, real = (EntityLinker.open(folder, compiled=True) for folder in (scratch / "grown-linker", scratch / "linker"))
    real.link_batch(texts), real.link_batch(texts, left_context=True), grown.link_batch(texts[:9])  # compile before the clock runs
    chunks = [texts[first : first + 100] for first in range(0, len(texts), 100)]
    run = grown.run(texts[:9])

    def spot() -> None:
        for chunk in chunks:
            run.read_words(chunk)
            run.find_names()

    work = {
        "spotting_mb_s": spot,
        "linking_mb_s": lambda: grown.link_batch(texts),
        "linking_real_names_mb_s": lambda: real.link_batch(texts),
        "linking_left_context_mb_s": lambda: real.link_batch(texts, left_context=True),
    }
    figures: dict[str, Any] = {name: round(best_mb_s(function, size, repeats=repeats), 2) for name, function in work.items()}
    return {
        "forms": description["forms"],
        "ram_mb": round(description["table_bytes"] / 1e6, 1),
        "bytes_per_form": round(description["table_bytes"] / description["forms"], 1),
        "build_s_per_million": round(seconds * 1e6 / names, 1),
        **figures,
        "linking_one_by_one_mb_s": round(best_mb_s(lambda: [real.link(text) for text in texts], size, repeats=1), 2),
    }


def is_development(document: Document) -> bool:
    """Whether a text is for development."""
    return zlib.crc32(document[0].encode("utf-8", "surrogatepass")) % 2 == 0


def quality(store: EntityStore, folder: Path, files: list[Path], held_out: list[str], scratch: Path) -> dict[str, Any]:
    """Figures of each gold set, of texts that nothing was learned from."""
    linker = EntityLinker.open(folder, compiled=True)
    sets = {path.name.split(".")[0]: list(read_gold(path)) for path in files}
    seen_names = [name for name in sets if name not in held_out]
    development = [document for name in seen_names for document in sets[name] if is_development(document)]
    test = {name: [document for document in documents if name in held_out or not is_development(document)] for name, documents in sets.items()}
    default = {name: evaluate_documents(linker, store, documents)["f1"] for name, documents in test.items()}
    calibrate(linker, store, development, weights=True)
    rows = {}
    for name, documents in test.items():
        gold = [(text, span, rows_of(store, labels)) for text, span, labels in documents]
        rows[name] = {
            **evaluate_documents(linker, store, documents),
            "default_f1": default[name],
            "left_context_f1": evaluate_documents(linker, store, documents, left_context=True)["f1"],
            **baseline_f1(linker, gold),
            "spacy_f1": spacy_f1(linker, gold, scratch),
            "confusion": confusion(linker, gold),
        }
    return rows


def main() -> None:
    """Run, print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of gold files (*.jsonl, *.jsonl.gz)")
    parser.add_argument("--held-out", nargs="*", default=["msnbc-updated"], metavar="SET", help="sets not used for development (default msnbc-updated)")
    parser.add_argument("--quick", action="store_true", help="200,000 names and a shorter TransE training")
    options = parser.parse_args()
    files = sorted([*options.data.glob("*.jsonl"), *options.data.glob("*.jsonl.gz")])
    if not files:
        parser.error(f"{options.data} holds no *.jsonl or *.jsonl.gz")
    with tempfile.TemporaryDirectory(prefix="rwtrain-linking-") as name:
        scratch = Path(name)
        import_tsv(GRAPH, scratch / "store")
        store = EntityStore.open(scratch / "store")
        train_transe(store, TransEConfig(dimension=64 if options.quick else 128, epochs=3 if options.quick else 10, evaluate_every=0, matmul="bfloat16"))
        build_linker(store, scratch / "linker")
        sets = quality(store, scratch / "linker", files, options.held_out, scratch)
        texts = [text for path in files for text, _, _ in read_gold(path)]
        figures = speed(store, scratch, texts, names=200_000 if options.quick else 1_000_000, repeats=3 if options.quick else 7)
    print(f"{'set':24}" + "".join(f"{title:>11}" for title in COLUMNS.values()))
    for set_name, row in sets.items():
        print(f"{set_name:24}" + "".join(f"{row[column]:11.3f}" if isinstance(row[column], float) else f"{row[column]:11d}" for column in COLUMNS))
    mean = {f"mean_{column}": float(np.mean([row[column] for row in sets.values()])) for column in COLUMNS if column != "mentions"}
    print(f"{'mean':35}" + "".join(f"{value:11.3f}" for value in mean.values()))
    print("gold mentions by what becomes of them: " + ", ".join(f"{kind} {count}" for kind, count in total_confusion(sets).items()))
    print("\n".join(f"{key:28} {value}" for key, value in figures.items()))
    result = {"benchmark": "linking", "quick": options.quick, **figures, "disambiguation_accuracy": mean["mean_disambiguation_accuracy"], **mean}
    print(json.dumps(result | {"confusion": total_confusion(sets), "sets": sets}))


if __name__ == "__main__":
    main()
