"""PyKEEN's TransE on a folder of triple arrays: training speed, quality over time and evaluation speed, in CPU-seconds on one thread.

    pykeen_run.py FOLDER DIMENSION CPU_SECONDS NEGATIVES TEST_TRIPLES

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


def main() -> None:
    folder, dimension, budget, negatives, tested = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    counts = json.loads((folder / "counts.json").read_text())
    splits = {name: torch.from_numpy(np.load(folder / f"{name}.npy").astype(np.int64)) for name in ("train", "valid", "test")}
    factory = CoreTriplesFactory(splits["train"], num_entities=counts["entities"], num_relations=counts["relations"])
    loss = NSSALoss(margin=9.0, adversarial_temperature=1.0, reduction="mean")
    model = TransE(triples_factory=factory, embedding_dim=dimension, scoring_fct_norm=2, entity_constrainer=None, loss=loss, random_seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    loop = SLCWATrainingLoop(model=model, triples_factory=factory, optimizer=optimizer, negative_sampler_kwargs={"num_negs_per_pos": negatives})
    seconds, epochs = 0.0, 0
    while seconds < budget:
        started = time.process_time()
        loop.train(factory, num_epochs=epochs + 1, batch_size=1024, use_tqdm=False, continue_training=epochs > 0)
        seconds, epochs = seconds + time.process_time() - started, epochs + 1
    figures, eval_seconds = evaluate(model, splits["test"][:tested], [splits["train"], splits["valid"]])
    speed = {"triples_per_s": epochs * len(splits["train"]) / seconds, "evaluated_per_s": min(tested, len(splits["test"])) / eval_seconds}
    print(json.dumps({**figures, **speed, "epochs": epochs, "seconds": seconds}))


if __name__ == "__main__":
    main()
