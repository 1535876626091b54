"""Baselines of recommendation by the library `implicit`: nearest items and matrix factorisation, settings chosen on validation.

    python implicit_run.py TASK.npz OUT.npz

TASK.npz: train_start, train_items (histories of training); for each of valid and test: …_start, …_items (histories), …_target; items (how many).
OUT.npz: for every method the ranks of the test targets among the items that the history does not hold. The last line is JSON: chosen settings.
"""

import json
import sys

import numpy as np
import scipy.sparse as sp
from implicit.als import AlternatingLeastSquares
from implicit.bpr import BayesianPersonalizedRanking
from implicit.nearest_neighbours import BM25Recommender, CosineRecommender, TFIDFRecommender


def matrix(starts, items, count):
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    found = sp.csr_matrix((np.ones(len(items), np.float32), (rows, items)), shape=(len(starts) - 1, count))
    found.data[:] = 1
    return found


def ranks(scores, histories, targets):
    found = np.empty(len(targets))
    for row, item in enumerate(targets):
        values = np.asarray(scores[row], np.float64).ravel().copy()
        target = values[item]
        values[histories[row].indices] = -np.inf
        values[item] = -np.inf
        found[row] = 1 + (values > target).sum() + (values == target).sum() / 2
    return found


def ndcg(found):
    return float(np.where(found <= 10, 1 / np.log2(1 + found), 0).mean())


def neighbours(kind, k):
    def run(train, histories):
        model = kind(K=k, num_threads=1)
        model.fit(train, show_progress=False)
        return (histories @ model.similarity).toarray()

    return run


def als(factors, regularization, alpha):
    def run(train, histories):
        model = AlternatingLeastSquares(factors=factors, regularization=regularization, alpha=alpha, iterations=15, num_threads=1, random_state=0)
        model.fit(train, show_progress=False)
        users = np.stack([np.asarray(model.recalculate_user(row, histories[row])).ravel() for row in range(histories.shape[0])])
        return users @ np.asarray(model.item_factors).T

    return run


def bpr(factors, rate, regularization):
    def run(train, histories):  # factors of the users in training; users come in the same order
        model = BayesianPersonalizedRanking(factors=factors, learning_rate=rate, regularization=regularization, iterations=150, num_threads=1, random_state=0)
        model.fit(train, show_progress=False)
        # a user of the histories is the mean of the item factors, as histories may be of users without training rows
        weights = histories.multiply(1 / np.maximum(histories.sum(1), 1)).tocsr()
        return np.asarray(weights @ model.item_factors) @ np.asarray(model.item_factors).T

    return run


METHODS = {
    "popularity": {"": lambda train, histories: np.tile(np.asarray(train.sum(0)).ravel(), (histories.shape[0], 1))},
    "item-kNN": {f"{kind.__name__} K={k}": neighbours(kind, k) for kind in (CosineRecommender, TFIDFRecommender, BM25Recommender) for k in (20, 100, 500)},
    "matrix factorisation": {
        **{f"ALS {f} {r} {a}": als(f, r, a) for f in (32, 64) for r in (0.01, 1.0) for a in (1.0, 5.0, 20.0)},
        **{f"BPR {f} {r}": bpr(f, 0.02, r) for f in (64,) for r in (0.001, 0.01)},
    },
}


def main(task_file, out_file):
    task = np.load(task_file)
    items = int(task["items"])
    train = matrix(task["train_start"], task["train_items"], items)
    parts = {name: matrix(task[f"{name}_start"], task[f"{name}_items"], items) for name in ("valid", "test")}
    chosen, out = {}, {}
    for method, settings in METHODS.items():
        scored = {name: ndcg(ranks(run(train, parts["valid"]), parts["valid"], task["valid_target"])) for name, run in settings.items()}
        best = max(scored, key=scored.get)
        chosen[method] = {"settings": best, "valid_ndcg@10": scored[best]}
        out[method] = ranks(settings[best](train, parts["test"]), parts["test"], task["test_target"])
    np.savez(out_file, **out)
    print(json.dumps(chosen))


main(*sys.argv[1:3])
