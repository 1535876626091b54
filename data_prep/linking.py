"""Entity mentions of a text as spans of tokens."""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from data_prep.links import Link
from data_prep.plan import LinkNode
from data_prep.redirects import open_pages
from data_prep.work import key_of
from rwtrain.errors import RWTrainError
from rwtrain.files import content_hash
from rwtrain.knowledge.pages import PageRows
from rwtrain.knowledge.store import EntityStore, hash_ids


class Mention(Protocol):
    """A mention in a text: first character, one past the last, and row of the entity."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def entity(self) -> int: ...


class Span(NamedTuple):
    """A mention of an entity, or with entity `NOBODY` a place that speaks of no entity of the store."""

    start: int
    end: int
    entity: int


NOBODY = -1


@lru_cache(maxsize=1)
def open_linker(folder: str) -> Any:
    """The entity linker of a store; opened once per process."""
    from rwtrain.model.linking_refinedweb import EntityLinker

    return EntityLinker.open(folder)


# Files of an entity store that say which entity a page is about: by title, or by label.
PAGE_FILES = ("title_hash.npy", "title_row.npy", "entities.arrow")
LINKER_CODE = "rwtrain/model/linking*.py"


def linker_hash(folder: str) -> str:
    """Hash of everything that links depend on: the linker's names, weights, vectors and settings, and its code."""
    code = sorted(Path(__file__).parents[1].glob(LINKER_CODE))
    files = sorted(path for path in Path(folder).iterdir() if path.is_file())
    return key_of("linker", [[path.name, content_hash(path)] for path in (*code, *files)])


@dataclass(frozen=True, slots=True)
class LinkInputs:
    """What links depend on.

    Attributes:
        linker: folder of the linker, None if there is none.
        entities: folder of the entity store, None if links of wiki pages are left alone.
        store_hash: identity of the entity store whose rows mentions mean.
        hash: of the linker, its code, and the store's pages.
    """

    linker: str | None
    entities: str | None
    store_hash: str
    hash: str


def link_inputs(config: LinkNode) -> LinkInputs | None:
    """What the plan names; None if nothing is to be linked.

    Raises:
        RWTrainError: the linker was built from another store.
        DataError: the store cannot be read.
    """
    if config.store is None and config.entities is None:
        return None
    found = open_linker(config.store).store_hash if config.store is not None else None
    parts = [linker_hash(config.store)] if config.store is not None else []
    if config.entities is not None:
        store = EntityStore.open(config.entities)
        if found is not None and found != store.hash:
            raise RWTrainError(
                f"link.entities ({config.entities}) is not the entity store that the linker in link.store ({config.store}) was built from. "
                f"Name that store, or build the linker again with: rwtrain kg linker {config.entities} --out FOLDER"
            )
        found = store.hash
        parts += [store.manifest["files"][name]["hash"] for name in PAGE_FILES]
    assert found is not None
    return LinkInputs(config.store, config.entities, found, key_of("link", parts))


def open_finder(inputs: LinkInputs, config: LinkNode, redirects: Path | None, wikis: tuple[str, ...]) -> MentionFinder:
    """What finds mentions in a worker.

    Args:
        inputs: see there.
        config: the plan's node.
        redirects: file of the corpus' redirects; without one links are left alone.
        wikis: the corpus' wikis, such as "enwiki".
    """
    linker = open_linker(inputs.linker) if inputs.linker is not None else None
    pages = open_pages(inputs.entities, str(redirects), wikis) if inputs.entities is not None and redirects is not None else None
    return MentionFinder(linker, pages, config)


class MentionFinder:
    """Finds the mentions of texts: those that links of a wiki page give, and those that the linker spots.

    Args:
        linker: an `EntityLinker`; None finds what links give only.
        pages: which entity a wiki page is about; None leaves links alone.
        config: the plan's node.
    """

    def __init__(self, linker: Any, pages: PageRows | None, config: LinkNode) -> None:
        self.linker, self.pages, self.config = linker, pages, config

    def spotted(self, texts: Sequence[str]) -> list[list[Span]]:
        """What the linker finds in each text."""
        if self.linker is None:
            return [[] for _ in texts]
        found = self.linker.link_batch(texts, left_context=self.config.left_context)
        sure = (found.score >= self.config.min_score).tolist()
        spans = [Span(*each) for each in zip(found.start.tolist(), found.end.tolist(), found.entity.tolist(), strict=True)]
        return [
            [span for span, chosen in zip(spans[first:last], sure[first:last], strict=True) if chosen]
            for first, last in itertools.pairwise(found.bounds.tolist())
        ]

    def given(self, links: Sequence[Sequence[Link]]) -> list[list[Span]]:
        """What each text's links say.

        A link to a page without an entity says that nobody of the store is meant, but where the store knows no pages and labels stand for them.
        """
        if self.pages is None or not any(links):
            return [[] for _ in links]
        rows = iter(self.pages.find(hash_ids([link.page for each in links for link in each])).tolist())
        spans = [[Span(link.start, link.end, next(rows)) for link in each] for each in links]
        return [[span for span in each if span.entity >= 0] for each in spans] if self.pages.by_label else spans


def token_spans(text: str, mentions: Iterable[Mention], byte_ends: np.ndarray, *, given: Iterable[Mention] = ()) -> tuple[list[int], list[int], list[int]]:
    """(start, end, entity) of the mentions in tokens, ascending and not overlapping.

    A mention that begins or ends inside a token is widened to whole tokens; if two then overlap, the later one is dropped.

    Args:
        text: the text that was linked.
        mentions: spans of characters of `text`.
        byte_ends: where each token ends in the UTF-8 encoding of `text`, [tokens].
        given: mentions that take precedence: what overlaps them is dropped.
    """
    byte_of = _byte_offsets(text)
    first_come = _widened(given, byte_of, byte_ends)
    starts, ends = [start for start, _, _ in first_come], [end for _, end, _ in first_come]
    free = [
        (start, end, entity)
        for start, end, entity in _widened(mentions, byte_of, byte_ends)
        if bisect_right(ends, start) == bisect_left(starts, end)  # as many given ones end before it as begin before its end
    ]
    spans = sorted([span for span in first_come if span[2] != NOBODY] + free)
    return [start for start, _, _ in spans], [end for _, end, _ in spans], [entity for _, _, entity in spans]


def _widened(mentions: Iterable[Mention], byte_of: Callable[[int], int], byte_ends: np.ndarray) -> list[tuple[int, int, int]]:
    """Mentions as tokens, ascending and not overlapping."""
    found: list[tuple[int, int, int]] = []
    last = 0
    for mention in sorted(mentions, key=lambda mention: (mention.start, mention.end)):
        # A token belongs to the mention if it ends after the mention begins and begins before the mention ends.
        first = int(np.searchsorted(byte_ends, byte_of(mention.start), side="right"))
        stop = int(np.searchsorted(byte_ends, byte_of(mention.end), side="left")) + 1
        if first < last or stop > len(byte_ends) or stop <= first:
            continue
        found.append((first, stop, mention.entity))
        last = stop
    return found


def _byte_offsets(text: str) -> Callable[[int], int]:
    if text.isascii():
        return lambda position: position
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    lengths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return lambda position: int(offsets[position])
