"""Packing: every token of every document once, rows that fit, and little padding."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rwtrain.data.packing import pack


@settings(max_examples=80, deadline=None)
@given(lengths=st.lists(st.integers(0, 300), max_size=60), seq_len=st.integers(4, 100))
def test_rows_fit_and_hold_every_token_once(lengths: list[int], seq_len: int) -> None:
    plan = pack(np.array(lengths, np.int64), seq_len)
    seen = {(document, token) for document, first, length in zip(plan.document, plan.start, plan.length, strict=True) for token in range(first, first + length)}
    kept = sum(length - (length % seq_len == 1) for length in lengths)  # a lone last token predicts nothing
    assert len(seen) == plan.length.sum() == kept
    for row in range(len(plan)):
        assert 0 < plan.length[plan.row_offsets[row] : plan.row_offsets[row + 1]].sum() <= seq_len


def test_documents_of_natural_lengths_fill_99_percent() -> None:
    lengths = np.random.default_rng(0).lognormal(5.5, 1.0, 3000).astype(np.int64)
    assert pack(lengths, 512).fill > 0.99
