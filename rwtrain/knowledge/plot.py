"""A picture of the vector space: entities projected to two dimensions, coloured by type."""

from __future__ import annotations

import html
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from rwtrain.errors import RWTrainError
from rwtrain.files import atomic_path, write_text
from rwtrain.knowledge.store import SPLITS, EntityStore
from rwtrain.knowledge.tables import ROWS_PER_PIECE

TYPES_SHOWN = 11
OTHER = "other types"
UNKNOWN = "no type known"
LABELS_SHOWN, TRIED_OF_TYPE = 22, 10
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf", "#393b79", "#e7ba52")
GREYS = {OTHER: "#a0a0a0", UNKNOWN: "#d4d4d4"}


def plot_store(store: EntityStore, out: str | Path, *, entities: int = 20_000) -> dict[str, int]:
    """Draw the vectors of a store into a .png or .html file; return how many entities were drawn of each type in the legend.

    Args:
        store: a store with vectors.
        out: the picture; HTML shows the name of the entity under the pointer.
        entities: at most so many are drawn, the most popular ones.

    Raises:
        RWTrainError: the file's name has another ending, or matplotlib is not installed.
        DataError: the store has no vectors.
    """
    out = Path(out)
    if out.suffix not in (".png", ".html"):
        raise RWTrainError(f"--out {out}: the name must end in .png or .html.")
    rows = np.sort(np.argsort(-np.asarray(store.popularity), kind="stable")[:entities])
    place_N2, share = project(np.asarray(store.vectors[rows], np.float64))
    groups, counts = group_types(entity_types(store, rows))
    title = f"{len(rows):,} entities of {store.folder.resolve().name}, first two principal components ({share:.0%} of the variance)"
    if out.suffix == ".png":
        _draw_png(store, out, rows, place_N2, groups, counts, title)
    else:
        _draw_html(store, out, rows, place_N2, groups, counts, title)
    return counts


def project(vectors_ND: np.ndarray) -> tuple[np.ndarray, float]:
    """Principal component analysis: [N, D] → [N, 2], and the share of the variance that the two components hold."""
    centred_ND = vectors_ND - vectors_ND.mean(0)
    variance_D, axes_DD = np.linalg.eigh(centred_ND.T @ centred_ND)
    if vectors_ND.shape[1] < 2:
        return np.pad(centred_ND, ((0, 0), (0, 1))), 1.0
    axes_D2 = axes_DD[:, [-1, -2]]
    axes_D2 = axes_D2 * np.sign(axes_D2[np.abs(axes_D2).argmax(0), [0, 1]])  # the sign of an eigenvector is arbitrary
    return centred_ND @ axes_D2, float(variance_D[-2:].sum() / max(variance_D.sum(), np.finfo(float).tiny))


def entity_types(store: EntityStore, rows: np.ndarray) -> list[str]:
    """A type for each entity: the class it is an instance of where the source says so, else that of most triples it is the head of.

    Freebase's relations begin with the type of their head ("/film/actor/film…" → "film/actor"); of other relations the label stands for it.
    """
    wanted = np.full(len(store), -1, np.int64)
    wanted[rows] = np.arange(len(rows))
    kinds = list(dict.fromkeys(_head_type(store, row) for row in range(store.relation_count)))
    kind_of = np.array([kinds.index(_head_type(store, row)) for row in range(store.relation_count)], np.int64)
    counts = np.zeros(len(rows) * max(1, len(kinds)), np.int64)
    for split in SPLITS:
        triples = store.triples(split)
        for start in range(0, len(triples), ROWS_PER_PIECE):
            piece = np.asarray(triples[start : start + ROWS_PER_PIECE])
            place = wanted[piece[:, 0]]
            inside = place >= 0
            counts += np.bincount(place[inside] * len(kinds) + kind_of[piece[inside, 1]], minlength=len(counts))
    table = counts.reshape(len(rows), -1)
    best = table.argmax(1)
    found = []
    for number, row in enumerate(rows.tolist()):
        types = store.types(row)
        if types:
            found.append(_label(store, types[0]))
        else:
            found.append(kinds[best[number]] if kinds and table[number, best[number]] else UNKNOWN)
    return found


