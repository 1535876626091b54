"""Recommendation on MovieLens-small: with and without knowledge, beside popularity, item-kNN and matrix factorisation (library `implicit`).

    python -m benchmarks.apps.recommend --data DIR [--quick]

Needs the model of `python -m benchmarks.apps.model`. The whole catalogue is ranked, without the films of the history. Settings of the baselines and
the epoch of ours are chosen on validation. Finished runs are kept under runs/apps/recommend, in folders named by a hash of the split and the model.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from benchmarks.apps.model import MODEL, OUT
from benchmarks.apps.movielens import Task, cold_items, leave_last_out, load, temporal
from benchmarks.peer_env import run_peer
from rwtrain.apps.model import AppModel
from rwtrain.apps.recommend.catalogue import Item
from rwtrain.apps.recommend.neighbours import Neighbours
from rwtrain.apps.recommend.network import HistoryReader
from rwtrain.apps.recommend.recommender import save
from rwtrain.apps.recommend.training import FineTuning, choose_weight, fine_tune, hit_rate_at, make_reader, ndcg_at, ranks, score
from rwtrain.files import content_hash, write_json
from rwtrain.knowledge.store import EntityStore

FOLDER = OUT / "recommend"
VARIANTS = ("with knowledge", "without knowledge", "shuffled knowledge")
"""Shuffled: the entities are dealt out anew among the films that have one, so that the vectors say nothing true."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with movielens-small")
    parser.add_argument("--model", type=Path, default=MODEL, help="exported folder (default: that of benchmarks.apps.model)")
    parser.add_argument("--store", type=Path, default=OUT / "kg", help="entity store of its linker")
    parser.add_argument("--quick", action="store_true", help="one seed, 3 epochs, leave-last-out only")
    parser.add_argument("--epochs", type=int, default=FineTuning.epochs, help=f"passes over the histories (default {FineTuning.epochs})")
    parser.add_argument("--window", type=int, default=FineTuning.window, help=f"items that are read at once (default {FineTuning.window})")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default 3)")
    parser.add_argument("--splits", nargs="+", choices=("leave-last-out", "temporal"), default=["leave-last-out", "temporal"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--ties", type=int, metavar="SEED", help="put films that a user chose in the same second in random order (default: by film number)")
    options = parser.parse_args()
    if options.quick:
        options.epochs, options.seeds, options.splits, options.variants = 3, 1, ["leave-last-out"], ["with knowledge"]
    app, store = AppModel.open(options.model), EntityStore.open(options.store)
    items, histories, times = load(options.data, FOLDER, store, ties=options.ties)
    cold = cold_items(items)
    tasks = {"leave-last-out": leave_last_out(histories, cold), "temporal": temporal(histories, times, cold)}
    tasks = {name: tasks[name] for name in options.splits}
    result: dict = {key: getattr(options, key) for key in ("quick", "epochs", "window", "seeds", "ties")}
    result |= {"films": len(items), "linked": sum(item.entity >= 0 for item in items), "cold_films": int(cold.sum())}
    for name, task in tasks.items():
        arrays = _arrays(task, len(items))
        kept = FOLDER / f"{name}-{_digest(arrays, items, options.model)}"
        kept.mkdir(exist_ok=True)
        methods = {"Markov chain": markov(task, len(items)), "neighbours alone": Neighbours.count(task.train, len(items)).score([h for h, _ in task.test])}
        result[name] = {
            "users": len(task.test),
            **_baselines(arrays, kept),
            **{method: _figures(ranks(scores, task.test)) for method, scores in methods.items()},
            **_ours(app, items, task, cold, kept, options),
        }
        if task.cold:
            result[name]["cold"] = {"questions": len(task.cold), **_cold_baselines(task, cold)}
            for variant in options.variants:
                result[name]["cold"] |= result[name][variant].pop("cold")
        _show(name, result[name])
    print(json.dumps(result))


def _arrays(task: Task, items: int) -> dict[str, np.ndarray]:
    """The split as benchmarks/peers/implicit_run.py reads it."""
    arrays: dict = {"items": np.array(items)}
    for part, histories in (("train", task.train), ("valid", [h for h, _ in task.valid]), ("test", [h for h, _ in task.test])):
        arrays[f"{part}_start"] = np.cumsum([0, *map(len, histories)])
        arrays[f"{part}_items"] = np.concatenate(histories)
    for part, questions in (("valid", task.valid), ("test", task.test)):
        arrays[f"{part}_target"] = np.array([item for _, item in questions])
    return arrays


def _digest(arrays: dict[str, np.ndarray], items: list[Item], model: Path) -> str:
    found = hashlib.sha256((content_hash(model / "model.safetensors") + repr(items)).encode())
    for name in sorted(arrays):
        found.update(name.encode() + arrays[name].astype(np.int64).tobytes())
    return found.hexdigest()[:12]


def _baselines(arrays: dict[str, np.ndarray], kept: Path) -> dict:
    file, out, settings = kept / "task.npz", kept / "baselines.npz", kept / "baselines.json"
    if not settings.exists():
        np.savez(file, **arrays)
        write_json(settings, run_peer("implicit", "implicit_run.py", file.resolve(), out.resolve()))
    chosen, found = json.loads(settings.read_text()), np.load(out)
    return {method: {**_figures(found[method]), "settings": chosen[method]["settings"]} for method in found.files}


def markov(task: Task, items: int) -> np.ndarray:
    """Scores of a first-order Markov chain: how often a film came right after the history's last one, then how often at all, [test, items]."""
    first, second = (np.concatenate([history[part] for history in task.train]) for part in (slice(None, -1), slice(1, None)))
    after = sp.csr_matrix((np.ones(len(first)), (first, second)), shape=(items, items))
    popularity = np.bincount(np.concatenate(task.train), minlength=items)
    return after[[history[-1] for history, _ in task.test]].toarray() + popularity / (popularity.sum() + 1)


def _figures(found: np.ndarray) -> dict[str, float]:
    return {"ndcg@10": ndcg_at(found), "hr@10": hit_rate_at(found)}


def _ours(app: AppModel, items: list[Item], task: Task, cold: np.ndarray, kept: Path, options: argparse.Namespace) -> dict:
    result: dict = {}
    for variant in options.variants:
        runs = []
        for seed in range(options.seeds):
            settings = FineTuning(knowledge=variant != "without knowledge", seed=seed, epochs=options.epochs, window=options.window)
            own = shuffled_entities(items, seed) if variant == "shuffled knowledge" else items
            served = variant == VARIANTS[0] and settings == FineTuning() and task.cold and options.ties is None and options.model == MODEL
            runs.append(_run(app, own, task, cold, kept, f"{variant} {seed} {options.epochs}x{options.window}", settings, FOLDER / "model" if served else None))
        result[variant] = _over_seeds([run["test"] for run in runs]) | {key: [run[key] for run in runs] for key in ("epochs", "weight", "valid ndcg@10")}
        for part in ("network alone", "network alone, film with an entity", "network alone, film without"):
            result[f"{variant}, {part}"] = _over_seeds([run[part] for run in runs])
        if task.cold:
            parts = ("whole catalogue", "whole catalogue, with neighbours", "among cold films")
            result[variant]["cold"] = {f"{variant}, {part}": _over_seeds([run["cold"][part] for run in runs]) for part in parts}
    return result


def shuffled_entities(items: list[Item], seed: int) -> list[Item]:
    """The items, with their entities dealt out anew among those that have one."""
    linked = [number for number, item in enumerate(items) if item.entity >= 0]
    result = list(items)
    for number, other in zip(linked, np.random.default_rng(seed).permutation(linked), strict=True):
        result[number] = replace(items[number], entity=items[other].entity)
    return result


def _run(app: AppModel, items: list[Item], task: Task, cold: np.ndarray, kept: Path, label: str, settings: FineTuning, saved: Path | None) -> dict:
    file = kept / f"{label.replace(' ', '-')}.json"
    if file.exists() and (saved is None or saved.exists()):
        return json.loads(file.read_text())
    reader, began = make_reader(app, items, knowledge=settings.knowledge, seed=settings.seed), time.process_time()
    curve = fine_tune(
        reader, task.train, task.valid, settings, report=lambda epoch, loss, ndcg: print(f"{label}: epoch {epoch} loss {loss:.3f} valid {ndcg:.4f}", flush=True)
    )
    found: dict = {"curve": curve, "epochs": len(curve), "cpu_s": time.process_time() - began, "valid ndcg@10": max(ndcg for _, ndcg in curve)}
    neighbours = Neighbours.count(task.train, len(items))
    found["weight"] = weight = choose_weight(reader, neighbours, task.valid, settings.window)
    asked = [history for history, _ in task.test]
    cosines = score(reader, asked, settings.window)
    alone, linked = ranks(cosines, task.test), np.array([items[item].entity >= 0 for _, item in task.test])
    found["test"] = _figures(ranks(cosines + weight * neighbours.score(asked), task.test))
    found["network alone"] = _figures(alone)
    found |= {f"network alone, film {name}": _figures(alone[chosen]) for name, chosen in (("with an entity", linked), ("without", ~linked))}
    if task.cold:
        found["cold"] = _cold_figures(reader, neighbours, weight, task, cold, settings.window)
    write_json(file, found)
    if saved is not None:
        save(reader, app, items, settings, saved, neighbours=neighbours, weight=weight, figures=found["test"])
    return found


def _cold_figures(reader: HistoryReader, neighbours: Neighbours, weight: float, task: Task, cold: np.ndarray, window: int) -> dict[str, dict[str, float]]:
    asked = [history for history, _ in task.cold]
    cosines = score(reader, asked, window)
    return {
        "whole catalogue": _figures(ranks(cosines, task.cold)),
        "whole catalogue, with neighbours": _figures(ranks(cosines + weight * neighbours.score(asked), task.cold)),
        "among cold films": _figures(ranks(np.where(cold, cosines, -np.inf), task.cold)),
    }


def _over_seeds(figures: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each figure and, of two seeds and more, its standard deviation."""
    result = {}
    for key in figures[0]:
        values = [figure[key] for figure in figures]
        result[key] = float(np.mean(values))
        if len(values) > 1:
            result[f"{key} std"] = float(np.std(values, ddof=1))
    return result


def _cold_baselines(task: Task, cold: np.ndarray) -> dict:
    """Chance: a random order; methods that know choices only cannot rank what nobody has chosen."""
    gain = (1 / np.log2(1 + np.arange(1, 11))).sum()
    result = {}
    for name, places in (
        ("chance, whole catalogue", len(cold) - np.array([len(np.unique(history)) for history, _ in task.cold])),
        ("chance, among cold films", np.full(len(task.cold), cold.sum())),
    ):
        result[name] = {"ndcg@10": float((gain / places).mean()), "hr@10": float((10 / places).mean())}
    return result


def _show(name: str, result: dict) -> None:
    print(f"\n{name}: {result['users']} users")
    for method, row in [*result.items(), *((f"cold films: {method}", row) for method, row in result.get("cold", {}).items())]:
        if isinstance(row, dict) and "ndcg@10" in row:
            spread = f" ± {row['ndcg@10 std']:.4f}" if "ndcg@10 std" in row else ""
            print(f"  {method:52s} NDCG@10 {row['ndcg@10']:.4f}{spread:9s} HR@10 {row['hr@10']:.4f}  {row.get('settings', '')}")


if __name__ == "__main__":
    main()
