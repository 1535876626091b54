"""Find entities in text: longest match of known names, then prior times context decides which entity is meant, if any.

Self-contained with the modules `linking_*_refinedweb` (standard library and numpy; numba, where installed, makes it some hundred times faster with
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

from .linking_features_refinedweb import CANDIDATE_FEATURES, MENTION_FEATURES, Table
from .linking_kernels_refinedweb import kernels, views
from .linking_run_refinedweb import Candidate, MentionArrays, Run, Spot

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
