"""Questions about indexed documents: retrieve, read, answer with a span of a passage, or say that nothing supports an answer.

An answer is always words of a passage that is cited, with their place in the document: the reader can only choose among spans. Two readers:
the language model itself, whose writing is confined to the passages (any exported folder), and the question-answering head of a folder that
was fine-tuned for it (`rwtrain finetune --task squad`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from rwtrain.apps.model import AppModel
from rwtrain.apps.passages import Hit, Passage, PassageIndex, Search
from rwtrain.data.tokenizer import BOS_ID, EOS_ID
from rwtrain.errors import ConfigError, DataError

ANSWER_TOKENS = 16
BEGINNINGS = 8
WORD_START = re.compile(r"\w")


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
    """The language model writes an answer whose every token continues some span of the passage: the most probable beginnings, each at every length.

    A span's score is its mean ln p after "passage, question, answer:" minus the same after "question, answer:" alone, so that words which are
    merely frequent do not win.
    """

    def __init__(self, app: AppModel) -> None:
        self.app = app

    @torch.inference_mode()
    def read(self, question: str, passage: Passage) -> Span:
        """The best span; an empty one with score −∞ for a passage without words."""
        app = self.app
        tail = app.tokenizer.encode(f"\nQuestion: {question}\nAnswer:")[-(app.max_tokens // 2) :]
        reading = app.read(passage.text, link=False, max_tokens=app.max_tokens - len(tail) - ANSWER_TOKENS)
        text_ids, offsets = reading.ids[1:], reading.offsets[1:]
        begins = [place for place, (start, end) in enumerate(offsets) if self._begins_word(reading.text, start, end)]
        if not begins:
            return Span(0, 0, -np.inf)
        informed = self._spans(np.concatenate((reading.ids, tail)), text_ids, begins)
        bare = self._score(np.concatenate(([BOS_ID], tail)), [text_ids[first:last] for first, last, _ in informed])
        best = max(range(len(informed)), key=lambda place: informed[place][2] - bare[place])
        first, last, score = informed[best]
        start, end = offsets[first][0], offsets[last - 1][1]
        words = reading.text[start:end]
        return Span(start + len(words) - len(words.lstrip()), start + len(words.rstrip(" \n,.;:!?")), float(score - bare[best]))

    @staticmethod
    def _begins_word(text: str, start: int, end: int) -> bool:
        found = WORD_START.search(text, start, end)
        return found is not None and (found.start() == 0 or not text[found.start() - 1].isalnum())

    def _spans(self, prompt: np.ndarray, ids: np.ndarray, begins: Sequence[int]) -> list[tuple[int, int, float]]:
        """(first token, end, mean ln p) of the spans of every length from the `BEGINNINGS` most probable first tokens."""
        app, found = self.app, []
        ids_tensor = torch.from_numpy(prompt.astype(np.int64))[None].to(app.device)
        output = app.model(input_ids=ids_tensor, use_cache=True, logits_to_keep=1)
        shares = output.logits[0, -1].float().log_softmax(-1).cpu().numpy()
        spans = sorted(((float(shares[ids[place]]), place, place + 1) for place in begins), reverse=True)[:BEGINNINGS]
        cache = output.past_key_values
        cache.batch_repeat_interleave(len(spans))
        for _ in range(ANSWER_TOKENS - 1):
            found += [(first, last, total / (last - first)) for total, first, last in spans]
            step = torch.tensor([[int(ids[last - 1])] for _, _, last in spans], device=app.device)
            logits = app.model(input_ids=step, past_key_values=cache, use_cache=True).logits[:, -1].float().log_softmax(-1).cpu().numpy()
            spans = [
                (total + float(logits[row, ids[last]]), first, last + 1) if last < len(ids) else (-1e9, first, last)
                for row, (total, first, last) in enumerate(spans)
            ]
        return [span for span in found if span[2] > -1e6]

    def _score(self, prompt: np.ndarray, spans: Sequence[np.ndarray]) -> list[float]:
        """Mean ln p of each span after the prompt."""
        rows = [np.concatenate((prompt, span)).astype(np.int64) for span in spans]
        return [float(values[len(prompt) - 1 :].mean()) for values in self.app.token_log_probabilities(rows)]


class HeadReader:
    """The question-answering head of a fine-tuned folder: begin and end logits over the passage, against those of the begin mark ("no answer")."""

    def __init__(self, app: AppModel, head: Any) -> None:
        self.app, self.head = app, head

    @classmethod
    def open(cls, app: AppModel) -> HeadReader:
        """Load the head of `app`'s folder.

        Raises:
            ConfigError: the folder has no question-answering head.
        """
        from rwtrain.model.tasks_refinedweb import RefinedWebForQuestionAnswering

        try:
            loaded: Any = RefinedWebForQuestionAnswering.from_pretrained(app.folder, dtype=torch.float32, output_loading_info=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(app.folder, f"the question-answering head does not load ({error})", "Fine-tune with `rwtrain finetune --task squad`") from error
        head, info = loaded
        if info["missing_keys"]:
            raise ConfigError(f"{app.folder}: this folder has no question-answering head. Fine-tune one with `rwtrain finetune --task squad`.")
        return cls(app, head.eval().to(app.device))

    @torch.inference_mode()
    def read(self, question: str, passage: Passage) -> Span:
        """The best span; its score is its logits' sum minus that of the begin mark."""
        app = self.app
        asked = np.concatenate(([BOS_ID], app.tokenizer.encode(question)[: app.max_tokens // 2], [EOS_ID]))
        reading = app.read(passage.text, link=False, max_tokens=app.max_tokens - len(asked) + 1)
        ids = torch.from_numpy(np.concatenate((asked, reading.ids[1:])).astype(np.int64))[None].to(app.device)
        output = self.head(input_ids=ids)
        begin, end = (logits[0].float().cpu().numpy() for logits in (output.start_logits, output.end_logits))
        first, last, score = best_span(begin[len(asked) :], end[len(asked) :])
        offsets = reading.offsets[1:]
        if last <= first:
            return Span(0, 0, -np.inf)
        start, stop = offsets[first][0], offsets[last - 1][1]
        words = reading.text[start:stop]
        return Span(start + len(words) - len(words.lstrip()), stop - len(words) + len(words.rstrip()), float(score - begin[0] - end[0]))


def best_span(begin: np.ndarray, end: np.ndarray, *, longest: int = ANSWER_TOKENS) -> tuple[int, int, float]:
    """(first token, one past the last, score) that maximises begin[first] + end[last − 1] over spans of at most `longest` tokens."""
    best = (0, 0, -np.inf)
    for length in range(1, min(longest, len(begin)) + 1):
        sums = begin[: len(begin) - length + 1] + end[length - 1 :]
        first = int(sums.argmax())
        if sums[first] > best[2]:
            best = (first, first + length, float(sums[first]))
    return best


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
    place = Citation(passage.document, passage.title, passage.number, passage.start + span.start, passage.start + span.end, _sentence(passage.text, span))
    return Answer(text, span.score, place, hits, text)


def _sentence(text: str, span: Span) -> str:
    """The sentence around a span."""
    first = max((text.rfind(mark, 0, span.start) for mark in (". ", "? ", "! ", "\n")), default=-1)
    ends = [place for mark in (". ", "? ", "! ", "\n") if (place := text.find(mark, max(span.end - 1, 0))) >= 0]
    return text[first + 1 : min(ends, default=len(text)) + 1].strip()
