"""Find entities in text: longest match of known names, then prior times context decides which entity is meant, if any.

Self-contained (standard library and numpy; numba, where installed, makes long work faster with the same results): exported model
folders carry a copy of this file. A linker is a folder of

    linker.json                    settings, counts and the identity of the entity store it was built from
    linker.safetensors             names -> candidate entities with priors, as a hash table; words about each entity; labels
    entity_vectors.safetensors     [entities, dimension] float32, absent if TransE was not trained

all memory-mapped, so that many processes share one copy. Texts are handled as arrays: a word is a run of letters and digits, or one
character of a script written without spaces; the hash of a name is the hash of its words' hashes.

Left context: with `left_context=True` a mention is decided from the text up to its own end, so a longer text never changes the
mentions that end before the last word of a shorter one. Where a longer name ends later ("New York", then "New York City"), the
mention of the longer one covers the words that the earlier mention had not covered.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

SCHEMA_VERSION = 1
SETTINGS_FILE, TABLE_FILE, VECTORS_FILE = "linker.json", "linker.safetensors", "entity_vectors.safetensors"

# Kinds of characters, the low three bits of `char_flags`; then two flags.
BREAK, LETTER, UNSPACED, SOFT, KATAKANA = 0, 1, 2, 3, 4
KIND_BITS, UPPER_FLAG, CASED_FLAG = 7, 8, 16
TABLE_CHARACTERS = 0x20000  # beyond: two entries, for ideographs and for everything else
IDEOGRAPHS_END = 0x32000

COMPILE_AFTER_CHARACTERS = 4_000_000
MAX_WORDS = 24
MAX_HASHED_CHARACTERS = 40
MAX_JOIN_CHARACTERS = 3
LONGEST_ABBREVIATION = 4  # "Gov. Smith" is one name, "the river. Smith" is not

# How a name is written, `candidate_shape`.
LOWER, CAPITALISED, ALL_CAPITALS, UNCASED = 0, 1, 2, 3
# Weight of a candidate by how its name is written (row) and how the text writes it (column), for names of one word, of several.
SHAPE_WEIGHTS = np.array(
    [
        [[1.0, 0.4, 0.3, 1.0], [0.02, 1.0, 0.5, 1.0], [0.005, 0.05, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]],
        [[1.0, 0.8, 0.6, 1.0], [0.3, 1.0, 0.8, 1.0], [0.1, 0.5, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]],
    ],
    np.float32,
)

ALIAS, LABEL, LAST_NAME = 0, 1, 2  # `candidate_kind`; a last name alone is a mention only near the full name
NEVER = -30.0  # logit

CONTINUES = np.uint32(1 << 31)  # in `slot_form`: longer names begin with these words
FORM_MASK = np.uint32((1 << 31) - 1)
FNV_OFFSET, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
PERIOD, SPACE = ord("."), ord(" ")
MIX_A, MIX_B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)


@dataclass(frozen=True, slots=True)
class EntityMention:
    """A linked mention.

    Attributes:
        start: first character.
        end: one past the last character.
        entity: row in the entity store.
        score: 0 to 1; how sure the linker is that this entity is meant.
        surface: the text of the mention.
    """

    start: int
    end: int
    entity: int
    score: float
    surface: str


@dataclass(frozen=True, slots=True)
class Spot:
    """A place where a known name stands, linked or not: for looking at the linker's reasons.

    Attributes:
        start, end, surface: as in `EntityMention`.
        candidates: (entity row, score) by descending score.
        linked: whether the first candidate's score reached the threshold and no other mention took the place.
    """

    start: int
    end: int
    surface: str
    candidates: tuple[tuple[int, float], ...]
    linked: bool


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a text: character spans [words], 64-bit hashes, how each is written, and whether it can join the next one in a name."""

    codes: np.ndarray
    start: np.ndarray
    end: np.ndarray
    hash: np.ndarray
    upper: np.ndarray
    cased: np.ndarray
    joins: np.ndarray


def mix(value: Any) -> Any:
    """Spread the bits of 64-bit hashes."""
    value = (value ^ (value >> np.uint64(32))) * MIX_B
    return value ^ (value >> np.uint64(29))


