"""TransE on FB15k-237 against PyKEEN: quality, training speed and evaluation speed, in CPU-seconds on one thread.

    python -m benchmarks.transe [--quick] [--seconds CPU_SECONDS]

Speed: positive triples a CPU-second of the same model, dimension, loss and number of negatives a triple (256; ours shares them within a
batch, PyKEEN draws them for each triple). Quality: both train for as many CPU-seconds (validation not counted), PyKEEN with 16 negatives
so that it passes over the data several times; then `time_to_peer_best_ratio` compares when PyKEEN reached its best validation MRR and
when ours first reached the same. Settings of ours were chosen on the validation triples, PyKEEN's were not tuned. Where other jobs load
the machine, CPU-seconds of both sides grow alike, about.
"""

from __future__ import annotations

import argparse
import json
import os
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
from rwtrain.knowledge.training import Trainer
from rwtrain.knowledge.transe import TransEConfig

GRAPH = Path(__file__).parent.parent / "examples" / "data" / "fb15k237"
SPEED_NEGATIVES = 256
PEER_NEGATIVES = 16
VALID_TRIPLES = 500


class Timed(Trainer):
    """Training that notes the CPU-seconds of training alone beside each validation."""

    def run(self) -> dict[str, Any]:
        self.begun, self.validating = time.process_time(), 0.0
        return super().run()

    def _validate(self) -> dict[str, float]:
        before = time.process_time()
        figures = super()._validate()
        after = time.process_time()
        self.validating += after - before
        return figures | {"cpu_seconds": before - self.begun - (self.validating - (after - before))}


def training_speed(store: EntityStore, *, dimension: int, steps: int) -> float:
    """Positive triples a CPU-second, with as many negatives as PyKEEN is timed with."""
    config = TransEConfig(dimension=dimension, negatives=SPEED_NEGATIVES, epochs=steps, evaluate_every=0)
    trainer = Trainer(store, config, progress=False)
    for _ in range(3):
        trainer._step()
    started = time.process_time()
    for _ in range(steps):
        trainer._step()
    return steps * config.batch_size / (time.process_time() - started)


def ours(store: EntityStore, *, dimension: int, seconds: float, speed_steps: int) -> dict[str, Any]:
    """Time training, train for about `seconds` CPU-seconds, evaluate on all test triples and time that."""
    torch.set_num_threads(1)
    speed = training_speed(store, dimension=dimension, steps=speed_steps)
    epochs = max(3, round(seconds * speed / len(store.triples("train"))))
    config = TransEConfig(dimension=dimension, negatives=SPEED_NEGATIVES, epochs=epochs, evaluate_every=1, valid_triples=VALID_TRIPLES)
    details = Timed(store, config, progress=False).run()
    known, triples = known_answers(store), store.triples("test")
    started = time.process_time()
    figures = evaluate_vectors(triples, entity_vectors=store.vectors, relation_vectors=store.relation_vectors, known=known, norm=2)
    eval_seconds = time.process_time() - started
    curve = [(entry["cpu_seconds"], entry["mrr"]) for entry in details["history"]]
    return (
        {name: figures[name] for name in ("mrr", "hits1", "hits3", "hits10", "chance_mrr")}
        | {"triples_per_s": speed, "evaluated_per_s": len(triples) / eval_seconds}
        | {"epochs": epochs, "steps": details["steps"], "seconds": curve[-1][0], "curve": curve}
    )


def theirs(store: EntityStore, scratch: Path, *, dimension: int, seconds: float, timed: int, tested: int) -> dict[str, Any]:
    """PyKEEN on the same arrays for as many CPU-seconds, at least one epoch."""
    for split in SPLITS:
        np.save(scratch / f"{split}.npy", store.triples(split))
    (scratch / "counts.json").write_text(json.dumps({"entities": len(store), "relations": store.relation_count}))
    return run_peer("pykeen", "pykeen_run.py", scratch, *map(str, (dimension, seconds, PEER_NEGATIVES, SPEED_NEGATIVES, timed, VALID_TRIPLES, tested)))


def time_to_best(mine: dict[str, Any], peer: dict[str, Any]) -> dict[str, float | None]:
    """When the peer reached its best validation MRR and when ours first reached the same."""
    peer_seconds, best = max(peer["curve"], key=lambda point: point[1])
    seconds = next((seconds for seconds, mrr in mine["curve"] if mrr >= best), None)
    return {"peer_best_valid_mrr": best, "peer_seconds": peer_seconds, "seconds": seconds, "ratio": peer_seconds / seconds if seconds else None}


def main() -> None:
    """Run, print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="dimension 64, 12 CPU-seconds of training each, and a part of the test set for PyKEEN")
    parser.add_argument("--seconds", type=float, help="CPU-seconds of training on each side (default 300, quick 12)")
    options = parser.parse_args()
    dimension, seconds, steps, timed, tested = (64, 12, 50, 8_192, 500) if options.quick else (256, 300, 100, 20_480, 20_466)
    seconds = options.seconds or seconds
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="rwtrain-transe-") as name:
        import_tsv(GRAPH, Path(name) / "store")
        store = EntityStore.open(Path(name) / "store")
        mine = ours(store, dimension=dimension, seconds=seconds, speed_steps=steps)
        peer = theirs(store, Path(name), dimension=dimension, seconds=mine["seconds"], timed=timed, tested=tested)
    print(f"{'':22}{'rwtrain':>12}{'PyKEEN':>12}")
    for key in ("mrr", "hits10", "triples_per_s", "evaluated_per_s", "epochs", "seconds"):
        print(f"{key:22}{mine[key]:12.4g}{peer[key]:12.4g}")
    reached = time_to_best(mine, peer)
    print(f"CPU-seconds to PyKEEN's best validation MRR ({reached['peer_best_valid_mrr']:.3f}): {reached['seconds']} against {reached['peer_seconds']:.4g}")
    result = {
        "benchmark": "transe",
        "quick": options.quick,
        "dimension": dimension,
        "fb15k237": {key: mine[key] for key in ("mrr", "hits1", "hits3", "hits10", "chance_mrr")},
        "triples_per_s": mine["triples_per_s"],
        "epochs": mine["epochs"],
        "seconds": mine["seconds"],
        "peer": {key: value for key, value in peer.items() if key != "curve"},
        "time_to_peer_best": reached,
        "time_to_peer_best_ratio": reached["ratio"],
        "load_at_start": load,
        "peer_negatives": PEER_NEGATIVES,
        "time_ratio_vs_pykeen": mine["triples_per_s"] / peer["triples_per_s"],
        "eval_ratio": mine["evaluated_per_s"] / peer["evaluated_per_s"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
