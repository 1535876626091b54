"""PyKEEN's TransE on a folder of triple arrays: training speed, quality over time and evaluation speed, in CPU-seconds on one thread.

    pykeen_run.py FOLDER DIMENSION CPU_SECONDS NEGATIVES SPEED_NEGATIVES SPEED_TRIPLES VALID_TRIPLES TEST_TRIPLES

Quality: CPU_SECONDS of training with NEGATIVES a triple, the first VALID_TRIPLES validation triples ranked after each epoch.
Speed: one pass over SPEED_TRIPLES with SPEED_NEGATIVES a triple.

FOLDER holds counts.json ({"entities", "relations"}) and train.npy, valid.npy, test.npy of (head, relation, tail) rows.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from pykeen.evaluation import RankBasedEvaluator
from pykeen.losses import NSSALoss
from pykeen.models import TransE
from pykeen.training import SLCWATrainingLoop
from pykeen.triples import CoreTriplesFactory


def evaluate(model: TransE, triples: torch.Tensor, known: list[torch.Tensor]) -> tuple[dict[str, float], float]:
    started = time.process_time()
    results = RankBasedEvaluator(filtered=True).evaluate(model, triples, batch_size=256, additional_filter_triples=known, use_tqdm=False)
    seconds = time.process_time() - started
    names = {"mrr": "both.realistic.inverse_harmonic_mean_rank", "hits10": "both.realistic.hits_at_10"}
    return {name: float(results.get_metric(metric)) for name, metric in names.items()}, seconds


def make_loop(triples: torch.Tensor, counts: dict[str, int], *, dimension: int, negatives: int) -> tuple[SLCWATrainingLoop, CoreTriplesFactory]:
    factory = CoreTriplesFactory(triples, num_entities=counts["entities"], num_relations=counts["relations"])
    loss = NSSALoss(margin=5.0, adversarial_temperature=1.0, reduction="mean")
    model = TransE(triples_factory=factory, embedding_dim=dimension, scoring_fct_norm=2, entity_constrainer=None, loss=loss, random_seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    sampler = {"num_negs_per_pos": negatives}
    return SLCWATrainingLoop(model=model, triples_factory=factory, optimizer=optimizer, negative_sampler_kwargs=sampler), factory


def main() -> None:
    folder, numbers = Path(sys.argv[1]), [float(text) for text in sys.argv[2:]]
    dimension, budget, negatives, speed_negatives, speed_triples, validated, tested = numbers
    torch.set_num_threads(1)
    torch.manual_seed(0)
    counts = json.loads((folder / "counts.json").read_text())
    splits = {name: torch.from_numpy(np.load(folder / f"{name}.npy").astype(np.int64)) for name in ("train", "valid", "test")}
    loop, factory = make_loop(splits["train"][: int(speed_triples)], counts, dimension=int(dimension), negatives=int(speed_negatives))
    started = time.process_time()
    loop.train(factory, num_epochs=1, batch_size=1024, use_tqdm=False)
    speed = len(factory.mapped_triples) / (time.process_time() - started)
    loop, factory = make_loop(splits["train"], counts, dimension=int(dimension), negatives=int(negatives))
    known = [splits["train"], splits["valid"], splits["test"]]
    seconds, epochs, curve = 0.0, 0, []
    while seconds < budget:
        started = time.process_time()
        loop.train(factory, num_epochs=epochs + 1, batch_size=1024, use_tqdm=False, continue_training=epochs > 0)
        seconds, epochs = seconds + time.process_time() - started, epochs + 1
        curve.append((seconds, evaluate(loop.model, splits["valid"][: int(validated)], known)[0]["mrr"]))
    test = splits["test"][: int(tested)]
    figures, eval_seconds = evaluate(loop.model, test, known)
    print(json.dumps({**figures, "triples_per_s": speed, "evaluated_per_s": len(test) / eval_seconds, "epochs": epochs, "seconds": seconds, "curve": curve}))


if __name__ == "__main__":
    main()
