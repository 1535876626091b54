"""Redirects of wikis: from every unit's pairs to where each page finally leads, and to the entities of pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.links import wiki_page
from data_prep.pool import Pool
from data_prep.records import Redirect
from data_prep.work import Unit, code_hash, key_of
from rwtrain.files import atomic_path
from rwtrain.knowledge.numbering import follow_redirects
from rwtrain.knowledge.pages import PageRows
from rwtrain.knowledge.store import EntityStore, hash_ids

SUFFIX = ".redirects.npy"


def write_redirects(prefix: Path, redirects: Iterable[Redirect], language: str) -> None:
    """Write hashes of pages and of those they redirect to, [redirects, 2] uint64, beside a unit's result."""
    pairs = [(wiki_page(language, redirect.title), wiki_page(language, redirect.target)) for redirect in redirects]
    _save(prefix.with_name(f"{prefix.name}{SUFFIX}"), np.stack([hash_ids([pair[side] for pair in pairs]) for side in (0, 1)], 1))


def join_redirects(keys: Sequence[str], pool: Pool) -> Path:
    """Follow the redirects of ingest units; return the file with (page, page that it finally leads to), [2, redirects] uint64, ascending."""
    paths = [str(pool.work.path("ingest", key, SUFFIX)) for key in keys]
    unit = Unit("redirects", key_of("redirects", code_hash(), list(keys)), sum(Path(path).stat().st_size for path in paths), "redirects", paths)
    pool.run(follow, [unit], label="redirects")
    return pool.work.path("redirects", unit.key, ".npy")


def follow(arguments: list[str], prefix: Path) -> dict[str, Any]:
    """Do the unit; redirects in a circle lead nowhere and are left out."""
    pairs = np.concatenate([np.zeros((0, 2), np.uint64), *(np.load(path) for path in arguments)])
    source, final, cyclic = follow_redirects(pairs[:, 0], pairs[:, 1])
    _save(prefix.with_name(f"{prefix.name}.npy"), np.stack([source[~cyclic], final[~cyclic]]))
    return {"redirects": len(source), "cyclic": int(cyclic.sum())}


@lru_cache(maxsize=1)
def open_pages(store: str, redirects: str, wikis: tuple[str, ...]) -> PageRows:
    """The entities of wiki pages; opened once per process."""
    source, final = np.load(redirects, mmap_mode="r")
    return PageRows(EntityStore.open(store), list(wikis), (source, final))


def _save(path: Path, values: np.ndarray) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.save(stream, values)
