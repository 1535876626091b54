"""The official metrics: GLUE's by scikit-learn and SciPy, as the benchmark's own evaluation takes them; SQuAD's by its definition."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from rwtrain.errors import RWTrainError

ARTICLES = re.compile(r"\b(a|an|the)\b")


def score(metrics: Sequence[str], gold: Sequence[float], predicted: Sequence[float]) -> dict[str, float]:
    """Each metric of predictions against gold labels or scores.

    Raises:
        RWTrainError: scikit-learn is not installed.
    """
    try:
        from scipy.stats import pearsonr, spearmanr
        from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
    except ModuleNotFoundError as error:
        raise RWTrainError(f"The metrics need the package {error.name}. Install it with: pip install 'rwtrain[finetune]'") from error
    known: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
        "accuracy": accuracy_score,
        "f1": f1_score,
        "macro_f1": lambda right, found: f1_score(right, found, average="macro"),
        "matthews_correlation": matthews_corrcoef,
        "pearson": lambda right, found: _correlation(pearsonr, right, found),
        "spearman": lambda right, found: _correlation(spearmanr, right, found),
    }
    right, found = np.asarray(gold), np.asarray(predicted)
    return {name: float(known[name](right, found)) for name in metrics}


def _correlation(function: Callable, right: np.ndarray, found: np.ndarray) -> float:
    """0 where one of them does not vary, for which no correlation is defined."""
    return 0.0 if np.ptp(found) == 0 or np.ptp(right) == 0 else float(function(right, found).statistic)


def squad(gold: Sequence[Sequence[str]], predicted: Sequence[str]) -> dict[str, float]:
    """Exact match and F1 over words, the better of a question's answers counting (Rajpurkar et al. 2018, evaluate-v2.0.py); shares, not per cent.

    Args:
        gold: the answers of each question; none: it has no answer, and "" is right.
    """
    exact, overlap = 0.0, 0.0
    for answers, answer in zip(gold, predicted, strict=True):
        right = [text for text in answers if normalized(text)] or [""]
        exact += max(normalized(text) == normalized(answer) for text in right)
        overlap += max(word_f1(text, answer) for text in right)
    return {"f1": overlap / len(gold), "exact_match": exact / len(gold)}


def normalized(text: str) -> str:
    """Lower case, without punctuation, articles and surplus spaces."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(ARTICLES.sub(" ", text).split())


def word_f1(first: str, second: str) -> float:
    """F1 of the words that two answers share; where one is empty, 1 if both are."""
    right, found = normalized(first).split(), normalized(second).split()
    if not right or not found:
        return float(right == found)
    shared = sum((Counter(right) & Counter(found)).values())
    return 2 * shared / (len(right) + len(found))
