"""Find entities in text: longest match of known names, then prior times context decides which entity is meant, if any.

Self-contained with `linking_kernels_refinedweb` (standard library and numpy; numba, where installed, makes it some hundred times faster with
the same results): exported model folders carry copies. A linker is a folder of

    linker.json                    settings, counts and the identity of the entity store it was built from
    linker.safetensors             names -> candidate entities with priors, as a hash table; words about each entity; labels
    entity_vectors.safetensors     [entities, dimension] float32, absent if TransE was not trained

all memory-mapped, so that many processes share one copy.

Left context: with `left_context=True` a mention is decided from the text up to its own end, so a longer text never changes the
mentions that end before the last word of a shorter one. Where a longer name ends later ("New York", then "New York City"), the
mention of the longer one covers the words that the earlier mention had not covered.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .linking_kernels_refinedweb import (
    CANDIDATE_FEATURES,
    CANDIDATE_WIDTH,
    FORM_MASK,
    MAX_WORDS,
    MENTION_FEATURES,
    MENTION_WIDTH,
    RECENT_SLOTS,
    UPPER_MASK,
    Candidates,
    Names,
    Scratch,
    Spots,
    Table,
    Words,
    kernels,
    views,
)

SCHEMA_VERSION = 3
SETTINGS_FILE, TABLE_FILE, VECTORS_FILE = "linker.json", "linker.safetensors", "entity_vectors.safetensors"
COMPILE_AFTER_CHARACTERS = 1_000_000
CHUNK_CHARACTERS = 1 << 18  # texts are linked in chunks of about this size, whose arrays fit into a processor's cache
TABLE_TYPES = {
    "char_info": "int32", "slots": "int64", "first_words": "uint8", "form_start": "int32", "form_info": "int32", "candidate_entity": "int32",
    "candidate_info": "int32",
    "candidate_prior": "float32", "entity_info": "uint8", "about_start": "int64", "about_word": "int32", "about_weight": "uint8", "coherence": "int8",
    "shape_logs": "float64", "label_start": "int64", "label_text": "uint8",
}  # fmt: skip


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


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, memory-mapped.

    Raises:
        ValueError: the file is truncated or not in that format.
    """
    types = {"F32": np.float32, "F64": np.float64, "U8": np.uint8, "I8": np.int8, "I32": np.int32, "U32": np.uint32, "I64": np.int64, "U64": np.uint64}
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
                arrays[name].flags.writeable = False  # as the others are: compiled code is made for one kind
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
        self.settings: dict[str, Any] = description["settings"]
        self.entities: int = description["entities"]
        self._arrays = read_safetensors(folder / TABLE_FILE)
        _check_table(folder / TABLE_FILE, self._arrays, self.entities)
        self._vectors = read_safetensors(folder / VECTORS_FILE)["entity_vectors"] if (folder / VECTORS_FILE).is_file() else None
        self.configure(self.settings)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, compiled: bool | None = None) -> EntityLinker:
        """Open a folder written by `rwtrain kg linker`.

        Args:
            folder: the linker.
            compiled: run code compiled by numba, which must be installed; None does so after a million characters, where numba is installed,
                as compiling takes seconds (the first time; then it is kept). The results are the same.

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
        except (ValueError, KeyError, AttributeError, TypeError) as error:
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

    def configure(self, settings: dict[str, Any]) -> None:
        """Use other weights: `mention` and `candidate` (by name of the feature), `left_context_bias` (added to the mention bias there), `floor` (a
        mention logit that is hopeless), `kind` (of the coherence vector's dimensions: which kinds of entity are mentions; empty if not calibrated).
        """
        self.settings = settings
        mention, candidate = (np.array([settings[kind][name] for name in names], np.float64) for kind, names in _FEATURES)
        left_mention = mention.copy()
        left_mention[0] += settings["left_context_bias"]
        arrays = {name: self._arrays[name] for name in Table._fields if name in self._arrays}
        dimension = len(self._arrays["coherence"]) // max(1, self.entities)
        kinds = np.array(settings["kind"] if dimension == len(settings["kind"]) else [], np.float64)
        tables = [
            Table(**arrays, dimension=dimension, mention_weights=weights, candidate_weights=candidate, kind_weights=kinds)
            for weights in (mention, left_mention)
        ]
        self._tables = {True: tables, False: [views(table) for table in tables]}

    def link(self, text: str, *, left_context: bool = False) -> list[EntityMention]:
        """The linked mentions of a text, in order, not overlapping.

        Args:
            text: any text.
            left_context: decide each mention only from the text up to its own end (for causal reading).
        """
        found = self.run([text], left_context=left_context).mentions()
        columns = (found.start.tolist(), found.end.tolist(), found.entity.tolist(), found.score.tolist())
        return [EntityMention(start, end, entity, round(score, 4), text[start:end]) for start, end, entity, score in zip(*columns, strict=True)]

    def link_batch(self, texts: Sequence[str], *, left_context: bool = False, threads: int = 1) -> MentionArrays:
        """The linked mentions of many texts, as arrays: much faster than `link`, with the same results.

        Args:
            texts: any texts.
            left_context: as for `link`.
            threads: how many chunks of texts to link at the same time; of use where numba is installed.
        """
        chunks = [texts[first:last] for first, last in _chunks(texts)]
        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                parts = list(pool.map(lambda chunk: self.run(chunk, left_context=left_context).mentions(), chunks))
        else:
            parts = [self.run(chunk, left_context=left_context).mentions() for chunk in chunks]
        counts = np.concatenate([np.zeros(1, np.int64), *(np.diff(part.bounds) for part in parts)])
        joined = (np.concatenate([getattr(part, name) for part in parts]) for name in ("start", "end", "entity", "score"))
        return MentionArrays(np.cumsum(counts), *joined)

    def explain(self, text: str, *, left_context: bool = False) -> list[Spot]:
        """Every place where a known name stands, with all candidates and scores; arguments as for `link`."""
        return sorted(self.run([text], left_context=left_context).spots_of(text), key=lambda spot: (spot.start, -spot.end))

    def score_spans(self, text: str, spans: Sequence[tuple[int, int]], *, left_context: bool = False) -> list[tuple[Candidate, ...]]:
        """The candidates of given spans of characters, by descending score, whether or not they are linked.

        A span that is no known name is read as the longest known name inside it ("the United States", "Mr Blair"), of equally long ones the
        last, but rather as one before its first comma ("Lyon, France"); one without any has no candidates.
        """
        run = self.run([text], left_context=left_context, spans=spans)
        return [run.span_candidates(first, last) if last >= first else () for first, last in run.read_as]

    def vectors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """TransE vectors of entities, [rows, dimension] float32.

        Raises:
            ValueError: the linker was built before TransE was trained.
            IndexError: a row is outside the store.
        """
        if self._vectors is None:
            raise ValueError(f"{self.folder}: the linker has no entity vectors. Run `rwtrain kg train`, then `rwtrain kg linker` again.")
        return np.array(self._vectors[np.asarray(rows, np.int64).reshape(-1)])

    def coherence_vectors(self, rows: np.ndarray) -> np.ndarray:
        """The small integer vectors that coherence is measured with, [rows, dimension] int8."""
        return self._arrays["coherence"].reshape(self.entities, -1)[rows]

    def label(self, row: int) -> str:
        """The entity's name."""
        first, last = self._arrays["label_start"][row : row + 2]
        return bytes(self._arrays["label_text"][first:last]).decode("utf-8")

    def run(self, texts: Sequence[str], *, left_context: bool = False, spans: Sequence[tuple[int, int]] = ()) -> Run:
        """The pass over some texts that the other methods are made of; `spans` of the only text are scored in any case."""
        self._characters += sum(map(len, texts))
        if self._compiled is None and self._characters > COMPILE_AFTER_CHARACTERS:
            self._compiled = has_numba()
        code = kernels(compiled=bool(self._compiled))
        return Run(code, self._tables[code.compiled][left_context], texts, float(self.settings["floor"]), left_context=left_context, spans=spans)


_FEATURES = (("mention", MENTION_FEATURES), ("candidate", CANDIDATE_FEATURES))


def has_numba() -> bool:
    """Whether numba can be imported."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


def _check_table(path: Path, arrays: dict[str, np.ndarray], entities: int) -> None:
    """Refuse a table whose arrays are not those of a linker, or whose numbers point outside of it."""
    problem = ""
    for name, dtype in TABLE_TYPES.items():
        if name not in arrays or arrays[name].dtype != dtype or arrays[name].ndim != 1:
            problem = f"{name} is missing or of another type"
            break
    else:
        forms, candidates = arrays["form_start"], len(arrays["candidate_entity"])
        if (
            len(forms) != len(arrays["form_info"]) + 1
            or forms[-1] != candidates
            or not (0 < len(arrays["slots"]) < 1 << 31 and 0 < len(arrays["first_words"]) < 1 << 28)
        ):
            problem = "the table of names does not fit together"
        elif any(len(arrays[name]) != candidates for name in ("candidate_info", "candidate_prior")):
            problem = "the candidates do not fit together"
        elif any(len(arrays[name]) != entities + 1 for name in ("about_start", "label_start")) or len(arrays["entity_info"]) != entities:
            problem = f"it is not about {entities} entities"
        elif arrays["about_start"][-1] != len(arrays["about_word"]) or len(arrays["about_word"]) != len(arrays["about_weight"]):
            problem = "the words about the entities do not fit together"
        elif len(arrays["coherence"]) % max(1, entities):
            problem = "the coherence vectors do not fit the entities"
    if problem:
        raise ValueError(f"{path}: not an entity linker's table ({problem}). Build the linker again with `rwtrain kg linker`.")


def _chunks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Runs of texts of about `CHUNK_CHARACTERS`; one at least, however long."""
    first, characters = 0, 0
    for place, text in enumerate(texts):
        characters += len(text)
        if characters >= CHUNK_CHARACTERS:
            yield first, place + 1
            first, characters = place + 1, 0
    if first < len(texts) or not texts:
        yield first, len(texts)


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
