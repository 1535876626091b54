"""Metrics against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from rwtrain.finetune.metrics import normalized, score, squad, word_f1
from rwtrain.finetune.predicting import best_span


def test_glue_metrics_by_hand() -> None:
    gold, found = [1, 1, 0, 0], [1, 0, 0, 0]
    figures = score(["accuracy", "f1", "matthews_correlation", "macro_f1"], gold, found)
    assert figures["accuracy"] == 0.75
    assert figures["f1"] == pytest.approx(2 / 3)  # precision 1, recall 1/2
    assert figures["matthews_correlation"] == pytest.approx((1 * 2 - 0 * 1) / math.sqrt(1 * 2 * 2 * 3))
    assert figures["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    expected = {"pearson": 8 / math.sqrt(2 * 38), "spearman": 1.0}  # deviations -1 0 1 and -3 -2 5
    assert score(["pearson", "spearman"], [0, 1, 2], [1.0, 2.0, 9.0]) == pytest.approx(expected)
    assert score(["pearson"], [0, 1], [3, 3]) == {"pearson": 0.0}


def test_squad_by_hand() -> None:
    assert normalized(" The  Big-Apple! ") == "bigapple"
    assert word_f1("the cat sat", "a cat ran") == pytest.approx(2 * 1 / (2 + 2))
    figures = squad([["Ada", "Ada Lovelace"], [], []], ["Lovelace", "", "x"])
    assert figures["exact_match"] == pytest.approx(1 / 3)
    assert figures["f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_best_span_is_no_longer_than_allowed_and_not_reversed() -> None:
    import numpy as np

    starts, ends = np.zeros(40), np.zeros(40)
    starts[30], ends[2] = 5, 9  # reversed
    starts[5], ends[39] = 4, 4  # 35 tokens
    assert best_span(starts, ends) == (9.0, 0, 2)
    assert best_span(starts[:0], ends[:0]) is None
