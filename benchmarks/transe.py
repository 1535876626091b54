"""TransE on FB15k-237 against PyKEEN: quality, training speed and evaluation speed, in CPU-seconds on one thread.

    python -m benchmarks.transe [--quick]

Speed: positive triples a CPU-second of the same model, dimension, loss and number of negatives a triple (256; ours shares them within a
batch, PyKEEN draws them for each triple). Quality: PyKEEN is given the same CPU-seconds, with 16 negatives, so that it passes over the
data several times; its settings were not tuned. Settings of ours were chosen on the validation triples.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peer_env import run_peer
from rwtrain.knowledge.evaluate import evaluate_vectors, known_answers
from rwtrain.knowledge.import_tsv import import_tsv
from rwtrain.knowledge.store import SPLITS, EntityStore
from rwtrain.knowledge.training import train_transe
from rwtrain.knowledge.transe import TransEConfig

GRAPH = Path(__file__).parent.parent / "examples" / "data" / "fb15k237"
SETTINGS = {"negatives": 256, "evaluate_every": 0}
PEER_NEGATIVES = 16


def ours(store: EntityStore, *, dimension: int, epochs: int) -> dict[str, Any]:
    """Train, evaluate on all test triples, and time both."""
    torch.set_num_threads(1)
    started = time.process_time()
    details = train_transe(store, TransEConfig(dimension=dimension, epochs=epochs, **SETTINGS), force=True)
    train_seconds = time.process_time() - started
    known, triples = known_answers(store), store.triples("test")
    started = time.process_time()
    figures = evaluate_vectors(triples, entity_vectors=store.vectors, relation_vectors=store.relation_vectors, known=known, norm=2)
    eval_seconds = time.process_time() - started
    positives = epochs * len(store.triples("train"))
    speeds = {"triples_per_s": positives / train_seconds, "evaluated_per_s": len(triples) / eval_seconds}
    return (
        {name: figures[name] for name in ("mrr", "hits1", "hits3", "hits10", "chance_mrr")}
        | speeds
        | {"epochs": epochs, "steps": details["steps"], "seconds": train_seconds}
    )


def theirs(store: EntityStore, scratch: Path, *, dimension: int, seconds: float, timed: int, tested: int) -> dict[str, Any]:
    """PyKEEN on the same arrays for as many CPU-seconds, at least one epoch."""
    for split in SPLITS:
        np.save(scratch / f"{split}.npy", store.triples(split))
    (scratch / "counts.json").write_text(json.dumps({"entities": len(store), "relations": store.relation_count}))
    return run_peer("pykeen", "pykeen_run.py", scratch, *map(str, (dimension, seconds, PEER_NEGATIVES, SETTINGS["negatives"], timed, tested)))


def main() -> None:
    """Run, print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 epochs of dimension 64, and a part of the test set for PyKEEN")
    options = parser.parse_args()
    dimension, epochs, timed, tested = (64, 3, 8_192, 500) if options.quick else (256, 40, 40_960, 20_466)
    with tempfile.TemporaryDirectory(prefix="rwtrain-transe-") as name:
        import_tsv(GRAPH, Path(name) / "store")
        store = EntityStore.open(Path(name) / "store")
        mine = ours(store, dimension=dimension, epochs=epochs)
        peer = theirs(store, Path(name), dimension=dimension, seconds=mine["seconds"], timed=timed, tested=tested)
    print(f"{'':22}{'rwtrain':>12}{'PyKEEN':>12}")
    for key in ("mrr", "hits10", "triples_per_s", "evaluated_per_s", "epochs", "seconds"):
        print(f"{key:22}{mine[key]:12.4g}{peer[key]:12.4g}")
    result = {
        "benchmark": "transe",
        "quick": options.quick,
        "dimension": dimension,
        "fb15k237": {key: mine[key] for key in ("mrr", "hits1", "hits3", "hits10", "chance_mrr")},
        "triples_per_s": mine["triples_per_s"],
        "peer": peer,
        "peer_negatives": PEER_NEGATIVES,
        "time_ratio_vs_pykeen": mine["triples_per_s"] / peer["triples_per_s"],
        "eval_ratio": mine["evaluated_per_s"] / peer["evaluated_per_s"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
