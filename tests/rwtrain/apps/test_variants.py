"""Gains of many changes read together equal those of whole texts, each read by itself."""

from __future__ import annotations

import numpy as np
import pytest

from rwtrain.apps.model import AppModel
from rwtrain.apps.variants import AT_ONCE, variant_gains

TEXT = "The first of the people in the city was a king."
VARIANTS = (
    TEXT,
    "The first of people in the city was a king.",
    "The first of the people in the old city was a king.",
    "A first of the people in the city was a king.",
    "The first of the people in the city was a queen",
    "The first of the people in the city was a king. And more",
    "The first",
    "Else",
)


def log_probability(app: AppModel, text: str) -> float:
    ids = app.tokenizer.encode(text)
    return float(app.token_log_probabilities([np.concatenate(([1], ids)).astype(np.int64)])[0].sum(dtype=np.float64))


def test_all_gains(app: AppModel) -> None:
    expected = [log_probability(app, variant) - log_probability(app, TEXT) for variant in VARIANTS]
    assert variant_gains(app, TEXT, VARIANTS, thorough=True) == pytest.approx(expected, abs=1e-4)
    assert variant_gains(app, TEXT, []) == []


def test_what_is_not_dropped_is_exact(app: AppModel, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = variant_gains(app, TEXT, VARIANTS, thorough=True)
    monkeypatch.setattr("rwtrain.apps.variants.AT_ONCE", dict.fromkeys(AT_ONCE, -np.inf))
    for quick, exact in zip(variant_gains(app, TEXT, VARIANTS), expected, strict=True):
        assert quick == (pytest.approx(exact, abs=1e-4) if quick > -np.inf else -np.inf)
        assert quick > -np.inf or exact < 1
    monkeypatch.setattr("rwtrain.apps.variants.AT_ONCE", dict.fromkeys(AT_ONCE, np.inf))
    assert variant_gains(app, TEXT, ["The last of the people in the city was a king."]) == [-np.inf]