def combine(phrase: np.ndarray, word: np.ndarray) -> np.ndarray:
    """The hash of a phrase extended by one word; never 0."""
    return np.maximum(mix(phrase * MIX_A + word), np.uint64(1))


def read_words(text: str, *, char_flags: np.ndarray, char_fold: np.ndarray) -> Words:
    """Split a text into words and hash them.

    Args:
        text: any text.
        char_flags: kind and flags of each character, [0x20002] uint8.
        char_fold: the character without case and accent, 0 for marks to ignore, [0x20002] uint32.
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    index = np.minimum(codes, TABLE_CHARACTERS)
    if codes.size and codes.max() >= TABLE_CHARACTERS:
        index = np.where(codes < IDEOGRAPHS_END, index, TABLE_CHARACTERS + 1)
    flags = char_flags[index]
    kind = flags & KIND_BITS
    inside = (kind == LETTER) | (kind == UNSPACED) | (kind == KATAKANA)
    changes = np.ones(len(codes) + 1, bool)
    changes[1:-1] = (kind[1:] != kind[:-1]) | (kind[1:] == UNSPACED)
    start = np.flatnonzero(inside & changes[:-1])
    end = np.flatnonzero(inside & changes[1:]) + 1
    folded = np.where(index < TABLE_CHARACTERS, char_fold[index], codes).astype(np.uint64)
    sums = np.zeros((3, len(codes) + 1), np.int64)
    np.cumsum(np.stack([kind == SOFT, (flags & UPPER_FLAG) != 0, (flags & CASED_FLAG) != 0]), axis=1, out=sums[:, 1:])
    soft, upper, cased = sums
    gap = start[1:] - end[:-1]
    joins = np.zeros(len(start), bool)
    joins[:-1] = (soft[start[1:]] - soft[end[:-1]] == gap) & (gap <= MAX_JOIN_CHARACTERS)
    if len(start) > 1:
        abbreviation = (end[:-1] - start[:-1] <= LONGEST_ABBREVIATION) & (upper[end[:-1]] > upper[start[:-1]])
        sentence_end = (codes[end[:-1]] == ord(".")) & (gap > 1) & ~abbreviation
        joins[:-1] &= ~sentence_end
    return Words(codes, start, end, _word_hashes(folded, start, end), upper[end] - upper[start], cased[end] - cased[start], joins)


def _word_hashes(folded: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """FNV-1a over the first 40 characters of each word."""
    hashes = np.full(len(start), FNV_OFFSET)
    length = np.minimum(end - start, MAX_HASHED_CHARACTERS)
    active = np.arange(len(start))
    place = 0
    while active.size:
        code = folded[start[active] + place]
        hashes[active] = np.where(code == 0, hashes[active], (hashes[active] ^ code) * FNV_PRIME)
        place += 1
        active = active[length[active] > place]
    return mix(hashes)


def shape_of(upper: np.ndarray, cased: np.ndarray) -> np.ndarray:
    """How names are written, from their counts of capitals and of letters that have case."""
    shape = np.where(upper == 0, LOWER, np.where((upper == cased) & (cased > 1), ALL_CAPITALS, CAPITALISED))
    return np.where(cased == 0, UNCASED, shape)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, memory-mapped.

    Raises:
        ValueError: the file is truncated or not in that format.
    """
    types = {"F32": np.float32, "F16": np.float16, "U8": np.uint8, "I32": np.int32, "U32": np.uint32, "I64": np.int64, "U64": np.uint64}
    size = path.stat().st_size
    try:
        with open(path, "rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            if header_bytes > min(size, 100 << 20):
                raise ValueError("its header is longer than the file")
            header = json.loads(stream.read(header_bytes))
        header.pop("__metadata__", None)
        base = 8 + header_bytes
        arrays = {}
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            dtype = np.dtype(types[entry["dtype"]])
            if base + last > size or last - first != int(np.prod(entry["shape"], dtype=np.int64)) * dtype.itemsize:
                raise ValueError(f"{name} does not fit into the file")
            if first == last:
                arrays[name] = np.zeros(entry["shape"], dtype)
            else:
                arrays[name] = np.memmap(path, dtype, "r", base + first, tuple(entry["shape"])).view(np.ndarray)
        return arrays
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}). It is truncated or corrupt: copy it again.") from error


