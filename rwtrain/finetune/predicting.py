"""Predictions of a fine-tuned folder for a file, and the official figures beside a majority and a bag of words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rwtrain.data.tokenizer import Tokenizer
from rwtrain.errors import ConfigError
from rwtrain.evaluate.model import TOKENS_PER_BATCH, batches_by_length, default_device, open_model, pad_rows
from rwtrain.files import write_text
from rwtrain.finetune import metrics
from rwtrain.finetune.encoding import Encoded, encode
from rwtrain.finetune.files import Example
from rwtrain.finetune.tasks import TASKS, Task
from rwtrain.finetune.work import read_task
from rwtrain.model.tasks_refinedweb import RefinedWebForQuestionAnswering, RefinedWebForSequenceClassification

LONGEST_ANSWER = 30  # tokens, as in BERT's evaluation of SQuAD


@dataclass(frozen=True)
class AnswerSpan:
    """Characters `start` to `end` of a context, the sum of their logits, and that of the begin mark, which stands for "no answer"."""

    start: int
    end: int
    score: float
    none: float


@dataclass(frozen=True)
class Predictor:
    """A fine-tuned model.

    Attributes:
        task: what RUN/task.json says.
    """

    folder: Path
    task: dict[str, Any]
    tokenizer: Tokenizer
    device: str

    @classmethod
    def open(cls, folder: Path, *, device: str | None = None) -> Predictor:
        """Open RUN/export of a fine-tuning run.

        Raises:
            ConfigError: it is none.
        """
        return cls(folder, read_task(folder), Tokenizer(folder / "tokenizer.model"), device or default_device())

    @property
    def spec(self) -> Task:
        """The task, for reading its files."""
        known = TASKS.get(self.task["task"])
        if known is not None:
            return known
        first, second, gold = self.task["columns"]
        return Task(self.task["task"], self.task["kind"], (first, second, gold), tuple(self.task["labels"]), metrics=tuple(self.task["metrics"]))

    def predict(self, examples: Sequence[Example], *, progress: bool = False) -> list[Any]:
        """A class number, a score or an answer's text for each example."""
        bar = "predictions" if progress else None
        if self.task["head"] == "answer":
            return self._answers(examples, bar)
        encoded = encode(examples, self.tokenizer, head=self.task["head"], max_tokens=self.task["max_tokens"])
        if self.task["head"] == "embedding":
            return self._cosines(encoded, bar)
        logits = self._logits(encoded, bar)
        if self.task["kind"] == "regress":
            return [float(value) for value in logits[:, 0] + self.task["score_range"][0]]
        return [int(value) for value in logits.argmax(1)]

    def _load(self, model_class: Any) -> Any:
        return model_class.from_pretrained(self.folder, dtype=torch.float32).eval().to(self.device)

    @torch.inference_mode()
    def _logits(self, encoded: list[Encoded], bar: str | None) -> np.ndarray:
        model = self._load(RefinedWebForSequenceClassification)
        result = np.zeros((len(encoded), model.config.num_labels))
        for places in batches_by_length([len(item) for item in encoded], TOKENS_PER_BATCH, progress=bar):
            input_ids, mask = pad_rows([encoded[place].segments[0] for place in places])
            result[places] = model(input_ids=input_ids.to(self.device), attention_mask=mask.to(self.device)).logits.float().cpu().numpy()
        return result

    def _cosines(self, encoded: list[Encoded], bar: str | None) -> list[float]:
        model = open_model(self.folder, device=self.device)
        vectors = model.embed_tokens([segment for item in encoded for segment in item.segments], progress=bar)
        low, high = self.task["score_range"]
        return [float(first @ second) * (high - low) + low for first, second in zip(vectors[::2], vectors[1::2], strict=True)]

    @cached_property
    def _answering(self) -> RefinedWebForQuestionAnswering:
        return self._load(RefinedWebForQuestionAnswering)

    @torch.inference_mode()
    def spans(self, examples: Sequence[Example], *, progress: str | None = None) -> list[AnswerSpan]:
        """The likeliest answer of each question (`first`) inside its context (`second`), over all windows of it.

        Raises:
            ConfigError: the folder was fine-tuned for another task.
        """
        if self.task["head"] != "answer":
            raise ConfigError(f"{self.folder}: fine-tuned for {self.task['task']}, not for questions. Give RUN/export of `rwtrain finetune --task squad`.")
        encoded = encode(examples, self.tokenizer, head="answer", max_tokens=self.task["max_tokens"])
        found = [AnswerSpan(0, 0, -np.inf, np.inf)] * len(examples)
        for places in batches_by_length([len(item) for item in encoded], TOKENS_PER_BATCH, progress=progress):
            input_ids, mask = pad_rows([encoded[place].segments[0] for place in places])
            out = self._answering(input_ids=input_ids.to(self.device), attention_mask=mask.to(self.device))
            for place, starts, ends in zip(places, out.start_logits.float().cpu().numpy(), out.end_logits.float().cpu().numpy(), strict=True):
                item = encoded[place]
                best = replace(found[item.example], none=min(found[item.example].none, float(starts[0] + ends[0])))
                span = best_span(starts[item.context : len(item)], ends[item.context : len(item)])
                if span is not None and span[0] > best.score:
                    assert item.offsets is not None
                    best = replace(best, start=int(item.offsets[span[1]][0]), end=int(item.offsets[span[2]][1]), score=span[0])
                found[item.example] = best
        return found

    def _answers(self, examples: Sequence[Example], bar: str | None) -> list[str]:
        """The best span, or "" where no answer is likelier; the latter only if the task's training file had such questions."""
        spans = self.spans(examples, progress=bar)
        silent = [self.task.get("unanswerable") and span.none >= span.score for span in spans]
        texts = [(example.second or "")[span.start : span.end].strip() for example, span in zip(examples, spans, strict=True)]
        return ["" if no else text for no, text in zip(silent, texts, strict=True)]


