"""One pass of the entity linker over some texts: the arrays that its kernels fill, and what can be read from them.

Self-contained, as `linking_refinedweb`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .linking_features_refinedweb import CANDIDATE_WIDTH, MENTION_WIDTH, RECENT_SLOTS, Candidates, Scratch, Spots, Table
from .linking_kernels_refinedweb import kernels, views
from .linking_words_refinedweb import FORM_MASK, MAX_WORDS, UPPER_MASK, Names, Words


@dataclass(frozen=True, slots=True)
class Spot:
    """A place where a known name stands, linked or not: for looking at the linker's reasons.

    Attributes:
        start, end, surface: as in `EntityMention`.
        candidates: (entity row, score) by descending score.
        linked: whether the first candidate's score reached one half and no other mention took the place.
    """

    start: int
    end: int
    surface: str
    candidates: tuple[tuple[int, float], ...]
    linked: bool


@dataclass(frozen=True, slots=True)
class Candidate:
    """An entity that a name may mean.

    Attributes:
        entity: row in the entity store.
        score: probability that the name is a mention, and of this entity.
        prior: probability of the entity given the name, without the text.
    """

    entity: int
    score: float
    prior: float


@dataclass(frozen=True, slots=True)
class MentionArrays:
    """The linked mentions of many texts: those of text t are places bounds[t] to bounds[t + 1] of the other arrays.

    Attributes:
        bounds: [texts + 1] int64.
        start, end: first character and one past the last, in the mention's own text, [mentions] int64.
        entity: row in the entity store, [mentions] int32.
        score: 0 to 1, [mentions] float32.
    """

    bounds: np.ndarray
    start: np.ndarray
    end: np.ndarray
    entity: np.ndarray
    score: np.ndarray


def split_words(code: Any, texts: Sequence[str], char_info: Any) -> tuple[np.ndarray, np.ndarray, Words, np.ndarray]:
    """The words of many texts: (characters [characters] int32, each text's first character, words, each text's first word).

    Args:
        code: from `kernels`.
        texts: any texts.
        char_info: the table of characters.
    """
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.int32)
    bounds = np.cumsum(np.fromiter((0, *map(len, texts)), np.int64, len(texts) + 1))
    room = len(codes)
    words = Words(np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.int32))
    word_bounds = np.zeros(len(bounds), np.int64)
    count = code.scan_documents(*seen(code, codes, bounds, char_info, words, word_bounds))
    return codes, bounds, Words(*(array[:count] for array in words)), word_bounds


def seen(code: Any, *arguments: Any) -> Any:
    """Arguments for a kernel: arrays as they are for compiled code, as memoryviews for plain Python."""
    return arguments if code.compiled else tuple(views(argument) for argument in arguments)


class Run:
    """One pass over some texts: their words, names and scored spots."""

    def __init__(self, code: Any, table: Table, texts: Sequence[str], floor: float, *, left_context: bool, spans: Sequence[tuple[int, int]] = ()) -> None:
        self.code, self.table, self.left_context = code, table, left_context
        self.read_words(texts)
        names, name_bounds = self.find_names()
        self.read_as: list[tuple[int, int]] = []
        if spans:
            names, name_bounds = self._add_spans(names, texts[0], spans)
        self._collect(names, name_bounds, floor)
        self.ends = np.empty(self.spot_bounds[-1], np.int64)
        code.span_ends(*seen(code, self.codes, self.bounds, table, self.words, self.spots, self.spot_bounds, self.ends))

    def read_words(self, texts: Sequence[str]) -> None:
        """Split the texts into words."""
        self.codes, self.bounds, self.words, self.word_bounds = split_words(self.code, texts, self.table.char_info)

    def find_names(self) -> tuple[Names, np.ndarray]:
        """Every run of words that is a known name, and where each text's begin."""
        bounds = np.zeros(len(self.word_bounds), np.int64)
        room = len(self.words.start) // 2 + 64
        while True:
            names = Names(np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.int64), np.zeros(room, np.uint8))
            count = self.code.find_names(*seen(self.code, self.words, self.word_bounds, self.table.slots, self.table.first_words, names, bounds))
            if count <= room:
                return Names(*(array[:count] for array in names)), bounds
            room = count

    def _add_spans(self, names: Names, text: str, spans: Sequence[tuple[int, int]]) -> tuple[Names, np.ndarray]:
        """Make sure that given spans of the only text are scored; `read_as` tells by which words."""
        found = {(last, first): (form, 0) for first, last, form in zip(*(array.tolist() for array in names[:3]), strict=True)}
        for start, end in spans:
            first, last, form = self._longest_name(start, end)
            if "," in text[start:end] and not (form >= 0 and self.words.start[first] == start):  # "Lyon, France" means Lyon
                before = self._longest_name(start, text.index(",", start))
                first, last, form = before if before[2] >= 0 else (first, last, form)
            if form >= 0:
                found[last, first] = (form, 1)
            self.read_as.append((first, last))
        rows = np.array([(first, last, *found[last, first]) for last, first in sorted(found)], np.int64).reshape(-1, 4)
        columns = [np.ascontiguousarray(rows[:, place]) for place in range(3)]
        return Names._make([*columns, rows[:, 3].astype(np.uint8)]), np.array([0, len(rows)], np.int64)

    def _longest_name(self, start: int, end: int) -> tuple[int, int, int]:
        """(first word, last word, name) of the longest known name within the characters start to end; the last word and -1 if there is none."""
        begin, stop = int(np.searchsorted(self.words.end, start, "right")), int(np.searchsorted(self.words.start, end, "left"))
        code = kernels(compiled=False)
        best, hashes, slots = (stop - 1, stop - 1, -1), self.words.hash[begin:stop].tolist(), views(self.table.slots)
        for first in range(len(hashes)):
            phrase = hashes[first]
            for last in range(first, min(len(hashes), first + MAX_WORDS)):
                phrase = code.combine(phrase, hashes[last]) if last > first else phrase
                form = (code.look_up(phrase, slots) & FORM_MASK) - 1
                if form >= 0 and (best[2] < 0 or last - first >= best[1] - best[0]):
                    best = (begin + first, begin + last, form)
        return best if begin < stop else (0, -1, -1)

    def _collect(self, names: Names, name_bounds: np.ndarray, floor: float) -> None:
        room = len(names.first) + int(np.count_nonzero(self.words.info & UPPER_MASK))
        starts = np.asarray(self.table.form_start)
        candidate_room = room + int((starts[names.form + 1] - starts[names.form]).sum(dtype=np.int64))
        integers = [np.empty(room, np.int64) for _ in range(4)]
        self.spots = Spots._make([*integers[:3], np.zeros(room + 1, np.int64), np.empty(room * MENTION_WIDTH), np.empty(room), integers[3]])
        self.candidates = Candidates(
            np.empty(candidate_room, np.int64), np.empty(candidate_room, np.int64), np.empty(candidate_room * CANDIDATE_WIDTH), np.empty(candidate_room)
        )
        parts = 8 * room + 8
        scratch = Scratch(
            np.full(RECENT_SLOTS, -1, np.int64),
            np.zeros(parts, np.int64),
            np.empty(parts, np.int64),
            np.empty(parts, np.int64),
            np.empty(room, np.int64),
            np.empty(self.table.dimension, np.int64),
        )
        self.spot_bounds = np.zeros(len(self.word_bounds), np.int64)
        arguments = (self.codes, self.table, self.words, self.word_bounds, names, name_bounds, self.spots, self.spot_bounds, self.candidates, scratch)
        self.code.collect_spots(*seen(self.code, *arguments), self.left_context, floor)

    def _choose(self) -> tuple[np.ndarray, np.ndarray]:
        """(spot, first word) of each mention."""
        count = self.spot_bounds[-1]
        longest = np.zeros(0 if self.left_context else len(self.words.start), np.int64)
        chosen, first = np.empty(count, np.int64), np.empty(count, np.int64)
        arguments = seen(self.code, self.words, self.word_bounds, self.spots, self.spot_bounds, self.candidates)
        kept = self.code.choose_spots(*arguments, self.left_context, *seen(self.code, longest, chosen, first))
        return chosen[:kept], first[:kept]

    def mentions(self) -> MentionArrays:
        """What is linked."""
        chosen, first = self._choose()
        bounds = np.searchsorted(chosen, self.spot_bounds)
        offset = np.repeat(self.bounds[:-1], np.diff(bounds))
        entity = self.candidates.entity[self.spots.best[chosen]].astype(np.int32)
        return MentionArrays(bounds, self.words.start[first] - offset, self.ends[chosen] - offset, entity, self.spots.score[chosen].astype(np.float32))

    def spots_of(self, text: str) -> list[Spot]:
        """All spots of the only text, linked or not."""
        chosen, first = self._choose()
        starts = self.words.start[self.spots.first[: self.spot_bounds[-1]]]
        starts[chosen] = self.words.start[first]
        linked = set(chosen.tolist())
        spans = enumerate(zip(starts.tolist(), self.ends.tolist(), strict=True))
        return [Spot(start, end, text[start:end], self._ranked(number), number in linked) for number, (start, end) in spans]

    def span_candidates(self, first: int, last: int) -> tuple[Candidate, ...]:
        """The candidates of the spot from word `first` to `last`, if there is one."""
        count = self.spot_bounds[-1]
        found = np.flatnonzero((self.spots.first[:count] == first) & (self.spots.last[:count] == last))
        if not len(found):
            return ()
        begin, end = self.spots.begin[found[0]], self.spots.begin[found[0] + 1]
        priors = np.exp(self.candidates.features[begin * CANDIDATE_WIDTH : end * CANDIDATE_WIDTH : CANDIDATE_WIDTH]).tolist()
        pairs = zip(self.candidates.entity[begin:end].tolist(), self.candidates.score[begin:end].tolist(), priors, strict=True)
        return tuple(sorted((Candidate(*pair) for pair in pairs), key=lambda candidate: -candidate.score))

    def _ranked(self, number: int) -> tuple[tuple[int, float], ...]:
        part = slice(self.spots.begin[number], self.spots.begin[number + 1])
        entity, score = self.candidates.entity[part], self.candidates.score[part]
        return tuple((int(entity[place]), round(float(score[place]), 4)) for place in np.argsort(-score, kind="stable"))