class EntityLinker:
    """Links text to the entities of one store. Use `EntityLinker.open`; safe to share between threads.

    Attributes:
        store_hash: identity of the entity store whose rows `entity` means.
        settings: weights and thresholds, as in linker.json.
    """

    def __init__(self, folder: Path, description: dict[str, Any], *, compiled: bool | None = None) -> None:
        self.folder = folder
        self._compiled, self._characters = compiled, 0
        self.store_hash: str = description["store_hash"]
        self.settings: dict[str, float] = description["settings"]
        self.entities: int = description["entities"]
        self._table = read_safetensors(folder / TABLE_FILE)
        self._vectors: np.ndarray | None = None
        self._mean_D: np.ndarray | None = None
        if (folder / VECTORS_FILE).is_file():
            arrays = read_safetensors(folder / VECTORS_FILE)
            self._vectors, self._mean_D = arrays["entity_vectors"], arrays["mean"]

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, compiled: bool | None = None) -> EntityLinker:
        """Open a folder written by `rwtrain kg linker`.

        Args:
            folder: the linker.
            compiled: find names with code compiled by numba, where it is installed; None begins to after four million characters, as
                compiling takes seconds. The results are the same.

        Raises:
            FileNotFoundError: the folder or one of its files is missing.
            ValueError: a file is truncated, corrupt, or of another version.
        """
        path = Path(folder) / SETTINGS_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{folder}: no entity linker here ({SETTINGS_FILE} is missing). Build one with `rwtrain kg linker STORE --out FOLDER`.")
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
            version, files = description["schema_version"], description["files"].items()
        except (ValueError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}: not an entity linker's settings ({error}). Build the linker again with `rwtrain kg linker`.") from error
        if version != SCHEMA_VERSION:
            raise ValueError(f"{path}: version {version}, this code reads {SCHEMA_VERSION}. Build the linker again with `rwtrain kg linker`.")
        for name, size in files:
            file = Path(folder) / Path(name).name
            if not file.is_file():
                raise FileNotFoundError(f"{file}: the file is missing. Copy the linker's folder again.")
            if file.stat().st_size != size:
                raise ValueError(f"{file}: {file.stat().st_size} bytes, expected {size}. It is truncated or was changed: copy the linker's folder again.")
        return cls(Path(folder), description, compiled=compiled)

    def link(self, text: str, *, left_context: bool = False) -> list[EntityMention]:
        """The linked mentions of a text, in order, not overlapping.

        Args:
            text: any text.
            left_context: decide each mention only from the text up to its own end (for causal reading).
        """
        spots, chosen = self._decide(text, left_context=left_context)
        return [EntityMention(start, end, int(spots.entity[best]), round(float(spots.score[best]), 4), text[start:end]) for _, start, end, best in chosen]

    def explain(self, text: str, *, left_context: bool = False) -> list[Spot]:
        """Every place where a known name stands, with all candidates and scores; arguments as for `link`."""
        spots, chosen = self._decide(text, left_context=left_context)
        links = {number: (start, end) for number, start, end, _ in chosen}
        found = []
        for number in range(len(spots.first)):
            part = slice(spots.begin[number], spots.begin[number + 1])
            order = np.argsort(-spots.score[part], kind="stable") + spots.begin[number]
            start, end = links.get(number, (int(spots.char_start[number]), int(spots.char_end[number])))
            candidates = tuple((int(spots.entity[place]), round(float(spots.score[place]), 4)) for place in order)
            found.append(Spot(start, end, text[start:end], candidates, number in links))
        return sorted(found, key=lambda spot: (spot.start, -spot.end))

    def vectors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """TransE vectors of entities, [rows, dimension] float32.

        Raises:
            ValueError: the linker was built before TransE was trained.
            IndexError: a row is outside the store.
        """
        if self._vectors is None:
            raise ValueError(f"{self.folder}: the linker has no entity vectors. Run `rwtrain kg train`, then `rwtrain kg linker` again.")
        return np.array(self._vectors[np.asarray(rows, np.int64).reshape(-1)])

    def label(self, row: int) -> str:
        """The entity's name."""
        first, last = self._table["label_start"][row : row + 2]
        return bytes(self._table["label_text"][first:last]).decode("utf-8")

    def _decide(self, text: str, *, left_context: bool) -> tuple[_Spots, list[tuple[int, int, int, int]]]:
        self._characters += len(text)
        compiled = self._characters > COMPILE_AFTER_CHARACTERS if self._compiled is None else self._compiled
        words, names = spot_names(text, self._table, compiled=compiled)
        spots = _Spots(self._table, text, words, names, left_context=left_context)
        spots.score_candidates(self._table, words, self.settings, self._vectors, self._mean_D)
        threshold = self.settings["threshold"]
        return spots, spots.choose_left_to_right(words, threshold) if left_context else spots.choose_longest(threshold)