def best_span(starts: np.ndarray, ends: np.ndarray) -> tuple[float, int, int] | None:
    """(sum of logits, first, last) of the likeliest span of at most `LONGEST_ANSWER` tokens, None without tokens."""
    if not len(starts):
        return None
    sums = starts[:, None] + ends[None, :]
    allowed = np.triu(np.ones_like(sums, bool)) & ~np.triu(np.ones_like(sums, bool), LONGEST_ANSWER)
    place = int(np.where(allowed, sums, -np.inf).argmax())
    first, last = divmod(place, len(ends))
    return float(sums[first, last]), first, last


def judge(task: dict[str, Any], examples: Sequence[Example], predictions: Sequence[Any]) -> dict[str, float]:
    """The task's official figures over the examples with a gold label."""
    if task["kind"] == "answer":
        return metrics.squad([[text for text, _ in example.answers] for example in examples], predictions)
    judged = [(example.label, value) for example, value in zip(examples, predictions, strict=True) if example.label is not None]
    if not judged:
        return {}
    gold, found = zip(*judged, strict=True)
    return metrics.score(task["metrics"], gold, found)


def baselines(task: dict[str, Any], train: Sequence[Example], valid: Sequence[Example]) -> dict[str, dict[str, float]]:
    """Figures of what needs no training of ours: the commonest class or mean score, and a bag of words.

    The bag of words is logistic regression on which words occur (also with pairs of neighbouring words), for a pair of texts in each of them;
    for scores of pairs, the cosine of TF-IDF vectors.
    """
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    if task["kind"] == "answer":
        return {"no answer": judge(task, valid, [""] * len(valid))}
    labels = np.array([example.label for example in train])
    paired = task["columns"][1] is not None
    sides = [[example.first for example in (*train, *valid)], [example.second or "" for example in (*train, *valid)]][: 1 + paired]
    if task["kind"] == "regress":
        found = {"mean": judge(task, valid, [float(labels.mean())] * len(valid))}
        if paired:
            vectorizer = TfidfVectorizer().fit([text for side in sides for text in side[: len(train)]])
            first, second = (vectorizer.transform(side[len(train) :]) for side in sides)
            found["tf-idf cosine"] = judge(task, valid, [float(value) for value in np.asarray(first.multiply(second).sum(1)).ravel()])
        return found
    values, counts = np.unique(labels, return_counts=True)
    found = {"majority": judge(task, valid, [int(values[counts.argmax()])] * len(valid))}
    from scipy.sparse import hstack

    for title, longest in (("bag of words", 1), ("words and pairs", 2)):
        matrices = []
        for side in sides:
            vectorizer = CountVectorizer(ngram_range=(1, longest), binary=True).fit(side[: len(train)])
            matrices.append(vectorizer.transform(side))
        matrix = hstack(matrices).tocsr()
        model = LogisticRegression(max_iter=200).fit(matrix[: len(train)], labels)
        found[title] = judge(task, valid, [int(value) for value in model.predict(matrix[len(train) :])])
    return found


def write_predictions(path: Path, task: dict[str, Any], examples: Sequence[Example], predictions: Sequence[Any]) -> None:
    """A table with id and prediction, as GLUE's submissions are; for questions, SQuAD's JSON of id and text."""
    if task["kind"] == "answer":
        write_text(path.with_suffix(".json"), json.dumps({example.id: text for example, text in zip(examples, predictions, strict=True)}, ensure_ascii=False))
        return
    names = task["labels"]
    shown = [names[value] if task["kind"] == "classify" else f"{value:.3f}" for value in predictions]
    write_text(path, "\n".join(["index\tprediction", *(f"{example.id}\t{value}" for example, value in zip(examples, shown, strict=True))]) + "\n")
