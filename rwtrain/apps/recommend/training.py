"""Contrastive fine-tuning on histories, chosen by what users took last but one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rwtrain.apps.model import AppModel
from rwtrain.apps.recommend.catalogue import Item
from rwtrain.apps.recommend.neighbours import WEIGHTS, Neighbours
from rwtrain.apps.recommend.network import HistoryReader
from rwtrain.errors import ConfigError

HISTORIES_PER_STEP = 32


@dataclass(frozen=True)
class FineTuning:
    """How the recommender is trained."""

    epochs: int = 10
    """Passes over the histories; each takes one window of every history."""
    window: int = 32
    """Items of a window, and of the history that is read when recommending."""
    learning_rate: float = 1e-3
    """Peak of the learning rate of what is new; the trunk's is a fifth of it."""
    weight_decay: float = 0.05
    """Of matrices."""
    knowledge: bool = True
    """Let the entities of items enter."""
    patience: int = 4
    """Epochs without a better validation NDCG after which training ends."""
    seed: int = 0
    """Seed of the windows, the dropout and the new weights."""


def windows(histories: Sequence[np.ndarray], size: int, generator: np.random.Generator) -> np.ndarray:
    """One random window of up to `size` + 1 items of every history of two or more, [histories, size + 1], −1 behind short ones."""
    chosen = [history for history in histories if len(history) >= 2]
    result = np.full((len(chosen), size + 1), -1, np.int64)
    for row, history in enumerate(chosen):
        start = int(generator.integers(0, max(1, len(history) - size)))
        part = history[start : start + size + 1]
        result[row, : len(part)] = part
    return result


def make_reader(app: AppModel, items: Sequence[Item], *, knowledge: bool, seed: int) -> HistoryReader:
    """A reader that starts from the model's weights, with fresh projections; the model itself stays as it is.

    Raises:
        ConfigError: knowledge is asked for, but the model reads no entities or the folder has no linker.
    """
    if knowledge and app.linker is None:
        raise ConfigError(f"{app.folder}: this model has no entities. Train without knowledge, or export it with a linker.")
    text = torch.from_numpy(app.embed_texts([item.text for item in items], progress="items"))
    vectors = None
    if knowledge:
        vectors = torch.zeros(len(items), app.model.config.entity_dim)
        linked = [number for number, item in enumerate(items) if item.entity >= 0]
        vectors[linked] = torch.from_numpy(app.need_linker().vectors([items[number].entity for number in linked]))
        vectors = torch.nn.functional.normalize(vectors, dim=-1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HistoryReader(copy.deepcopy(app.model), text, vectors)


def fine_tune(
    reader: HistoryReader,
    histories: Sequence[np.ndarray],
    validation: Sequence[tuple[np.ndarray, int]],
    settings: FineTuning,
    *,
    report: Callable[[int, float, float], None] = lambda epoch, loss, ndcg: None,
) -> list[tuple[float, float]]:
    """Train `reader` and leave it with the weights of the best epoch; return (loss, validation NDCG@10) of every epoch.

    Args:
        histories: item numbers of every user in order of time, without what validation and test ask for.
        validation: (history, the item that came next).
    """
    generator = np.random.default_rng(settings.seed)
    steps = math.ceil(len(histories) / HISTORIES_PER_STEP) * settings.epochs
    reader.chosen_N[:] = False
    reader.chosen_N[torch.from_numpy(np.concatenate(histories))] = True
    optimizer = torch.optim.AdamW(_groups(reader, settings), betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=steps + 1, pct_start=0.1)
    curve: list[tuple[float, float]] = []
    best: dict[str, torch.Tensor] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        for epoch in range(settings.epochs):
            reader.train()
            rows = torch.from_numpy(windows(histories, settings.window, generator)[generator.permutation(sum(len(history) >= 2 for history in histories))])
            losses = []
            for batch in rows.split(HISTORIES_PER_STEP):
                loss = reader.loss(batch)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
            reader.eval()
            ndcg = ndcg_at(ranks(score(reader, [history for history, _ in validation], settings.window), validation))
            curve.append((float(np.mean(losses)), ndcg))
            report(epoch, *curve[-1])
            if ndcg >= max(value for _, value in curve):
                best = {name: value.clone() for name, value in reader.state_dict().items()}
            if epoch - int(np.argmax([value for _, value in curve])) >= settings.patience:
                break
    reader.load_state_dict(best)
    reader.eval()
    return curve


def _groups(reader: HistoryReader, settings: FineTuning) -> list[dict]:
    trunk = {id(parameter) for parameter in reader.trunk.parameters()}
    groups = []
    for is_trunk in (False, True):
        for matrices in (False, True):
            chosen = [p for p in reader.parameters() if (id(p) in trunk) == is_trunk and (p.ndim > 1) == matrices]
            rate = settings.learning_rate * (0.2 if is_trunk else 1.0)
            groups.append({"params": chosen, "lr": rate, "weight_decay": settings.weight_decay if matrices else 0.0})
    return [group for group in groups if group["params"]]


@torch.inference_mode()
def score(reader: HistoryReader, histories: Sequence[np.ndarray], window: int) -> np.ndarray:
    """Cosines of every item with what comes after each history, [histories, N] float32."""
    keys_NC = reader.item_vectors()
    parts = []
    for start in range(0, len(histories), 64):
        chosen = [history[-window:] for history in histories[start : start + 64]]
        rows = np.full((len(chosen), max(map(len, chosen))), -1, np.int64)
        for row, history in enumerate(chosen):
            rows[row, : len(history)] = history
        queries_BSC = reader(torch.from_numpy(rows))
        last = torch.tensor([len(history) - 1 for history in chosen])
        parts.append((queries_BSC[torch.arange(len(chosen)), last] @ keys_NC.T).float().numpy())
    return np.concatenate(parts)


def choose_weight(reader: HistoryReader, neighbours: Neighbours, validation: Sequence[tuple[np.ndarray, int]], window: int) -> float:
    """The weight of `neighbours.score` beside the cosines with the highest validation NDCG@10."""
    histories = [history for history, _ in validation]
    cosines, near = score(reader, histories, window), neighbours.score(histories)
    return max(WEIGHTS, key=lambda weight: ndcg_at(ranks(cosines + weight * near, validation)))


def ranks(scores: np.ndarray, wanted: Sequence[tuple[np.ndarray, int]]) -> np.ndarray:
    """Rank (1 is best, ties count half) of each wanted item among all that the history does not hold."""
    found = np.empty(len(wanted))
    for row, (history, item) in enumerate(wanted):
        values = scores[row].astype(np.float64)
        target = values[item]
        values[history] = -np.inf
        values[item] = -np.inf
        found[row] = 1 + (values > target).sum() + (values == target).sum() / 2
    return found


def ndcg_at(found: np.ndarray, cutoff: int = 10) -> float:
    """Mean of 1 / log₂(1 + rank) for ranks up to `cutoff`, else 0: NDCG with one relevant item."""
    return float(np.where(found <= cutoff, 1 / np.log2(1 + found), 0).mean())


def hit_rate_at(found: np.ndarray, cutoff: int = 10) -> float:
    """Share of wanted items among the first `cutoff`."""
    return float((found <= cutoff).mean())
