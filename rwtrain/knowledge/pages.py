"""Wikipedia pages as entities of a store: by title, through redirects."""

from __future__ import annotations

import logging

import numpy as np

from rwtrain.knowledge.store import EntityStore, hash_ids, normal_title

logger = logging.getLogger(__name__)


class PageRows:
    """Page hash -> row of its entity.

    Args:
        store: whose titles name the entities; if it has none, labels that only one entity has.
        wikis: the editions that pages are looked up in, such as "enwiki"; of use for labels only.
        redirects: hashes of pages that redirect, ascending, and of those they finally lead to, both [redirects] uint64.
    """

    def __init__(self, store: EntityStore, wikis: list[str], redirects: tuple[np.ndarray, np.ndarray]) -> None:
        self.store, (self.source, self.final) = store, redirects
        self.by_label = not store.has_titles
        if self.by_label:
            logger.warning("%s has no page titles: pages are matched with labels that only one entity has", store.folder)
            labels = [normal_title(store.label(row)) if store.has_label(row) else "" for row in range(len(store))]
            hashes = np.concatenate([hash_ids([f"{wiki}:{label}" for label in labels]) for wiki in wikis])
            rows = np.tile(np.arange(len(store)), len(wikis))
            kept = np.tile(np.array([bool(label) for label in labels], bool), len(wikis))
            self.label_hash, first, count = np.unique(hashes[kept], return_index=True, return_counts=True)
            self.label_row = np.where(count == 1, rows[kept][first], -1)

    def find(self, pages: np.ndarray) -> np.ndarray:
        """Rows of pages by the hashes of "wiki:title", -1 where there is no entity. [n] uint64 -> [n] int64."""
        place = np.minimum(np.searchsorted(self.source, pages), max(0, len(self.source) - 1))
        final = np.where(self.source[place] == pages, self.final[place], pages) if len(self.source) else pages
        if not self.by_label:
            direct = self.store.rows_of_title_hashes(pages)
            return np.where(direct >= 0, direct, self.store.rows_of_title_hashes(final))
        place = np.minimum(np.searchsorted(self.label_hash, final), max(0, len(self.label_hash) - 1))
        return np.where(self.label_hash[place] == final, self.label_row[place], -1) if len(self.label_hash) else np.full(len(pages), -1)
