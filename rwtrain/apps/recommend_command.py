"""`rwtrain recommend`: train a recommender, recommend, say why."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rwtrain.apps.model import AppModel
from rwtrain.apps.recommend.catalogue import read_histories, read_items
from rwtrain.apps.recommend.neighbours import Neighbours
from rwtrain.apps.recommend.recommender import Recommendation, Recommender, save
from rwtrain.apps.recommend.training import FineTuning, choose_weight, fine_tune, hit_rate_at, make_reader, ndcg_at, ranks, score
from rwtrain.arguments import positive_int
from rwtrain.errors import DataError
from rwtrain.knowledge.store import EntityStore

EXAMPLES = """examples:
  rwtrain recommend train items.jsonl histories.csv --model export --store runs/kg --out runs/recommender
  rwtrain recommend items "toy story" --model runs/recommender
  rwtrain recommend next 1 3114 --model runs/recommender --store runs/kg
  rwtrain recommend next 1 3114 --model runs/recommender --new

items.jsonl holds objects with `id`, `text` and, if known, `entity` (its id in the store); histories.csv has the columns user, item and time.
Bad records (an id that comes twice, an unknown item, no time) are counted and set aside; the first is shown with file, line and remedy."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rwtrain recommend`."""
    parser.epilog = EXAMPLES
    verbs = parser.add_subparsers(dest="action", required=True)
    train = verbs.add_parser("train", help="fine-tune an exported model on histories; each history's last items validate and test")
    train.add_argument("items", type=Path)
    train.add_argument("histories", type=Path)
    train.add_argument("--out", type=Path, required=True, help="folder to write: the exported model with its recommender")
    defaults = FineTuning()
    train.add_argument("--epochs", type=positive_int, default=defaults.epochs, help=f"passes over the histories (default {defaults.epochs})")
    train.add_argument("--seed", type=int, default=defaults.seed, help=f"seed (default {defaults.seed})")
    train.add_argument("--no-knowledge", action="store_true", help="leave the items' entities out")
    train.set_defaults(run=run_train)
    find = verbs.add_parser("items", help="find items by words of their text")
    find.add_argument("words")
    find.set_defaults(run=run_items)
    following = verbs.add_parser("next", help="recommend what comes after some items")
    following.add_argument("history", nargs="+", help="ids of items, the oldest first")
    following.add_argument("--count", type=positive_int, default=10, help="how many (default 10)")
    following.add_argument("--new", action="store_true", help="only items that nobody had chosen in training")
    following.add_argument("--json", action="store_true", help="print one JSON object")
    following.set_defaults(run=run_next)
    for each in (train, find, following):
        each.add_argument("--model", type=Path, required=True, help="exported folder, for `train`; else the folder that it wrote")
    for each in (train, following):
        each.add_argument("--store", type=Path, help="entity store: meaning of the items' entities, and reasons")


def run_train(options: argparse.Namespace) -> None:
    """Train a recommender."""
    app, store = AppModel.open(options.model), EntityStore.open(options.store) if options.store else None
    bad: list[DataError] = []
    items = read_items(options.items, store=store, bad=bad.append)
    histories = [history for history in read_histories(options.histories, items, bad=bad.append)[1] if len(history) >= 4]
    if bad:
        print(f"{len(bad):,} bad records are set aside. The first: {bad[0]}", file=sys.stderr)
    if not histories:
        raise DataError(options.histories, "no history has four items or more", "Give longer histories")
    settings = FineTuning(epochs=options.epochs, seed=options.seed, knowledge=not options.no_knowledge and any(item.entity >= 0 for item in items))
    reader = make_reader(app, items, knowledge=settings.knowledge, seed=settings.seed)
    valid = [(history[:-2], int(history[-2])) for history in histories]
    test = [(history[:-1], int(history[-1])) for history in histories]

    def report(epoch: int, loss: float, ndcg: float) -> None:
        print(f"epoch {epoch + 1}/{settings.epochs}: loss {loss:.3f}, validation NDCG@10 {ndcg:.4f}", flush=True)

    fine_tune(reader, [history[:-2] for history in histories], valid, settings, report=report)
    neighbours = Neighbours.count([history[:-2] for history in histories], len(items))
    weight = choose_weight(reader, neighbours, valid, settings.window)
    asked = [history for history, _ in test]
    found = ranks(score(reader, asked, settings.window) + weight * neighbours.score(asked), test)
    figures = {"ndcg@10": ndcg_at(found), "hr@10": hit_rate_at(found)}
    save(reader, app, items, settings, options.out, neighbours=neighbours, weight=weight, figures=figures)
    print(f"{options.out}: {len(items):,} items; last items of {len(test):,} histories: NDCG@10 {figures['ndcg@10']:.4f}, HR@10 {figures['hr@10']:.4f}")


def run_items(options: argparse.Namespace) -> None:
    """Find items."""
    for item in Recommender.open(AppModel.open(options.model)).find(options.words):
        print(f"{item.id}\t{item.text}")


def run_next(options: argparse.Namespace) -> None:
    """Recommend."""
    store = EntityStore.open(options.store) if options.store else None
    found = Recommender.open(AppModel.open(options.model), store=store).recommend(options.history, count=options.count, new=options.new)
    if options.json:
        print(json.dumps({"items": [recommendation_record(each) for each in found]}, ensure_ascii=False))
        return
    if not found:
        print("Nothing left to recommend: the history holds everything" + (", or somebody has chosen it." if options.new else "."))
    for each in found:
        print(f"{each.score:6.3f}  {each.item.id}\t{each.item.text}")
        for reason in each.reasons[:1]:
            print(f"        near {reason.item.text}" + (f"; both: {', '.join(reason.shared)}" if reason.shared else ""))


def recommendation_record(found: Recommendation) -> dict:
    """A recommendation for JSON."""
    reasons = [{"item": reason.item.id, "text": reason.item.text, "cosine": reason.cosine, "shared": list(reason.shared)} for reason in found.reasons]
    return {"item": found.item.id, "text": found.item.text, "score": found.score, "reasons": reasons}
