"""Documents cut into passages, embedded by the model itself and searched exactly; BM25 beside it, alone or fused.

An index is a folder: passages.arrow (text, title, document, start, end), embeddings.npy [passages, C] float32, bm25/ (bm25s' own files, read
without pickles) and manifest.json, which is written last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import bm25s
import numpy as np
import pyarrow as pa

from rwtrain.apps.model import AppModel
from rwtrain.errors import DataError
from rwtrain.files import atomic_folder, write_json
from rwtrain.knowledge.store import load_array

Search = Literal["fused", "dense", "bm25"]
Ranked = tuple[np.ndarray, np.ndarray]  # (numbers, scores), each [queries, depth]
SEARCHES: tuple[Search, ...] = ("fused", "dense", "bm25")
MANIFEST = "manifest.json"
PASSAGE_WORDS = 120
FUSION_RANK = 60
FUSION_DEPTH = 100
DENSE_WEIGHT = 0.05  # BM25 leads, and embeddings find what shares no word with the question; `rwtrain answer tune` learns better
REMEDY = "Make it again with `rwtrain answer index DOCUMENTS --model FOLDER --out INDEX`"
WORD = re.compile(r"\w+")
SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+")


@dataclass(frozen=True)
class Document:
    """One text to be searched."""

    name: str
    text: str
    title: str = ""


@dataclass(frozen=True)
class Passage:
    """A piece of a document: characters `start` to `end` of its text."""

    number: int
    text: str
    title: str
    document: str
    start: int
    end: int


@dataclass(frozen=True)
class Hit:
    """A passage and how well it fits; `score` is the cosine, BM25's score or the fused one, by the kind of search."""

    passage: Passage
    score: float


def read_documents(paths: Sequence[str | Path]) -> Iterator[Document]:
    """Documents of .jsonl files (objects with `text`, and `title` and `id` if known), and of .txt and .md files; folders are searched for them.

    Raises:
        DataError: a file is missing, of another kind, or holds a record without text.
    """
    for path in map(Path, paths):
        if path.is_dir():
            yield from read_documents(sorted(file for file in path.rglob("*") if file.suffix in (".jsonl", ".txt", ".md")))
        elif not path.is_file():
            raise DataError(path, "no such file or folder", "Correct the path")
        elif path.suffix == ".jsonl":
            yield from _read_lines(path)
        elif path.suffix in (".txt", ".md"):
            yield Document(path.name, path.read_text(encoding="utf-8", errors="replace"), path.stem)
        else:
            raise DataError(path, f"{path.suffix or 'a file without ending'} is not read", "Give .jsonl, .txt or .md files, or folders of them")