class _Spots:
    """All matches of known names in a text, flat: match m has the candidates begin[m] to begin[m + 1]."""

    def __init__(self, table: dict[str, np.ndarray], text: str, words: Words, names: tuple[np.ndarray, np.ndarray, np.ndarray], *, left_context: bool) -> None:
        self.left_context = left_context
        first, length, form = names
        last = first + length - 1
        # Order by end, then longest first: whatever follows sees the past before the future.
        order = np.lexsort((first, last))
        first, last, form = first[order], last[order], form[order]
        keep = ~self._inside_identifier(words, first, last)
        self.first, self.last, form = first[keep], last[keep], form[keep]
        self.char_start, self.char_end = words.start[self.first], words.end[self.last]
        self._take_final_period(words, table["form_period"][form])
        starts = table["form_start"]
        counts = starts[form + 1].astype(np.int64) - starts[form]
        self.begin = np.concatenate([[0], np.cumsum(counts)])
        self.owner = np.repeat(np.arange(len(form)), counts)
        place = np.arange(self.begin[-1]) - np.repeat(self.begin[:-1], counts) + np.repeat(starts[form].astype(np.int64), counts)
        self.entity = table["candidate_entity"][place]
        self.prior = table["candidate_prior"][place]
        self.candidate_shape = table["candidate_shape"][place]
        self.kind = table["candidate_kind"][place]
        self.candidate_exact = table["candidate_exact"][place]
        self.common = table["form_common"][form]
        surfaces = [text[start:end] for start, end in zip(self.char_start, self.char_end, strict=True)]
        self.exact = np.array([zlib.crc32(surface.encode("utf-8", "surrogatepass")) for surface in surfaces], np.uint32)
        upper, cased = np.concatenate([[0], np.cumsum(words.upper)]), np.concatenate([[0], np.cumsum(words.cased)])
        self.cased = cased[self.last + 1] - cased[self.first]
        self.shape = shape_of(upper[self.last + 1] - upper[self.first], self.cased)
        opens = opens_sentence(words)
        self.opens_sentence = opens[self.first]
        self.beside_capital = self._beside_capital(words, opens)
        self.score = np.zeros(len(self.entity), np.float32)

    def _beside_capital(self, words: Words, opens: np.ndarray) -> np.ndarray:
        """Matches that may be part of a longer, unknown name ("Paul" in "Paul Newton"): a capitalised word stands before (or after)."""
        capital = np.append(words.upper > 0, False)
        spaced = np.zeros(len(capital), bool)  # one space, and nothing else, up to the next word
        spaced[:-2] = (words.start[1:] - words.end[:-1] == 1) & (words.codes[words.end[:-1]] == SPACE)
        before = self.first - 1
        beside = capital[before] & (spaced & np.append(~opens, False))[before]
        if not self.left_context:
            beside |= capital[self.last + 1] & spaced[self.last]
        return beside

    def _inside_identifier(self, words: Words, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Matches inside addresses, file names and the like ("www.example.com"): glued to the word before (or after) by one of . @ / #."""
        glue = np.isin(words.codes, np.array([ord(sign) for sign in ".@/#"], np.uint32))
        before = np.zeros(len(words.start), bool)
        if len(words.start):
            before[1:] = (words.start[1:] - words.end[:-1] == 1) & glue[np.maximum(words.start[1:] - 1, 0)]
        inside = before[first]
        if not self.left_context and len(words.start):
            inside |= np.append(before[1:], False)[last]
        return inside

    def _take_final_period(self, words: Words, written_with_period: np.ndarray) -> None:
        """ "U.S" and "Inc" take the period that follows them, if a name is written so."""
        following = np.append(words.codes, np.uint32(0))[self.char_end]
        self.char_end = self.char_end + ((written_with_period != 0) & (following == ord(".")))

    def score_candidates(
        self, table: dict[str, np.ndarray], words: Words, settings: dict[str, float], vectors: np.ndarray | None, mean_D: np.ndarray | None
    ) -> None:
        """Fill `score`: probability that the name is a mention at all, times the candidate's share among the candidates."""
        if not len(self.entity):
            return
        several = (self.last > self.first).astype(np.int64)
        compatible = SHAPE_WEIGHTS[several[self.owner], self.candidate_shape, self.shape[self.owner]]
        exact = self.candidate_exact == self.exact[self.owner]
        last_name = self.kind == LAST_NAME
        logit = settings["prior"] * np.log(self.prior) + np.log(compatible) + settings["exact"] * exact + NEVER * last_name
        mention = self._mention_logit(table, compatible, exact, settings) + NEVER * np.logical_and.reduceat(last_name, self.begin[:-1])
        named = self._named_in_full(self._share(logit) * _sigmoid(mention)[self.owner], settings["threshold"])
        logit = logit + (settings["named"] - NEVER * last_name) * named
        mention = mention + (settings["mention_named"] - NEVER * np.logical_and.reduceat(last_name, self.begin[:-1])) * np.logical_or.reduceat(
            named, self.begin[:-1]
        )
        keep = mention > settings["mention_floor"]
        inside = keep[self.owner]
        self._keep(keep, inside)
        logit, mention = logit[inside], mention[keep]
        if not len(self.entity):
            return
        context = settings["overlap"] * self._word_overlap(table, words, int(settings["window_words"]))
        if vectors is not None and mean_D is not None:
            likely = self._share(logit) * _sigmoid(mention)[self.owner]
            context = context + settings["coherence"] * self._coherence(vectors, mean_D, likely, int(settings["window_mentions"]))
        share = self._share(logit + context)
        best_context = np.maximum.reduceat(context, self.begin[:-1])
        self.score = share * _sigmoid(mention + settings["mention_context"] * best_context)[self.owner]

    def _keep(self, matches: np.ndarray, candidates: np.ndarray) -> None:
        """Forget matches that no context could make a mention; most everyday words are some entity's name."""
        for name in ("first", "last", "char_start", "char_end"):
            setattr(self, name, getattr(self, name)[matches])
        counts = np.diff(self.begin)[matches]
        self.entity, self.begin = self.entity[candidates], np.concatenate([[0], np.cumsum(counts)])
        self.owner = np.repeat(np.arange(len(counts)), counts)
        self.score = np.zeros(len(self.entity), np.float32)

    def _named_in_full(self, likely: np.ndarray, threshold: float) -> np.ndarray:
        """Which candidates of one-word matches were named by several words before (with both sides read: anywhere), [candidates] bool."""
        several = self.last > self.first
        found = several[self.owner] & (likely >= threshold)
        entity, last = self.entity[found], self.last[self.owner[found]]
        order = np.lexsort((last, entity))
        entity, last = np.append(entity[order], np.iinfo(np.int32).max), np.append(last[order], np.iinfo(np.int64).max)
        place = np.searchsorted(entity[:-1], self.entity)
        there = entity[place] == self.entity
        if self.left_context:
            there &= last[place] < self.first[self.owner]
        return there & ~several[self.owner]

    def _share(self, logit: np.ndarray) -> np.ndarray:
        """Softmax over each match's candidates."""
        weight = np.exp(logit - np.maximum.reduceat(logit, self.begin[:-1])[self.owner])
        return weight / np.add.reduceat(weight, self.begin[:-1])[self.owner]

    def _mention_logit(self, table: dict[str, np.ndarray], compatible: np.ndarray, exact: np.ndarray, settings: dict[str, float]) -> np.ndarray:
        """How likely each match is a mention of any known entity, before its context is seen; [matches]."""

        def best(values: np.ndarray) -> np.ndarray:
            return np.maximum.reduceat(np.asarray(values, np.float32), self.begin[:-1])

        several = self.last > self.first
        length = np.minimum(self.char_end - self.char_start, 12)
        acronym = (self.shape == ALL_CAPITALS) & best(exact).astype(bool)
        return (
            settings["mention_bias"]
            + settings["mention_shape"] * np.log(best(compatible))
            + settings["mention_exact"] * best(exact)
            + settings["mention_label"] * best(self.kind == LABEL)
            + settings["mention_popularity"] * best(table["popularity"][self.entity])
            + settings["mention_several_words"] * several
            + settings["mention_length"] * (length - 6)
            + settings["mention_lower"] * (self.shape == LOWER)
            + settings["mention_acronym"] * acronym
            + settings["mention_common"] * (self.common * ~acronym)
            + settings["mention_beside_capital"] * (self.beside_capital & (self.shape == CAPITALISED))
            + settings["mention_opens_sentence"] * (self.opens_sentence & ~several & (self.shape == CAPITALISED))
        )

    def _word_overlap(self, table: dict[str, np.ndarray], words: Words, window: int) -> np.ndarray:
        """Weight of the words about each candidate that stand near the mention, [candidates]."""
        starts = table["about_start"]
        counts = starts[self.entity + 1].astype(np.int64) - starts[self.entity]
        begin = np.concatenate([[0], np.cumsum(counts)])
        place = np.arange(begin[-1]) - np.repeat(begin[:-1], counts) + np.repeat(starts[self.entity].astype(np.int64), counts)
        owner = np.repeat(np.arange(len(self.entity)), counts)
        wanted = table["about_word"][place]
        short = words.hash.astype(np.uint32)
        order = np.argsort(short, kind="stable").astype(np.int64)
        ordered = short[order].astype(np.int64)
        total = len(short) + 1
        keys = ordered * total + order  # every occurrence of a word, by word, then by place
        spot = self.owner[owner]

        def occurs(low: np.ndarray, high: np.ndarray) -> np.ndarray:
            wanted_key = wanted.astype(np.int64) * total
            found = np.searchsorted(keys, wanted_key + low)
            return np.append(keys, np.iinfo(np.int64).max)[found] < wanted_key + high

        first, last = self.first[spot], self.last[spot]
        near = occurs(np.maximum(first - window, 0), first)
        if not self.left_context:
            near |= occurs(last + 1, np.minimum(last + 1 + window, total - 1))
        return np.bincount(owner, near * table["about_weight"][place].astype(np.float64), minlength=len(self.entity)).astype(np.float32)

    def _coherence(self, vectors: np.ndarray, mean_D: np.ndarray, weight: np.ndarray, window: int) -> np.ndarray:
        """Cosine of each candidate's vector with the sum of the vectors meant by the neighbouring mentions, [candidates]."""
        unit_CD = vectors[self.entity] - mean_D
        unit_CD /= np.maximum(np.sqrt(np.einsum("cd,cd->c", unit_CD, unit_CD)), 1e-12)[:, None]
        # The likeliest candidate of each match stands for it; of matches with the same end only the longest counts.
        order = np.lexsort((-weight, self.owner))
        top = order[self.begin[:-1]]
        longest = np.append(True, self.last[1:] != self.last[:-1])
        stands_MD = unit_CD[top] * (weight[top] * longest)[:, None]
        sums = np.concatenate([np.zeros((1, stands_MD.shape[1]), stands_MD.dtype), np.cumsum(stands_MD, axis=0)])
        past = np.searchsorted(self.last, self.first)  # matches that end before this one begins
        context_MD = sums[past] - sums[np.maximum(past - window, 0)]
        if not self.left_context:
            by_first = np.argsort(self.first, kind="stable")
            later = np.concatenate([np.zeros((1, stands_MD.shape[1]), stands_MD.dtype), np.cumsum(stands_MD[by_first], axis=0)])
            future = np.searchsorted(self.first[by_first], self.last, side="right")
            context_MD = context_MD + later[np.minimum(future + window, len(by_first))] - later[future]
        size = np.sqrt(np.einsum("md,md->m", context_MD, context_MD))
        context_MD = context_MD / (size + 0.25)[:, None]  # little context counts little
        return np.einsum("cd,cd->c", unit_CD, context_MD[self.owner])

    def _best(self) -> np.ndarray:
        """The candidate with the highest score of each match."""
        return np.lexsort((-self.score, self.owner))[self.begin[:-1]]

    def choose_longest(self, threshold: float) -> list[tuple[int, int, int, int]]:
        """Leftmost, then longest; a name that is no mention gives way to a shorter one. (match, start, end, candidate) each."""
        best = self._best() if len(self.entity) else np.zeros(0, np.int64)
        chosen: list[tuple[int, int, int, int]] = []
        free = 0
        for number in np.lexsort((-self.last, self.first)):
            if self.first[number] >= free and self.score[best[number]] >= threshold:
                chosen.append((int(number), int(self.char_start[number]), int(self.char_end[number]), int(best[number])))
                free = self.last[number] + 1
        return chosen

    def choose_left_to_right(self, words: Words, threshold: float) -> list[tuple[int, int, int, int]]:
        """At every word, the longest name that ends there and is a mention; its span begins after the mention before. As `choose_longest`."""
        best = self._best() if len(self.entity) else np.zeros(0, np.int64)
        chosen: list[tuple[int, int, int, int]] = []
        free = 0
        for number in range(len(self.first)):  # ordered by end, longest first
            if self.last[number] >= free and self.score[best[number]] >= threshold:
                start = int(words.start[max(self.first[number], free)])
                chosen.append((number, start, int(self.char_end[number]), int(best[number])))
                free = self.last[number] + 1
        return chosen


def _sigmoid(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-value))


