"""How well a dataset's documents pack into rows of a training run, beside the two usual alternatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rwtrain.data.packing import pack

# Best-fit packing takes about 2 µs a document; beyond this many, evenly spaced documents stand for all.
MOST_DOCUMENTS = 1_000_000
WAYS = ("best_fit", "padding", "concatenate")


@dataclass(slots=True)
class PackingFigures:
    """One dataset's documents in rows of one length.

    Attributes:
        dataset: its name.
        seq_len: tokens of a row.
        documents: documents measured; fewer than the dataset has where it is very large.
        best_fit: what training does (`rwtrain.data.packing`).
        padding: one document or piece of one a row, the rest padding.
        concatenate: all documents end to end, cut every `seq_len` tokens.
        longer: documents longer than a row; every way has to cut these.
    """

    dataset: str
    seq_len: int
    documents: int
    best_fit: Way
    padding: Way
    concatenate: Way
    longer: int


@dataclass(slots=True)
class Way:
    """One way of filling rows: rows, share of their places that hold a token, documents that are cut."""

    rows: int
    fill: float
    cut: int


def measure_packing(dataset: str, lengths: np.ndarray, seq_len: int) -> PackingFigures:
    """Measure the three ways.

    Args:
        dataset: its name.
        lengths: tokens of every document, [documents].
        seq_len: tokens of a row.
    """
    step = -(-len(lengths) // MOST_DOCUMENTS) or 1
    lengths = np.asarray(lengths, np.int64)[::step]
    plan = pack(lengths, seq_len)
    longer = int((lengths > seq_len).sum())
    pieces, total = int((-(-lengths // seq_len)).sum()), int(lengths.sum())
    ends = np.cumsum(lengths)
    starts = ends - lengths
    rows = -(-total // seq_len)
    cut = int((starts // seq_len != (ends - 1) // seq_len).sum())
    return PackingFigures(
        dataset=dataset,
        seq_len=seq_len,
        documents=len(lengths),
        best_fit=Way(len(plan), plan.fill, longer),
        padding=Way(pieces, total / max(1, pieces * seq_len), longer),
        concatenate=Way(rows, total / max(1, rows * seq_len), cut),
        longer=longer,
    )


def describe_packing(figures: PackingFigures) -> str:
    """One line for a terminal."""
    parts = [
        f"{name} {100 * way.fill:.2f}% full, {way.rows:,} rows, {way.cut:,} documents cut"
        for name, way in (("best fit", figures.best_fit), ("padding", figures.padding), ("end to end", figures.concatenate))
    ]
    return f"rows of {figures.seq_len:,}: {'; '.join(parts)}"
