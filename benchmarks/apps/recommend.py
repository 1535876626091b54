"""Recommendation on MovieLens-small: with and without knowledge, beside popularity, item-kNN and matrix factorisation (library `implicit`).

    python -m benchmarks.apps.recommend --data DIR [--quick]

Needs the model of `python -m benchmarks.apps.model`. The whole catalogue is ranked, without the films of the history. Settings of the baselines and
the epoch of ours are chosen on validation. Finished runs are kept under runs/apps/recommend.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from benchmarks.apps.model import MODEL, OUT
from benchmarks.apps.movielens import Task, cold_items, leave_last_out, load, temporal
from benchmarks.peer_env import run_peer
from rwtrain.apps.model import AppModel
from rwtrain.apps.recommend.catalogue import Item
from rwtrain.apps.recommend.neighbours import Neighbours
from rwtrain.apps.recommend.recommender import save
from rwtrain.apps.recommend.training import FineTuning, choose_weight, fine_tune, hit_rate_at, make_reader, ndcg_at, ranks, score
from rwtrain.files import write_json
from rwtrain.knowledge.store import EntityStore

FOLDER = OUT / "recommend"


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
    options = parser.parse_args()
    if options.quick:
        options.epochs, options.seeds, options.splits = 3, 1, ["leave-last-out"]
    app, store = AppModel.open(options.model), EntityStore.open(options.store)
    items, histories, times = load(options.data, FOLDER, store)
    cold = cold_items(items)
    tasks = {"leave-last-out": leave_last_out(histories, cold), "temporal": temporal(histories, times, cold)}
    tasks = {name: tasks[name] for name in options.splits}
    result: dict = {key: getattr(options, key) for key in ("quick", "epochs", "window", "seeds")}
    result |= {"films": len(items), "linked": sum(item.entity >= 0 for item in items), "cold_films": int(cold.sum())}
    for name, task in tasks.items():
        result[name] = {
            "users": len(task.test),
            **_baselines(task, len(items), name),
            **_neighbours(task, len(items)),
            **_ours(app, items, task, name, options),
        }
        if task.cold:
            result[name]["cold"] = {"questions": len(task.cold), **_cold_baselines(task, cold)}
            for variant in ("with knowledge", "without knowledge"):
                result[name]["cold"][variant] = result[name][variant].pop("cold")
        _show(name, result[name])
    print(json.dumps(result))


def _baselines(task: Task, items: int, name: str) -> dict:
    arrays: dict = {"items": np.array(items)}
    for part, histories in (("train", task.train), ("valid", [h for h, _ in task.valid]), ("test", [h for h, _ in task.test])):
        arrays[f"{part}_start"] = np.cumsum([0, *map(len, histories)])
        arrays[f"{part}_items"] = np.concatenate(histories)
    for part, questions in (("valid", task.valid), ("test", task.test)):
        arrays[f"{part}_target"] = np.array([item for _, item in questions])
    file, out, settings = FOLDER / f"{name}.npz", FOLDER / f"{name}-baselines.npz", FOLDER / f"{name}-baselines.json"
    np.savez(file, **arrays)
    if not settings.exists():
        write_json(settings, run_peer("implicit", "implicit_run.py", file.resolve(), out.resolve()))
    chosen, found = json.loads(settings.read_text()), np.load(out)
    return {method: {**_figures(found[method]), "settings": chosen[method]["settings"]} for method in found.files}


def _figures(found: np.ndarray) -> dict[str, float]:
    return {"ndcg@10": ndcg_at(found), "hr@10": hit_rate_at(found)}


def _neighbours(task: Task, items: int) -> dict:
    """The recommender's counts without its network."""
    found = ranks(Neighbours.count(task.train, items).score([history for history, _ in task.test]), task.test)
    return {"neighbours alone": _figures(found)}


def _ours(app: AppModel, items: list[Item], task: Task, name: str, options: argparse.Namespace) -> dict:
    result = {}
    for knowledge in (True, False):
        variant = "with knowledge" if knowledge else "without knowledge"
        runs = []
        for seed in range(options.seeds):
            settings = FineTuning(knowledge=knowledge, seed=seed, epochs=options.epochs, window=options.window)
            runs.append(_run(app, items, task, f"{name} {variant} {seed} {options.epochs}x{options.window}", settings))
        result[variant] = _over_seeds([run["test"] for run in runs]) | {key: [run[key] for run in runs] for key in ("epochs", "weight")}
        result[f"{variant}, network alone"] = _over_seeds([run["test network alone"] for run in runs])
        if task.cold:
            result[variant]["cold"] = _over_seeds([run["cold network alone"] for run in runs])
    return result


def _run(app: AppModel, items: list[Item], task: Task, label: str, settings: FineTuning) -> dict:
    file = FOLDER / f"{label.replace(' ', '-')}.json"
    if file.exists():
        return json.loads(file.read_text())
    reader, began = make_reader(app, items, knowledge=settings.knowledge, seed=settings.seed), time.process_time()
    curve = fine_tune(
        reader, task.train, task.valid, settings, report=lambda epoch, loss, ndcg: print(f"{label}: epoch {epoch} loss {loss:.3f} valid {ndcg:.4f}", flush=True)
    )
    found = {"curve": curve, "epochs": len(curve), "cpu_s": time.process_time() - began}
    neighbours = Neighbours.count(task.train, len(items))
    found["weight"] = weight = choose_weight(reader, neighbours, task.valid, settings.window)
    for part, questions in (("test", task.test), ("cold", task.cold)):
        if questions:
            histories = [history for history, _ in questions]
            cosines = score(reader, histories, settings.window)
            found[f"{part} network alone"] = _figures(ranks(cosines, questions))
            found[part] = _figures(ranks(cosines + weight * neighbours.score(histories), questions))
    write_json(file, found)
    if label.startswith("leave-last-out with knowledge 0"):
        save(reader, app, items, settings, FOLDER / "model", neighbours=neighbours, weight=weight, figures=found["test"])
    return found


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
    """Chance: a random order of the catalogue; methods that know choices only cannot rank what nobody has chosen."""
    places = len(cold) - np.array([len(np.unique(history)) for history, _ in task.cold])
    gain = (1 / np.log2(1 + np.arange(1, 11))).sum()
    return {"chance": {"ndcg@10": float((gain / places).mean()), "hr@10": float((10 / places).mean())}}


def _show(name: str, result: dict) -> None:
    print(f"\n{name}: {result['users']} users")
    for method, row in [*result.items(), *((f"cold films: {method}", row) for method, row in result.get("cold", {}).items())]:
        if isinstance(row, dict) and "ndcg@10" in row:
            spread = f" ± {row['ndcg@10 std']:.4f}" if "ndcg@10 std" in row else ""
            print(f"  {method:34s} NDCG@10 {row['ndcg@10']:.4f}{spread:9s} HR@10 {row['hr@10']:.4f}  {row.get('settings', '')}")


if __name__ == "__main__":
    main()