def _read_lines(path: Path) -> Iterator[Document]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                text = record["text"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(path, f"not a JSON object with a field `text` ({error})", "Correct or remove the line", record=number) from error
            if not isinstance(text, str):
                raise DataError(path, "`text` is no string", "Correct or remove the line", record=number)
            yield Document(str(record.get("id", f"{path.name}:{number}")), text, str(record.get("title", "")))


def cut(document: Document, *, words: int = PASSAGE_WORDS) -> Iterator[tuple[int, int]]:
    """(first character, end) of passages of about `words` words: whole paragraphs where they fit, else whole sentences, else words."""
    start, count, end = 0, 0, 0
    for first, last in _units(document.text, words):
        size = len(WORD.findall(document.text, first, last))
        if count and count + size > words:
            yield start, end
            start, count = first, 0
        elif not count:
            start = first
        count, end = count + size, last
    if count:
        yield start, end


def _units(text: str, words: int) -> Iterator[tuple[int, int]]:
    """Paragraphs; sentences of long paragraphs; runs of words of long sentences."""
    for paragraph in re.finditer(r"\S[^\n]*", text):
        if len(WORD.findall(paragraph[0])) <= words:
            yield paragraph.span()
            continue
        place = paragraph.start()
        for sentence in SENTENCE_END.split(paragraph[0]):
            begin = text.index(sentence, place)
            place = begin + len(sentence)
            found = list(WORD.finditer(text, begin, place))
            for first in range(0, max(1, len(found)), words):
                last = found[first + words].start() if first + words < len(found) else place
                yield (begin if first == 0 else found[first].start()), last


class PassageIndex:
    """Passages and their search structures. Use `build` or `open`; safe to share between threads."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        try:
            self._table = pa.ipc.open_file(pa.memory_map(str(folder / "passages.arrow"))).read_all()
            self.embeddings = load_array(folder / "embeddings.npy", remedy=REMEDY)
            self._bm25 = bm25s.BM25.load(str(folder / "bm25"), load_corpus=False, allow_pickle=False, mmap=True)
        except (OSError, ValueError, pa.ArrowInvalid) as error:
            raise DataError(folder, f"not a readable index ({error})", REMEDY) from error
        if self.embeddings.shape[0] != self._table.num_rows:
            raise DataError(folder, f"{self.embeddings.shape[0]} embeddings for {self._table.num_rows} passages", REMEDY)
        self._dense = _exact_search(self.embeddings)

    @property
    def dense_weight(self) -> float:
        """What the embeddings count in fused search, between 0 and 1; BM25 counts the rest."""
        return float(self.manifest.get("dense_weight", DENSE_WEIGHT))

    def weigh(self, dense_weight: float) -> None:
        """Keep another weight of the embeddings with the index."""
        self.manifest = {**self.manifest, "dense_weight": dense_weight}
        write_json(self.folder / MANIFEST, self.manifest)

    @classmethod
    def build(cls, app: AppModel, documents: Iterable[Document], out: str | Path, *, words: int = PASSAGE_WORDS, progress: bool = False) -> PassageIndex:
        """Cut, embed and index documents; `out` appears when it is whole.

        Raises:
            DataError: there is no text in the documents.
        """
        columns: dict[str, list[Any]] = {name: [] for name in ("text", "title", "document", "start", "end")}
        for document in documents:
            for start, end in cut(document, words=words):
                for name, value in zip(columns, (document.text[start:end], document.title, document.name, start, end), strict=True):
                    columns[name].append(value)
        if not columns["text"]:
            raise DataError(out, "there is no text in the documents", "Give documents with at least one word")
        table = pa.table(columns)
        read = [f"{title}\n{text}" if title else text for title, text in zip(columns["title"], columns["text"], strict=True)]
        with atomic_folder(out) as folder:
            with pa.OSFile(str(folder / "passages.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            np.save(folder / "embeddings.npy", app.embed_texts(read, progress="passages" if progress else None))
            bm25 = bm25s.BM25()
            bm25.index(_words(read), show_progress=False)
            bm25.save(str(folder / "bm25"), allow_pickle=False)
            write_json(folder / MANIFEST, {"passages": table.num_rows, "probe": app.probe, "words": words})
        return cls.open(app, out)

    @classmethod
    def open(cls, app: AppModel, folder: str | Path) -> PassageIndex:
        """Open an index made with the same model.

        Raises:
            DataError: it is missing or damaged, or another model made it.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(folder, f"no finished index here ({error})", REMEDY) from error
        index = cls(folder, manifest)
        if index.embeddings.shape[1] != app.model.config.embedding_dim:
            raise DataError(folder, f"embeddings of width {index.embeddings.shape[1]}, the model has {app.model.config.embedding_dim}", REMEDY)
        app.check_probe(folder, index.manifest.get("probe"), remedy=REMEDY)
        return index

    def __len__(self) -> int:
        return self._table.num_rows

    def passage(self, number: int) -> Passage:
        """One passage by its number."""
        return Passage(number, **{name: self._table.column(name)[number].as_py() for name in self._table.column_names})

    def documents(self) -> dict[str, list[int]]:
        """Numbers of the passages of every document."""
        found: dict[str, list[int]] = {}
        for number, name in enumerate(self._table.column("document").to_pylist()):
            found.setdefault(name, []).append(number)
        return found

    def search(self, app: AppModel, query: str, *, count: int = 5, by: Search = "fused") -> list[Hit]:
        """The `count` passages that fit a query best.

        Args:
            by: "dense" compares embeddings, "bm25" words, "fused" adds 1 / (60 + rank) of both, each times its weight.
        """
        depth = min(len(self), count if by != "fused" else max(count, FUSION_DEPTH))
        if by == "dense":
            return self._hits(*self.dense(app.embed_texts([query]), depth))
        if by == "bm25":
            return self._hits(*self.bm25([query], depth))
        ranked = fuse(self.dense(app.embed_texts([query]), depth), self.bm25([query], depth), dense_weight=self.dense_weight)[0][:count]
        return [Hit(self.passage(number), score) for number, score in ranked]

    def dense(self, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """(numbers, cosines) of the nearest passages, each [Q, depth], for query embeddings [Q, C]."""
        return self._dense(queries, depth)

    def bm25(self, queries: Sequence[str], depth: int) -> tuple[np.ndarray, np.ndarray]:
        """(numbers, scores) of the passages with the best BM25 score, each [Q, depth]; −∞ where no word is shared."""
        tokens = _words(queries)
        numbers, scores = self._bm25.retrieve(tokens, k=depth, show_progress=False)
        return np.asarray(numbers), np.where(scores > 0, scores, -np.inf)

    def _hits(self, numbers: np.ndarray, scores: np.ndarray) -> list[Hit]:
        return [Hit(self.passage(int(number)), float(score)) for number, score in zip(numbers[0], scores[0], strict=True) if score > -np.inf]


def fuse(dense: Ranked, bm25: Ranked, *, dense_weight: float) -> list[list[tuple[int, float]]]:
    """(number, score) of both searches' passages for every query, best first; the score is Σ weight / (60 + rank) (Cormack et al. 2009)."""
    fused = []
    for row in range(len(dense[0])):
        scores: dict[int, float] = {}
        for (numbers, values), weight in ((dense, dense_weight), (bm25, 1 - dense_weight)):
            for rank, number in enumerate(numbers[row][values[row] > -np.inf].tolist(), 1):
                scores[number] = scores.get(number, 0.0) + weight / (FUSION_RANK + rank)
        fused.append(sorted(scores.items(), key=lambda pair: (-pair[1], pair[0])))
    return fused


def _words(texts: Sequence[str]) -> Any:
    """bm25s' tokens: lower-cased words without English stop words."""
    return bm25s.tokenize(list(texts), stopwords="en", show_progress=False, return_ids=False)


def _exact_search(embeddings: np.ndarray) -> Any:
    """A function (queries [Q, C], depth) → (numbers, cosines): faiss' exact index where it is installed, else products in blocks."""
    try:
        import faiss
    except ImportError:
        return lambda queries, depth: nearest(queries, embeddings, depth)
    index = faiss.IndexFlatIP(embeddings.shape[1])
    index.add(np.ascontiguousarray(embeddings, np.float32))

    def search(queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        scores, numbers = index.search(np.ascontiguousarray(queries, np.float32), depth)
        return numbers, scores

    return search


def nearest(queries: np.ndarray, rows: np.ndarray, depth: int, *, block: int = 1 << 17) -> tuple[np.ndarray, np.ndarray]:
    """(numbers, inner products) of the `depth` rows with the largest products, each [Q, depth], best first; `block` rows at a time."""
    scores = np.full((len(queries), 0), -np.inf, np.float32)
    numbers = np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(rows), block):
        found = queries @ rows[start : start + block].T
        best = np.argpartition(-found, depth - 1, axis=1)[:, :depth] if depth < found.shape[1] else np.tile(np.arange(found.shape[1]), (len(queries), 1))
        scores = np.concatenate((scores, np.take_along_axis(found, best, 1)), axis=1)
        numbers = np.concatenate((numbers, best + start), axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
        scores, numbers = np.take_along_axis(scores, order, 1), np.take_along_axis(numbers, order, 1)
    return numbers, scores
