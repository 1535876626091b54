"""A few clusters of duplicates with the beginnings of their texts, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from data_prep.dedup.ngrams import ngram_hashes
from data_prep.dedup.step import Cluster
from data_prep.words import split_words

CHARACTERS = 240


@dataclass(slots=True)
class Member:
    """One document of a cluster.

    Attributes:
        doc_id: its id.
        source: where it came from.
        text: its beginning.
        similarity: Jaccard similarity of its word n-grams with those of the first member.
    """

    doc_id: str
    source: str
    text: str
    similarity: float


@dataclass(slots=True)
class ClusterSample:
    """A cluster: how many documents it has, and its first members; the very first one stays in the corpus."""

    size: int
    members: list[Member]


def read_clusters(clusters: Sequence[Cluster], paths: Sequence[Path], *, ngram: int) -> list[ClusterSample]:
    """Look the members of clusters up in the files of their units.

    Args:
        clusters: what to look up.
        paths: documents of each unit.
        ngram: words of an n-gram.
    """
    found = []
    for cluster in clusters:
        rows = [_row(paths[unit], row) for unit, row in cluster.members]
        grams = [set(ngram_hashes(split_words(row["text"]).folded, ngram).tolist()) for row in rows]
        similarities = [len(grams[0] & other) / len(grams[0] | other) if grams[0] | other else 1.0 for other in grams]
        found.append(
            ClusterSample(
                cluster.size,
                [Member(row["doc_id"], row["source"], row["text"][:CHARACTERS], similarity) for row, similarity in zip(rows, similarities, strict=True)],
            )
        )
    return found


def _row(path: Path, number: int) -> dict[str, str]:
    """Row `number` of a records file; only its row group is read."""
    with pq.ParquetFile(str(path)) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if number < rows:
                return file.read_row_group(group, columns=["doc_id", "source", "text"]).slice(number, 1).to_pylist()[0]
            number -= rows
    raise IndexError(f"{path}: no row {number}")