def opens_sentence(words: Words) -> np.ndarray:
    """Whether each word is the first of a sentence or line, judged from the signs between it and the word before; [words] bool."""
    opens = np.ones(len(words.start), bool)
    ends = np.concatenate([[0], np.cumsum(np.isin(words.codes, np.array([ord(sign) for sign in '.!?\n:;"“”•|'], np.uint32)))])
    opens[1:] = ends[words.start[1:]] > ends[words.end[:-1]]
    return opens


def find_names(words: Words, slot_key: np.ndarray, slot_form: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every run of words that is a known name: (first word, number of words, name), [matches] each.

    All places are looked up at once: first every word, then every pair that begins like a longer name, and so on.
    """
    firsts, lengths, forms = [], [], []
    active = np.arange(len(words.start))
    phrase = np.zeros(len(active), np.uint64)
    for length in range(1, MAX_WORDS + 1):
        phrase = combine(phrase, words.hash[active + length - 1])
        value = look_up(phrase, slot_key, slot_form)
        form = value & FORM_MASK
        found = form != 0
        firsts.append(active[found])
        lengths.append(np.full(int(found.sum()), length))
        forms.append(form[found].astype(np.int64) - 1)
        last = active + length - 1
        goes_on = ((value & CONTINUES) != 0) & words.joins[last]
        active, phrase = active[goes_on], phrase[goes_on]
        if not active.size:
            break
    return np.concatenate(firsts), np.concatenate(lengths), np.concatenate(forms)


def look_up(phrase: np.ndarray, slot_key: np.ndarray, slot_form: np.ndarray) -> np.ndarray:
    """The table's value for each phrase hash, 0 where it is absent; linear probing in a table of 2^k slots."""
    mask = np.uint64(len(slot_key) - 1)
    value = np.zeros(len(phrase), np.uint32)
    active = np.arange(len(phrase))
    slot = phrase & mask
    while active.size:
        key = slot_key[slot]
        found = key == phrase[active]
        value[active[found]] = slot_form[slot[found]]
        goes_on = (key != 0) & ~found
        active, slot = active[goes_on], (slot[goes_on] + np.uint64(1)) & mask
    return value


def spot_names(text: str, table: dict[str, np.ndarray], *, compiled: bool) -> tuple[Words, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """`read_words` and `find_names`, by numba if `compiled` and installed."""
    kernels = _kernels() if compiled else None
    if kernels is None:
        words = read_words(text, char_flags=table["char_flags"], char_fold=table["char_fold"])
        return words, find_names(words, table["slot_key"], table["slot_form"])
    scan, search = kernels
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    words = Words(codes, *scan(codes, table["char_flags"], table["char_fold"]))
    return words, search(words.hash, words.joins, table["slot_key"], table["slot_form"])


@lru_cache(maxsize=1)
def _kernels() -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """`scan_words` and `search_names`, compiled; None where numba is not installed."""
    try:
        import numba
    except ImportError:
        return None
    compile_function = numba.njit(nogil=True)
    mix_one = compile_function(mix)

    @compile_function
    def combine_one(phrase: np.uint64, word: np.uint64) -> np.uint64:
        return max(mix_one(phrase * MIX_A + word), np.uint64(1))

    def scan_words(codes: np.ndarray, char_flags: np.ndarray, char_fold: np.ndarray) -> tuple[np.ndarray, ...]:
        """The fields of `Words` after `codes`, one character at a time."""
        size = len(codes)
        start, end, hashes = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size, np.uint64)
        upper, cased, joins = np.zeros(size, np.int64), np.zeros(size, np.int64), np.zeros(size, np.bool_)
        count, open_kind, all_soft = 0, BREAK, True
        value = FNV_OFFSET
        for place in range(size + 1):
            kind, index, flags = BREAK, 0, 0
            if place < size:
                code = codes[place]
                index = code if code < TABLE_CHARACTERS else TABLE_CHARACTERS + (code >= IDEOGRAPHS_END)
                flags = char_flags[index]
                kind = flags & KIND_BITS
            if open_kind != BREAK and (kind != open_kind or kind == UNSPACED):
                end[count], hashes[count] = place, mix_one(value)
                count, open_kind, all_soft = count + 1, BREAK, True
            if place == size:
                break
            if kind != LETTER and kind != UNSPACED and kind != KATAKANA:
                all_soft = all_soft and kind == SOFT
                continue
            if open_kind == BREAK:
                start[count], open_kind, value = place, kind, FNV_OFFSET
                if count:
                    before = count - 1
                    gap = place - end[before]
                    abbreviation = end[before] - start[before] <= LONGEST_ABBREVIATION and upper[before] > 0
                    sentence_end = gap > 1 and codes[end[before]] == PERIOD and not abbreviation
                    joins[before] = all_soft and gap <= MAX_JOIN_CHARACTERS and not sentence_end
            upper[count] += (flags & UPPER_FLAG) != 0
            cased[count] += (flags & CASED_FLAG) != 0
            if place - start[count] < MAX_HASHED_CHARACTERS:
                folded = np.uint64(char_fold[index]) if index < TABLE_CHARACTERS else np.uint64(codes[place])
                if folded != 0:
                    value = (value ^ folded) * FNV_PRIME
        return start[:count], end[:count], hashes[:count], upper[:count], cased[:count], joins[:count]

    def search_names(hashes: np.ndarray, joins: np.ndarray, slot_key: np.ndarray, slot_form: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `find_names`, one word at a time."""
        room = len(hashes) + 16
        first, length, form = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.int64)
        mask = np.uint64(len(slot_key) - 1)
        count = 0
        for word in range(len(hashes)):
            phrase = np.uint64(0)
            for words in range(1, MAX_WORDS + 1):
                phrase = combine_one(phrase, hashes[word + words - 1])
                slot = phrase & mask
                while slot_key[slot] != 0 and slot_key[slot] != phrase:
                    slot = (slot + np.uint64(1)) & mask
                if slot_key[slot] == 0:
                    break
                found = slot_form[slot]
                if found & FORM_MASK:
                    if count == room:
                        first, length, form = np.append(first, first), np.append(length, length), np.append(form, form)
                        room *= 2
                    first[count], length[count], form[count] = word, words, np.int64(found & FORM_MASK) - 1
                    count += 1
                if not (found & CONTINUES and joins[word + words - 1]):
                    break
        return first[:count], length[:count], form[:count]

    return compile_function(scan_words), compile_function(search_names)