def group_types(types: list[str]) -> tuple[list[str], dict[str, int]]:
    """The type under which each entity is drawn, small types together, and the legend: the frequent types with their counts, the rest last."""
    frequent = [name for name, _ in Counter(name for name in types if name != UNKNOWN).most_common(TYPES_SHOWN)]
    groups = [name if name in frequent or name == UNKNOWN else OTHER for name in types]
    sizes = Counter(groups)
    return groups, {name: sizes[name] for name in [*frequent, OTHER, UNKNOWN] if sizes[name]}


def _head_type(store: EntityStore, relation: int) -> str:
    name = store.relation_id(relation)
    parts = name.split("/")
    return "/".join(parts[1:3]) if name.startswith("/") and len(parts) > 3 else store.relation_label(relation)


def _label(store: EntityStore, name: str) -> str:
    try:
        return store.label(store.row(name))
    except KeyError:
        return name


def _colours(counts: dict[str, int]) -> dict[str, str]:
    coloured = [name for name in counts if name not in GREYS]
    return dict(zip(coloured, COLOURS, strict=False)) | {name: GREYS[name] for name in counts if name in GREYS}


def _draw_png(store: EntityStore, out: Path, rows: np.ndarray, place_N2: np.ndarray, groups: list[str], counts: dict[str, int], title: str) -> None:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patheffects import withStroke
    except ImportError as error:
        raise RWTrainError("A PNG needs matplotlib: pip install 'rwtrain[train]', or give a name that ends in .html.") from error
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names, colours = np.array(groups), _colours(counts)
    for name in reversed(counts):
        chosen = names == name
        axes.scatter(place_N2[chosen, 0], place_N2[chosen, 1], s=3, alpha=0.6, linewidths=0, color=colours[name], label=f"{_short(name)}  {counts[name]:,}")
    outline = [withStroke(linewidth=2, foreground="white", alpha=0.8)]
    for number in _labelled(store, rows, place_N2, groups):
        x, y = place_N2[number].tolist()
        axes.annotate(_short(store.label(int(rows[number]))), (x, y), fontsize=7, ha="center", va="bottom", path_effects=outline)
    handles, labels = axes.get_legend_handles_labels()
    legend = figure.legend(handles[::-1], labels[::-1], loc="outside right upper", fontsize=8, frameon=False, markerscale=4, title="type, entities")
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    with atomic_path(out) as path:
        figure.savefig(path, format="png", dpi=100)


def _labelled(store: EntityStore, rows: np.ndarray, place_N2: np.ndarray, groups: list[str]) -> list[int]:
    """The most popular named entities of each type, by turns, none close to another."""
    spread = np.ptp(place_N2, axis=0) + np.finfo(float).tiny
    ranks: Counter[str] = Counter()
    turns: list[tuple[int, int]] = []
    for number in np.argsort(-store.popularity[rows], kind="stable").tolist():
        if groups[number] not in GREYS and ranks[groups[number]] < TRIED_OF_TYPE and store.has_label(int(rows[number])):
            turns.append((ranks[groups[number]], number))
            ranks[groups[number]] += 1
    chosen: list[int] = []
    for _, number in sorted(turns, key=lambda turn: turn[0]):
        distance = np.abs(place_N2[chosen] - place_N2[number]) / spread
        if ((distance[:, 0] > 0.13) | (distance[:, 1] > 0.035)).all():
            chosen.append(number)
        if len(chosen) == LABELS_SHOWN:
            break
    return chosen


def _short(name: str) -> str:
    name = name.lstrip("_").replace("$", r"\$")  # matplotlib hides names that begin with an underscore and reads $ as mathematics
    return name if len(name) <= 32 else f"{name[:31]}…"


def _draw_html(store: EntityStore, out: Path, rows: np.ndarray, place_N2: np.ndarray, groups: list[str], counts: dict[str, int], title: str) -> None:
    low, high = place_N2.min(0), place_N2.max(0)
    scaled = (place_N2 - low) / np.maximum(high - low, np.finfo(float).tiny)
    order = {name: number for number, name in enumerate(counts)}
    points: list[Any] = [
        [round(x, 4), round(1 - y, 4), order[group], store.label(row)] for (x, y), group, row in zip(scaled.tolist(), groups, rows.tolist(), strict=True)
    ]
    legend = [[name, count, _colours(counts)[name]] for name, count in counts.items()]
    data = json.dumps({"points": points, "legend": legend}, ensure_ascii=False).replace("<", "\\u003c")
    template = (Path(__file__).parent / "plot.html").read_text(encoding="utf-8")
    write_text(out, template.replace("{{title}}", html.escape(title)).replace("{{data}}", data))
