"""GLEU, the measure of JFLEG (Napoles et al. 2015, and their note of 2016: no penalty to be tuned), over whole texts of several references.

    stats = sentence_stats(source, hypothesis, references)      # one sentence, tokens parted by spaces
    gleu([stats, …])

As in the published script: n-grams of the hypothesis that a reference has count for it, those that only the source has count against it; each round
draws one reference for each sentence, and the result is the mean of the rounds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

ORDER = 4
ROUNDS = 500
RESAMPLED_ROUNDS = 20


def ngrams(words: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    """N-grams and how often they occur."""
    return Counter(tuple(words[place : place + size]) for place in range(len(words) - size + 1))


def sentence_stats(source: str, hypothesis: str, references: Sequence[str]) -> np.ndarray:
    """[references, 2 + 2 · 4]: lengths of hypothesis and reference; matches and n-grams of the hypothesis for n = 1 to 4."""
    words, rows = hypothesis.split(), []
    for reference in references:
        right = reference.split()
        row = [len(words), len(right)]
        for size in range(1, ORDER + 1):
            found, wanted, before = (ngrams(text, size) for text in (words, right, source.split()))
            only_source = Counter({gram: count for gram, count in before.items() if gram not in wanted})
            row += [max((found & wanted).total() - (found & only_source).total(), 0), max(len(words) + 1 - size, 0)]
        rows.append(row)
    return np.array(rows, np.float64)


def gleu(stats: Sequence[np.ndarray], *, rounds: int = ROUNDS, seed: int = 0) -> float:
    """Corpus GLEU, between 0 and 1, of all sentences' statistics."""
    counts = np.stack(stats)
    draws = np.random.default_rng(seed).integers(counts.shape[1], size=(rounds, len(counts)))
    sums = np.stack([counts[np.arange(len(counts)), draw].sum(0) for draw in draws])
    matches, totals = sums[:, 2::2], sums[:, 3::2]
    whole = (matches > 0).all(1) & (totals > 0).all(1)
    shares = np.where(whole[:, None], matches, 1) / np.where(whole[:, None], totals, 1)
    short = np.minimum(0, 1 - sums[:, 1] / np.maximum(sums[:, 0], 1))
    return float(np.where(whole, np.exp(short + np.log(shares).mean(1)), 0).mean())


def resampled(before: Sequence[np.ndarray], after: Sequence[np.ndarray], *, samples: int = 1000, seed: int = 0) -> np.ndarray:
    """Differences of corpus GLEU, after − before, of sentences drawn with replacement, [samples]; both sides have the same sentences and references."""
    draw, differences = np.random.default_rng(seed), np.zeros(samples)
    sides = np.stack((np.stack(before), np.stack(after)))
    for sample in range(samples):
        chosen = draw.integers(sides.shape[1], size=sides.shape[1])
        old, new = (gleu(list(side[chosen]), rounds=RESAMPLED_ROUNDS, seed=seed + sample) for side in sides)
        differences[sample] = new - old
    return differences
