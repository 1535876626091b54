"""Entity mentions of a text as spans of tokens."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data_prep.work import key_of
from rwtrain.files import content_hash


class Mention(Protocol):
    """What an entity linker returns for one mention."""

    start: int
    end: int
    entity: int
    score: float


@lru_cache(maxsize=1)
def open_linker(folder: str) -> Any:
    """The entity linker of a store; opened once per process."""
    from rwtrain.model.linking_refinedweb import EntityLinker

    return EntityLinker.open(folder)


LINKER_CODE = "rwtrain/model/linking*.py"


def linker_hash(folder: str) -> str:
    """Hash of everything that links depend on: the linker's names, weights, vectors and settings, and its code."""
    code = sorted(Path(__file__).parents[1].glob(LINKER_CODE))
    files = sorted(path for path in Path(folder).iterdir() if path.is_file())
    return key_of("linker", [[path.name, content_hash(path)] for path in (*code, *files)])


def token_spans(text: str, mentions: Iterable[Mention], byte_ends: np.ndarray) -> tuple[list[int], list[int], list[int]]:
    """(start, end, entity) of the mentions in tokens, ascending and not overlapping.

    A mention that begins or ends inside a token is widened to whole tokens; if two then overlap, the later one is dropped.

    Args:
        text: the text that was linked.
        mentions: spans of characters of `text`.
        byte_ends: where each token ends in the UTF-8 encoding of `text`, [tokens].
    """
    starts: list[int] = []
    ends: list[int] = []
    entities: list[int] = []
    byte_of = _byte_offsets(text)
    last = 0
    for mention in sorted(mentions, key=lambda mention: (mention.start, mention.end)):
        # A token belongs to the mention if it ends after the mention begins and begins before the mention ends.
        first = int(np.searchsorted(byte_ends, byte_of(mention.start), side="right"))
        stop = int(np.searchsorted(byte_ends, byte_of(mention.end), side="left")) + 1
        if first < last or stop > len(byte_ends) or stop <= first:
            continue
        starts.append(first)
        ends.append(stop)
        entities.append(mention.entity)
        last = stop
    return starts, ends, entities


def _byte_offsets(text: str) -> Any:
    if text.isascii():
        return lambda position: position
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    lengths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return lambda position: int(offsets[position])
