"""Questions about indexed documents: retrieve, read, answer with a span of a passage, or say that nothing supports an answer.

An answer is always words of a passage that is cited, with their place in the document: the reader can only choose among spans. Two readers:
the language model itself, whose writing is confined to the passages (any exported folder), and the question-answering head of a folder that
was fine-tuned for it (`rwtrain finetune --task squad`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from rwtrain.apps.model import AppModel, cache_of
from rwtrain.apps.passages import Hit, Passage, PassageIndex, Search
from rwtrain.data.tokenizer import BOS_ID
from rwtrain.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rwtrain.finetune.predicting import Predictor

ANSWER_TOKENS = 16
BEGINNINGS = 16
SUPPORT = 8.0  # ln p that a sentence with all words of the question is worth before one with none
WORDS = re.compile(r"\w+")
FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been but by did do does for from had has have he her his how i if in into is it its many much no not of on "
        "or she such that the their then there these they this to was we were what when where which who whom whose why will with would you ",
    )
)


@dataclass(frozen=True)
class Citation:
    """Where an answer stands: characters `start` to `end` of the document's text, in passage `passage`."""

    document: str
    title: str
    passage: int
    start: int
    end: int
    sentence: str


@dataclass(frozen=True)
class Answer:
    """An answer, or none.

    Attributes:
        text: the words of the passage; "" for no answer.
        score: how sure the reader is; `threshold` and more is an answer.
        citation: where it stands; None for no answer.
        hits: the passages that were read, best first.
        best: what the reader would have answered without the threshold.
    """

    text: str
    score: float
    citation: Citation | None
    hits: tuple[Hit, ...]
    best: str


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` of a passage's text, with the reader's score."""

    start: int
    end: int
    score: float


class Reader(Protocol):
    """Finds the span of a passage that answers a question."""

    def read(self, question: str, passage: Passage) -> Span: ...


class WritingReader:
    """The language model writes an answer that is a span of the passage, from and to a word of content that the question does not have.

    A span's score is its mean ln p after "passage, question, answer:" minus the same after "question, answer:" alone, so that words which are
    merely frequent do not win, plus what the question's words in its sentence are worth: a small model knows little more than where to look.
    """

    def __init__(self, app: AppModel) -> None:
        self.app = app

    @torch.inference_mode()
    def read(self, question: str, passage: Passage) -> Span:
        """The best span; an empty one with score −∞ for a passage without words to answer with."""
        app = self.app
        tail = app.tokenizer.encode(f"\nQuestion: {question}\nAnswer:")[-(app.max_tokens // 2) :]
        reading = app.read(passage.text, link=False, max_tokens=app.max_tokens - len(tail) - ANSWER_TOKENS)
        ids, offsets, asked = reading.ids[1:], reading.offsets[1:], _content(question)
        words = [match for match in WORDS.finditer(reading.text) if match[0].lower() not in asked | FUNCTION_WORDS]
        if words and words[-1].end() == len(reading.text) < len(passage.text):
            del words[-1]  # the text was cut, perhaps inside this word
        starts, stops = {match.start() for match in words}, {match.end() for match in words}
        begins = np.array([place for place, (start, end) in enumerate(offsets) if not starts.isdisjoint(range(start, end))], np.int64)
        if not len(begins):
            return Span(0, 0, -np.inf)
        support = SUPPORT * np.array([_share(asked, sentence_around(reading.text, *offsets[place])) for place in begins])
        informed, bare = self._prompt(np.concatenate((reading.ids, tail))), self._prompt(np.concatenate(([BOS_ID], tail)))
        order = np.argsort(-(informed.first - bare.first)[ids[begins]] - support, kind="stable")[:BEGINNINGS]
        begins, support = begins[order], support[order]
        rows = np.stack([np.resize(ids[first : first + ANSWER_TOKENS], ANSWER_TOKENS) for first in begins]).astype(np.int64)
        scores = informed.means(app, rows) - bare.means(app, rows) + support[:, None]
        ends = [[offsets[min(first + size, len(offsets) - 1)][1] in stops and first + size < len(offsets) for size in range(ANSWER_TOKENS)] for first in begins]
        scores = np.where(ends, scores, -np.inf)
        row, size = np.unravel_index(int(scores.argmax()), scores.shape)
        start, end = offsets[begins[row]][0], offsets[begins[row] + size][1]
        return Span(min(place for place in starts if place >= start), end, float(scores[row, size]))

    def _prompt(self, ids: np.ndarray) -> _Prompt:
        output = self.app.model(input_ids=torch.from_numpy(ids.astype(np.int64))[None].to(self.app.device), use_cache=True, logits_to_keep=1)
        return _Prompt(cache_of(output), output.logits[0, -1].float().log_softmax(-1).cpu().numpy())


@dataclass
class _Prompt:
    """A prompt that the model has read: its cache, and ln p of what comes first behind it, [V]."""

    cache: Any
    first: np.ndarray

    def means(self, app: AppModel, rows: np.ndarray) -> np.ndarray:
        """Mean ln p of the first 1, 2, … tokens of each row behind the prompt, [rows, S] for rows [rows, S]; once, as the cache grows."""
        self.cache.batch_repeat_interleave(len(rows))
        ids = torch.from_numpy(rows).to(app.device)
        logits = app.model(input_ids=ids[:, :-1], past_key_values=self.cache, use_cache=True).logits.float()
        later = (logits.gather(2, ids[:, 1:, None]).squeeze(2) - logits.logsumexp(2)).cpu().numpy()
        found = np.concatenate((self.first[rows[:, :1]], later), axis=1)
        return found.cumsum(1) / np.arange(1, rows.shape[1] + 1)


def _content(text: str) -> frozenset[str]:
    """Words of a text that mean something, in lower case."""
    return frozenset(word.lower() for word in WORDS.findall(text)) - FUNCTION_WORDS


def _share(asked: frozenset[str], sentence: str) -> float:
    """Share of the question's words that stand in a sentence."""
    return len(asked & _content(sentence)) / max(len(asked), 1)


class HeadReader:
    """The question-answering head of a fine-tuned folder: begin and end logits over the passage, against those of the begin mark ("no answer")."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    @classmethod
    def open(cls, folder: str | Path, *, device: str | None = None) -> HeadReader:
        """Open RUN/export of `rwtrain finetune --task squad`; the embeddings of the search may be another model's.

        Raises:
            ConfigError, DataError: it is no such folder, or it is damaged.
        """
        from rwtrain.finetune.predicting import Predictor

        try:
            reader = cls(Predictor.open(Path(folder), device=device))
            reader.read("?", Passage(0, "?", "", "", 0, 1))
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(folder, f"the question-answering head does not load ({error})", "Fine-tune with `rwtrain finetune --task squad`") from error
        return reader

    def read(self, question: str, passage: Passage) -> Span:
        """The best span, over all windows of a long passage; its score is its logits' sum minus that of the begin mark."""
        from rwtrain.finetune.files import Example

        found = self.predictor.spans([Example("", question, passage.text)])[0]
        words = passage.text[found.start : found.end]
        if not words.strip():
            return Span(0, 0, -np.inf)
        return Span(found.start + len(words) - len(words.lstrip()), found.end - len(words) + len(words.rstrip()), found.score - found.none)


def answer(
    app: AppModel, index: PassageIndex, question: str, *, reader: Reader, count: int = 5, by: Search = "fused", threshold: float = 0.0, read: int = 3
) -> Answer:
    """Answer a question from an index.

    Args:
        reader: what finds the words.
        count: passages retrieved; the first `read` of them are read.
        by: kind of search.
        threshold: a lower score is no answer.

    Raises:
        ConfigError: the question is empty.
    """
    if not question.strip():
        raise ConfigError("The question is empty: ask something.")
    hits = tuple(index.search(app, question, count=count, by=by))
    spans = [(reader.read(question, hit.passage), hit.passage) for hit in hits[:read]]
    if not spans or max(span.score for span, _ in spans) == -np.inf:
        return Answer("", -np.inf, None, hits, "")
    span, passage = max(spans, key=lambda pair: pair[0].score)
    text = passage.text[span.start : span.end]
    if span.score < threshold:
        return Answer("", span.score, None, hits, text)
    place = Citation(
        passage.document,
        passage.title,
        passage.number,
        passage.start + span.start,
        passage.start + span.end,
        sentence_around(passage.text, span.start, span.end),
    )
    return Answer(text, span.score, place, hits, text)


def sentence_around(text: str, start: int, end: int) -> str:
    """The sentence around characters `start` to `end`."""
    first = max((text.rfind(mark, 0, start) for mark in (". ", "? ", "! ", "\n")), default=-1)
    ends = [place for mark in (". ", "? ", "! ", "\n") if (place := text.find(mark, max(end - 1, 0))) >= 0]
    return text[first + 1 : min(ends, default=len(text)) + 1].strip()
