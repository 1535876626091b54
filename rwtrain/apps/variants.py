"""How much more probable a text becomes by a small change: many changes of one text, read together.

What stands before a change is read once, for all of them, and tells what the first changed token gains; what follows is read a few tokens far, and to
the end only where that looks promising.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rwtrain.apps.model import AppModel, cache_of
from rwtrain.data.tokenizer import BOS_ID
from rwtrain.evaluate.model import batches_by_length, pad_rows

TOKENS_PER_BATCH = 512
AHEAD = 2
PROMISING = 0.0
AT_ONCE = {-1: -np.inf, 0: -4.0, 1: 3.0}  # what the first changed token must gain, for variants of fewer, as many and more tokens than the text


@dataclass(frozen=True)
class _Variant:
    """Token ids of a variant without begin mark; the first `same` are the text's, and the last `tail`."""

    ids: np.ndarray
    same: int
    tail: int


@torch.inference_mode()
def variant_gains(app: AppModel, text: str, variants: Sequence[str], *, thorough: bool = False) -> list[float]:
    """ln p of each variant less ln p of the text.

    Args:
        text: at most `app.max_tokens` − 1 tokens.
        thorough: read all to their end; else variants that do not look promising by then (`AT_ONCE`, `AHEAD`, `PROMISING`) get −∞.
    """
    base = app.tokenizer.encode(text)
    row = torch.from_numpy(np.concatenate(([BOS_ID], base)).astype(np.int64))[None].to(app.device)
    output = app.model(input_ids=row, use_cache=True)
    shares = output.logits[0].float().log_softmax(-1).cpu().numpy()  # [1 + tokens, V]: of the token that follows each
    base_sums = np.concatenate(([0], np.cumsum(shares[np.arange(len(base)), base], dtype=np.float64)))
    found = [_compare(base, ids) for ids in app.tokenizer.encode_batch(list(variants))]
    gains, chosen = np.full(len(found), -np.inf), np.arange(len(found))
    if not thorough:
        chosen = np.array([place for place, variant in enumerate(found) if _starts_well(variant, base, shares)], np.int64)
    for ahead in (None,) if thorough else (AHEAD, None):
        ends = np.array([len(found[place].ids) - (max(0, found[place].tail - ahead) if ahead is not None else 0) for place in chosen], np.int64)
        starts = np.array([found[place].same for place in chosen], np.int64)
        base_ends = ends + np.array([len(base) - len(found[place].ids) for place in chosen], np.int64)
        sums = _read(app, cache_of(output), shares, [(found[place], end) for place, end in zip(chosen, ends, strict=True)])
        gains[chosen] = sums - (base_sums[base_ends] - base_sums[starts])
        if ahead is not None:
            chosen, dropped = chosen[gains[chosen] > PROMISING], chosen[gains[chosen] <= PROMISING]
            gains[dropped] = -np.inf
    return gains.tolist()


def _compare(base: np.ndarray, ids: np.ndarray) -> _Variant:
    shorter = min(len(base), len(ids))
    differs = np.flatnonzero(base[:shorter] != ids[:shorter])
    same = int(differs[0]) if len(differs) else shorter
    differs = np.flatnonzero(base[::-1][: shorter - same] != ids[::-1][: shorter - same])
    return _Variant(ids, same, int(differs[0]) if len(differs) else shorter - same)


def _starts_well(variant: _Variant, base: np.ndarray, shares: np.ndarray) -> bool:
    """Whether the first changed token gains enough."""
    place = variant.same
    if place >= min(len(base), len(variant.ids)):
        return True
    return bool(shares[place, variant.ids[place]] - shares[place, base[place]] >= AT_ONCE[int(np.sign(len(variant.ids) - len(base)))])


def _read(app: AppModel, cache: Any, shares: np.ndarray, wanted: Sequence[tuple[_Variant, int]]) -> np.ndarray:
    """ln p of each variant's tokens from where it differs to an end, [wanted] float64.

    Args:
        cache: keys and values of begin mark and text.
        shares: [1 + tokens, V] ln p of what follows each token of the text.
    """
    sums = np.array([shares[variant.same, variant.ids[variant.same]] if stop > variant.same else 0.0 for variant, stop in wanted])
    rows = [variant.ids[variant.same : stop] for variant, stop in wanted]
    places = np.array([place for place, ids in enumerate(rows) if len(ids) > 1], np.int64)
    if not len(places):
        return sums
    for batch in batches_by_length([len(rows[place]) for place in places], TOKENS_PER_BATCH):
        batch = places[batch]
        ids, mask = pad_rows([rows[place] for place in batch])
        before = 1 + torch.tensor([wanted[place][0].same for place in batch])  # what of the cache a row sees
        seen = torch.arange(len(shares))[None] < before[:, None]
        again = copy.deepcopy(cache)
        again.batch_repeat_interleave(len(batch))
        logits = app.model(
            input_ids=ids[:, :-1].to(app.device),
            attention_mask=torch.cat((seen.long(), mask[:, :-1]), 1).to(app.device),
            position_ids=(before[:, None] + torch.arange(ids.shape[1] - 1)).to(app.device),
            past_key_values=again,
        ).logits.float()
        following = ids[:, 1:].to(app.device)
        values = logits.gather(2, following[..., None]).squeeze(2) - logits.logsumexp(2)
        sums[batch] += (values.cpu() * mask[:, 1:]).sum(1, dtype=torch.float64).numpy()
    return sums
