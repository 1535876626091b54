"""Filling a gap: the text around it is read in both directions, as masked rows are in training, and the gap's tokens are found one by one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rwtrain.apps.model import AppModel
from rwtrain.apps.writing import NEVER_WRITTEN
from rwtrain.data.tokenizer import BOS_ID, EOS_ID, MASK_ID
from rwtrain.errors import ConfigError


@dataclass(frozen=True)
class Filling:
    """What could stand in a gap.

    Attributes:
        text: the gap's text.
        tokens: its length.
        score: mean ln p of its tokens.
    """

    text: str
    tokens: int
    score: float


@torch.inference_mode()
def gap_log_probabilities(app: AppModel, before: np.ndarray, gap: np.ndarray, after: np.ndarray) -> np.ndarray:
    """ln p of each token of a gap given the text on both sides and the gap's tokens before it, [gap] float32.

    Args:
        before, gap, after: token ids without begin mark.
    """
    count = len(gap)
    rows = np.tile(np.concatenate(([BOS_ID], before, np.full(count, MASK_ID), after)).astype(np.int64), (count, 1))
    start = 1 + len(before)
    for row in range(count):
        rows[row, start : start + row] = gap[:row]
    logits = _read_blocks(app, rows)[torch.arange(count), start - 1 + torch.arange(count)].float()
    labels = torch.from_numpy(np.asarray(gap, np.int64)).to(app.device)
    return (logits.gather(1, labels[:, None]).squeeze(1) - logits.logsumexp(1)).cpu().numpy()


def fill(app: AppModel, before: str, after: str, *, max_tokens: int = 8) -> list[Filling]:
    """Fillings of the gap between two texts, one for each length from 1 to `max_tokens` tokens, the best first.

    Each is found greedily from left to right; lengths compete by mean ln p.

    Raises:
        ConfigError: the texts leave no room for the gap.
    """
    room = app.max_tokens - 1 - max_tokens
    if max_tokens < 1 or room < 2:
        raise ConfigError(f"max_tokens={max_tokens}: give at least 1 and at most {app.max_tokens - 3}.")
    left, right = app.tokenizer.encode(before)[-(room - room // 2) :], app.tokenizer.encode(after)[: room // 2]
    found = [_greedy(app, left, right, length) for length in range(1, max_tokens + 1)]
    fillings = {filling.text: filling for filling in sorted(found, key=lambda filling: filling.score)}
    return sorted(fillings.values(), key=lambda filling: -filling.score)


@torch.inference_mode()
def _greedy(app: AppModel, left: np.ndarray, right: np.ndarray, length: int) -> Filling:
    row = np.concatenate(([BOS_ID], left, np.full(length, MASK_ID), right)).astype(np.int64)[None]
    start, total = 1 + len(left), 0.0
    for place in range(start, start + length):
        logits = _read_blocks(app, row)[0, place - 1].float()
        logits[[*NEVER_WRITTEN, EOS_ID]] = -torch.inf
        shares = logits.log_softmax(-1)
        row[0, place] = int(shares.argmax())
        total += float(shares.max())
    tokens = row[0, start : start + length]
    return Filling(app.tokenizer.decode(tokens), length, total / length)


def _read_blocks(app: AppModel, rows: np.ndarray) -> torch.Tensor:
    """Logits [B, S, V] of rows that are each read as one block in both directions."""
    ids = torch.from_numpy(rows).to(app.device)
    return app.model(input_ids=ids, block_sequence_ids=torch.zeros_like(ids)).logits
