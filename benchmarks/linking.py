"""Entity linking: speed and memory with a million names, and quality on gold texts against baselines.

    python -m benchmarks.linking --data DIR [--quick]

DIR holds *.jsonl or *.jsonl.gz gold files in the ELEVANT format; their mentions are restricted to the entities of FB15k-237
(examples/data/fb15k237). The weights of the linker were set by hand while looking at these sets, so the figures are not blind.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from rwtrain.knowledge.gold import evaluate_linking, read_gold
from rwtrain.knowledge.import_tsv import import_tsv
from rwtrain.knowledge.linker import build_linker
from rwtrain.knowledge.store import EntityStore
from rwtrain.knowledge.training import train_transe
from rwtrain.knowledge.transe import TransEConfig
from rwtrain.knowledge.writing import Rejects, entity_batch, write_store
from rwtrain.model.linking_refinedweb import EntityLinker, spot_names

GRAPH = Path(__file__).parent.parent / "examples" / "data" / "fb15k237"
PRIOR_ONLY = {"coherence": 0.0, "overlap": 0.0, "named": 0.0, "mention_named": 0.0}
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
    table = EntityLinker.open(scratch / "million-linker")._table
    text = "\n\n".join(texts)
    size = len(text.encode())

    def spot() -> None:
        spot_names(text, table, compiled=True)

    spot()
    linker.link(text)  # compile before the clock runs
    return {
        "forms": description["forms"],
        "build_s_per_million": round(seconds * 1e6 / forms, 1),
        "ram_mb": round(description["table_bytes"] / 1e6, 1),
        "spotting_mb_s": round(best_mb_s(spot, size, repeats=repeats), 1),
        "linking_mb_s": round(best_mb_s(lambda: [linker.link(text) for text in texts], size, repeats=repeats), 2),
        "linking_left_context_mb_s": round(best_mb_s(lambda: [linker.link(text, left_context=True) for text in texts], size, repeats=repeats), 2),
    }


def quality(store: EntityStore, folder: Path, files: list[Path]) -> dict[str, Any]:
    """Figures of each gold set: ours, prior only, and a random candidate."""
    ours, prior_only = EntityLinker.open(folder), EntityLinker.open(folder)
    prior_only.settings = ours.settings | PRIOR_ONLY
    sets = {}
    for path in files:
        figures, baseline = evaluate_linking(ours, store, path), evaluate_linking(prior_only, store, path)
        sets[path.name.split(".")[0]] = figures | {
            "left_context_f1": evaluate_linking(ours, store, path, left_context=True)["f1"],
            "prior_only_f1": baseline["f1"],
            "prior_only_disambiguation_accuracy": baseline["disambiguation_accuracy"],
        }
    return sets


def main() -> None:
    """Run, print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of gold files (*.jsonl, *.jsonl.gz)")
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
        sets = quality(store, scratch / "linker", files)
        texts = [text for path in files for text, _, _ in read_gold(path)]
        figures = speed(scratch, EntityLinker.open(scratch / "linker", compiled=True), texts, forms=200_000 if options.quick else 1_000_000, repeats=3)
    columns = (
        "mentions",
        "spotting_recall",
        "disambiguation_accuracy",
        "prior_only_disambiguation_accuracy",
        "random_accuracy",
        "f1",
        "prior_only_f1",
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
