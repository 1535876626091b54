"""Entity linking: speed and memory with a million names, and quality on gold texts against baselines.

    python -m benchmarks.linking --data DIR [--quick]

DIR holds *.jsonl or *.jsonl.gz gold files in the ELEVANT format; their mentions are restricted to the entities of FB15k-237
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

from rwtrain.knowledge.calibration import calibrate
from rwtrain.knowledge.gold import Document, evaluate_documents, read_gold
from rwtrain.knowledge.import_tsv import import_tsv
from rwtrain.knowledge.linker import build_linker
from rwtrain.knowledge.store import EntityStore
from rwtrain.knowledge.training import train_transe
from rwtrain.knowledge.transe import TransEConfig
from rwtrain.knowledge.writing import Rejects, entity_batch, write_store
from rwtrain.model.linking_refinedweb import EntityLinker

GRAPH = Path(__file__).parent.parent / "examples" / "data" / "fb15k237"
BATCH = 50_000


def million_names(out: Path, *, forms: int, vocabulary: list[str]) -> EntityStore:
    """A store of `forms` entities whose names are one to three words drawn from a vocabulary."""
    draw = np.random.default_rng(0)

    def batches() -> Any:
        for start in range(0, forms, BATCH):
            rows = []
            for number in range(start, min(forms, start + BATCH)):
                words = [vocabulary[place] for place in draw.integers(0, len(vocabulary), draw.integers(1, 4))]
                rows.append(
                    {
                        "id": f"E{number}",
                        "wikidata_id": "",
                        "label": " ".join(words).title() + f" {number % 9973}" * (number % 3 > 0),
                        "description": "",
                        "aliases": [],
                    }
                )
            yield entity_batch(rows)

    write_store(out, entities=batches(), relations=[], triples={}, rejects=Rejects(), provenance={"synthetic": True})
    return EntityStore.open(out)


def best_mb_s(work: Any, text_bytes: int, *, repeats: int) -> float:
    """Megabytes of UTF-8 a CPU-second, the best of several rounds."""
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return text_bytes / 1e6 / min(seconds)


def speed(scratch: Path, linker: EntityLinker, texts: list[str], *, forms: int, repeats: int) -> dict[str, Any]:
    """Spotting in a table of `forms` names, and whole linking with the real one."""
    vocabulary = sorted({word for text in texts for word in text.split() if word.isalpha()})
    started = time.process_time()
    description = build_linker(million_names(scratch / "million", forms=forms, vocabulary=vocabulary), scratch / "million-linker")
    seconds = time.process_time() - started
    million = EntityLinker.open(scratch / "million-linker", compiled=True)
    size = sum(len(text.encode()) for text in texts)
    linker.link_batch(texts), linker.link_batch(texts, left_context=True), million.run(texts[:9])  # compile before the clock runs
    run = million.run(texts)

    def spot() -> None:
        run.read_words(texts)
        run.find_names()

    return {
        "forms": description["forms"],
        "build_s_per_million": round(seconds * 1e6 / forms, 1),
        "ram_mb": round(description["table_bytes"] / 1e6, 1),
        "spotting_mb_s": round(best_mb_s(spot, size, repeats=repeats), 1),
        "linking_mb_s": round(best_mb_s(lambda: linker.link_batch(texts), size, repeats=repeats), 2),
        "linking_left_context_mb_s": round(best_mb_s(lambda: linker.link_batch(texts, left_context=True), size, repeats=repeats), 2),
        "linking_one_by_one_mb_s": round(best_mb_s(lambda: [linker.link(text) for text in texts], size, repeats=1), 2),
    }


def is_development(document: Document) -> bool:
    """Whether a text is for development."""
    return zlib.crc32(document[0].encode("utf-8", "surrogatepass")) % 2 == 0


def quality(store: EntityStore, folder: Path, files: list[Path], held_out: list[str]) -> dict[str, Any]:
    """Figures of each gold set, of texts that nothing was learned from."""
    linker = EntityLinker.open(folder, compiled=True)
    sets = {path.name.split(".")[0]: list(read_gold(path)) for path in files}
    seen_names = [name for name in sets if name not in held_out]
    development = [document for name in seen_names for document in sets[name] if is_development(document)]
    test = {name: [document for document in documents if name in held_out or not is_development(document)] for name, documents in sets.items()}
    default = {name: evaluate_documents(linker, store, documents)["f1"] for name, documents in test.items()}
    calibrate(linker, store, development, weights=True)
    return {
        name: evaluate_documents(linker, store, documents)
        | {"default_f1": default[name], "left_context_f1": evaluate_documents(linker, store, documents, left_context=True)["f1"]}
        for name, documents in test.items()
    }


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
        train_transe(store, TransEConfig(dimension=64 if options.quick else 128, epochs=4 if options.quick else 12, evaluate_every=0))
        build_linker(store, scratch / "linker")
        sets = quality(store, scratch / "linker", files, options.held_out)
        texts = [text for path in files for text, _, _ in read_gold(path)]
        figures = speed(scratch, EntityLinker.open(scratch / "linker", compiled=True), texts, forms=200_000 if options.quick else 1_000_000, repeats=3)
    columns = (
        "mentions",
        "spotting_recall",
        "disambiguation_accuracy",
        "prior_accuracy",
        "random_accuracy",
        "accuracy",
        "f1",
        "default_f1",
        "left_context_f1",
    )
    print(f"{'set':24}" + "".join(f"{column.replace('disambiguation_accuracy', 'disamb'):>19}" for column in columns))
    for set_name, row in sets.items():
        print(f"{set_name:24}" + "".join(f"{row[column]:19.3f}" if isinstance(row[column], float) else f"{row[column]:19d}" for column in columns))
    mean = {f"mean_{column}": float(np.mean([row[column] for row in sets.values()])) for column in columns[1:]}
    print("\n".join(f"{key:28} {value}" for key, value in figures.items()))
    result = {"benchmark": "linking", "quick": options.quick, **figures, "disambiguation_accuracy": mean["mean_disambiguation_accuracy"], **mean, "sets": sets}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
