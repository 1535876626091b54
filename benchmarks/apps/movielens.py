"""MovieLens-small as the recommender's files, and the splits that it is measured with."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rwtrain.apps.recommend.catalogue import Item, read_histories, read_items
from rwtrain.knowledge.store import EntityStore

COLD_SHARE = 20  # every 20th film, by a hash of its id, is kept out of all training
SHORTEST = 3
COLD_PER_USER = 3


@dataclass(frozen=True)
class Task:
    """Histories to train on, and (history, what came next) to validate and to test on; `cold` asks for films without any training interaction."""

    train: list[np.ndarray]
    valid: list[tuple[np.ndarray, int]]
    test: list[tuple[np.ndarray, int]]
    cold: list[tuple[np.ndarray, int]]


def write_files(data: Path, out: Path, *, ties: int | None = None) -> tuple[Path, Path]:
    """items.jsonl (title, year, genres; Freebase id) and histories.csv of `data`/movielens-small.

    Args:
        ties: seed of a random order of the films that a user chose in the same second; None leaves them in the file's order, by film number.
    """
    folder = data / "movielens-small"
    with gzip.open(folder / "ml2fb.tsv.gz", "rt") as stream:
        entities = {movie: "/" + mid.replace(".", "/", 1) for movie, mid in csv.reader(stream, delimiter="\t")}
    with gzip.open(folder / "ratings.csv.gz", "rt") as stream:
        ratings = list(csv.DictReader(stream))
    if ties is not None:
        ratings = [ratings[place] for place in np.random.default_rng(ties).permutation(len(ratings))]
    rated = {row["movieId"] for row in ratings}
    out.mkdir(parents=True, exist_ok=True)
    items, histories = out / "items.jsonl", out / "histories.csv"
    with gzip.open(folder / "movies.csv.gz", "rt", encoding="utf-8") as stream, items.open("w", encoding="utf-8") as sink:
        for row in csv.DictReader(stream):
            if row["movieId"] in rated:
                text = f"{row['title']}: {row['genres'].replace('|', ', ').lower()}"
                sink.write(json.dumps({"id": row["movieId"], "text": text, "entity": entities.get(row["movieId"], "")}) + "\n")
    with histories.open("w", encoding="utf-8") as sink:
        sink.write("user,item,time\n" + "".join(f"{row['userId']},{row['movieId']},{row['timestamp']}\n" for row in ratings))
    return items, histories


def load(data: Path, out: Path, store: EntityStore, *, ties: int | None = None) -> tuple[list[Item], list[np.ndarray], list[np.ndarray]]:
    """(items, histories, times of the histories' items)."""
    item_file, history_file = write_files(data, out, ties=ties)
    items = read_items(item_file, store=store)
    users, histories = read_histories(history_file, items)
    times: dict[str, list[float]] = {}
    with history_file.open() as stream:
        for row in csv.DictReader(stream):
            times.setdefault(row["user"], []).append(float(row["time"]))
    return items, histories, [np.sort(times[user]) for user in users]


def cold_items(items: Sequence[Item]) -> np.ndarray:
    """[items] bool: kept out of training."""
    return np.array([zlib.crc32(item.id.encode()) % COLD_SHARE == 0 for item in items])


def leave_last_out(histories: Sequence[np.ndarray], cold: np.ndarray) -> Task:
    """The last warm film of every user is asked for in the test, the last but one in validation."""
    warm = [history[~cold[history]] for history in histories]
    warm = [history for history in warm if len(history) >= SHORTEST + 2]
    return Task(
        train=[history[:-2] for history in warm],
        valid=[(history[:-2], int(history[-2])) for history in warm],
        test=[(history[:-1], int(history[-1])) for history in warm],
        cold=_cold_questions(histories, cold),
    )


def temporal(histories: Sequence[np.ndarray], times: Sequence[np.ndarray], cold: np.ndarray, *, share: float = 0.8) -> Task:
    """Training sees what happened before a moment that `share` of all choices precede; users' last films after it are asked for."""
    moment = np.quantile(np.concatenate(times), share)
    before, valid, test = [], [], []
    for history, when in zip(histories, times, strict=True):
        keep = ~cold[history]
        history, when = history[keep], when[keep]
        early = history[when < moment]
        if len(early) >= SHORTEST + 1:
            before.append(early[:-1])
            valid.append((early[:-1], int(early[-1])))
        if len(history) > SHORTEST and when[-1] >= moment:
            test.append((history[:-1], int(history[-1])))
    return Task(before, valid, test, [])


def _cold_questions(histories: Sequence[np.ndarray], cold: np.ndarray) -> list[tuple[np.ndarray, int]]:
    found = []
    for history in histories:
        places = np.flatnonzero(cold[history])
        questions = [(history[:place][~cold[history[:place]]], int(history[place])) for place in places]
        found += [(before, item) for before, item in questions if len(before) >= SHORTEST][-COLD_PER_USER:]
    return found
