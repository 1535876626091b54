"""A trained recommender as a folder: the exported model with its fine-tuned trunk, and `recommender/` with the items and the projections."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from rwtrain.apps.model import AppModel
from rwtrain.apps.recommend.catalogue import Item
from rwtrain.apps.recommend.neighbours import Neighbours
from rwtrain.apps.recommend.network import HistoryReader
from rwtrain.apps.recommend.training import FineTuning, score
from rwtrain.errors import ConfigError, DataError
from rwtrain.files import atomic_folder, write_json
from rwtrain.knowledge.store import EntityStore

FOLDER, MANIFEST, HEADS = "recommender", "manifest.json", "heads.safetensors"
NEIGHBOURS = "neighbours.safetensors"
REMEDY = "Train it again with `rwtrain recommend train`"
REASONS = 3


@dataclass(frozen=True)
class Reason:
    """Why an item is recommended: an item of the history that is near to it, and entities that both are connected with."""

    item: Item
    cosine: float
    shared: tuple[str, ...]


@dataclass(frozen=True)
class Recommendation:
    """An item, its score (cosine with the history, plus the weighted log of its share among the neighbours), and the reasons."""

    item: Item
    score: float
    reasons: tuple[Reason, ...]


def save(
    reader: HistoryReader,
    app: AppModel,
    items: Sequence[Item],
    settings: FineTuning,
    out: str | Path,
    *,
    neighbours: Neighbours | None = None,
    weight: float = 0.0,
    figures: dict[str, float] | None = None,
) -> None:
    """Write a recommender; `out` is an exported folder with the fine-tuned trunk and appears when it is whole. `weight` is that of `neighbours`."""
    with atomic_folder(out) as folder:
        shutil.copytree(app.folder, folder, dirs_exist_ok=True, ignore=lambda _, names: [name for name in names if name == FOLDER or _is_weights(name)])
        twin = type(app.model)(app.model.config)
        twin.load_state_dict({**app.model.state_dict(), **{f"model.{name}": value for name, value in reader.trunk.state_dict().items()}})
        twin.save_pretrained(folder)
        (folder / FOLDER).mkdir()
        save_file({name: value.contiguous() for name, value in reader.heads().items()}, folder / FOLDER / HEADS)
        if neighbours is not None:
            save_arrays(neighbours.arrays(), folder / FOLDER / NEIGHBOURS)
        manifest = {"settings": asdict(settings), "items": [asdict(item) for item in items], "weight": weight, "figures": figures or {}}
        write_json(folder / FOLDER / MANIFEST, manifest)


def _is_weights(name: str) -> bool:
    return name.startswith("model") and "safetensors" in name


class Recommender:
    """Recommends from a folder. Use `Recommender.open`; safe to share between threads."""

    def __init__(
        self,
        app: AppModel,
        reader: HistoryReader,
        items: Sequence[Item],
        settings: FineTuning,
        store: EntityStore | None = None,
        *,
        neighbours: Neighbours | None = None,
        weight: float = 0.0,
    ) -> None:
        self.app, self.reader, self.items, self.settings, self.store = app, reader.eval(), list(items), settings, store
        self.neighbours, self.weight = neighbours, weight
        self.numbers = {item.id: number for number, item in enumerate(self.items)}

    @classmethod
    def open(cls, app: AppModel, *, store: EntityStore | None = None) -> Recommender:
        """Open the recommender in the model's folder.

        Args:
            store: the entity store, for reasons that name shared entities.

        Raises:
            DataError: the folder holds none, or it is damaged.
        """
        folder = app.folder / FOLDER
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            items = [Item(**record) for record in manifest["items"]]
            settings = FineTuning(**manifest["settings"])
            heads = load_file(folder / HEADS)
            reader = HistoryReader(app.model, heads["text_NC"], heads["vector_NE"] if settings.knowledge else None)
            neighbours = Neighbours.from_arrays(load_arrays(folder / NEIGHBOURS)) if (folder / NEIGHBOURS).exists() else None
            weight = float(manifest.get("weight", 0.0))
            missing, unexpected = reader.load_state_dict(heads, strict=False)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise DataError(folder, f"no readable recommender ({error})", REMEDY) from error
        counted = len(items) if neighbours is None else len(neighbours.popularity)
        if unexpected or any(not name.startswith("trunk.") for name in missing) or not len(items) == counted == len(heads["text_NC"]):
            raise DataError(folder, "the files do not fit together", REMEDY)
        return cls(app, reader, items, settings, store, neighbours=neighbours, weight=weight)

    @cached_property
    def vectors(self) -> np.ndarray:
        """L2-normalised vectors of all items, [N, C] float32."""
        with torch.inference_mode():
            return self.reader.item_vectors().numpy()

    def find(self, text: str, count: int = 10) -> list[Item]:
        """Items whose text holds all words of `text`."""
        words = text.lower().split()
        return [item for item in self.items if words and all(word in item.text.lower() for word in words)][:count]

    def recommend(self, history: Sequence[str], *, count: int = 10, new: bool = False) -> list[Recommendation]:
        """What comes next after items of the given ids, the oldest first; what the history holds is left out.

        Args:
            new: only items that nobody had chosen in training. Their text and entity alone say where they stand: neighbours cannot.

        Raises:
            ConfigError: the history is empty or names an unknown item.
        """
        unknown = [identifier for identifier in history if identifier not in self.numbers]
        if unknown or not history:
            raise ConfigError(f"unknown items {unknown[:3]}: give ids of the catalogue." if unknown else "The history is empty: choose at least one item.")
        numbers = np.array([self.numbers[identifier] for identifier in history])
        scores = score(self.reader, [numbers], self.settings.window)[0]
        if self.neighbours is not None and self.weight and not new:
            scores = scores + self.weight * self.neighbours.score([numbers])[0]
        scores[numbers] = -np.inf
        if new:
            scores[self.reader.chosen_N.numpy()] = -np.inf
        best = np.argsort(-scores, kind="stable")[: min(count, int((scores > -np.inf).sum()))]
        return [Recommendation(self.items[number], float(scores[number]), self.reasons(int(number), numbers)) for number in best]

    def reasons(self, item: int, history: np.ndarray) -> tuple[Reason, ...]:
        """The items of the history nearest to an item, and what they share with it."""
        unique = np.unique(history)
        cosines = self.vectors[unique] @ self.vectors[item]
        order = np.argsort(-cosines, kind="stable")[:REASONS]
        return tuple(Reason(self.items[unique[place]], float(cosines[place]), self._shared(item, int(unique[place]))) for place in order)

    def _shared(self, first: int, second: int) -> tuple[str, ...]:
        if self.store is None:
            return ()
        neighbours = [self._neighbours.get(self.items[number].entity, {}) for number in (first, second)]
        shared = sorted(neighbours[0].keys() & neighbours[1].keys(), key=lambda entity: int(self.store.popularity[entity]))  # type: ignore[union-attr]
        return tuple(f"{self.store.label(entity)} ({_last(self.store.relation_label(neighbours[0][entity]))})" for entity in shared[:REASONS])

    @cached_property
    def _neighbours(self) -> dict[int, dict[int, int]]:
        """item's entity → connected entity → relation."""
        assert self.store is not None  # by the only caller
        wanted = {item.entity for item in self.items if item.entity >= 0}
        found: dict[int, dict[int, int]] = {entity: {} for entity in wanted}
        for head, relation, tail in np.asarray(self.store.triples("train")).tolist():
            if head in wanted:
                found[head][tail] = relation
            if tail in wanted:
                found[tail][head] = relation
        return found


def _last(label: str) -> str:
    """The last part of a relation's path."""
    return label.rstrip("/").split("/")[-1].split(".")[-1].replace("_", " ")
