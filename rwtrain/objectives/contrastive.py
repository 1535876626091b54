"""InfoNCE (van den Oord et al. 2018) between features of all ranks, with false negatives left out."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy


class _GatherFeatures(torch.autograd.Function):
    """Concatenate every rank's rows; the gradient of a row is the sum of what all ranks say about it."""

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor) -> torch.Tensor:
        ctx.rows = len(local)
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        start = dist.get_rank() * ctx.rows
        return grad[start : start + ctx.rows]


def gather(local: torch.Tensor) -> torch.Tensor:
    """Rows of all ranks in rank order, [ranks · n, …]; differentiable. Every rank must call it with the same shape."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return local
    if local.requires_grad:
        return _GatherFeatures.apply(local)
    parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, local.contiguous())
    return torch.cat(parts)


def info_nce(queries: torch.Tensor, keys: torch.Tensor, positive: torch.Tensor, blocked: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """−log( exp(s·q·k⁺) / (exp(s·q·k⁺) + Σ_{k⁻} exp(s·q·k⁻)) ) for every query, [n].

    Args:
        queries: L2-normalised features [n, C]; keys: [m, C].
        positive: index of each query's positive among the keys, [n].
        blocked: [n, m], True for keys that are no negatives of a query; its positive always counts.
        scale: inverse temperature s = 1/τ.
    """
    logits = scale * (queries @ keys.T)
    blocked = blocked.scatter(1, positive[:, None], False)
    return cross_entropy(logits.masked_fill(blocked, -torch.inf), positive, reduction="none")


def _rank_offset(rows: int) -> int:
    return rows * (dist.get_rank() if dist.is_available() and dist.is_initialized() else 0)


def paired_info_nce(first: torch.Tensor, second: torch.Tensor, content: torch.Tensor, valid: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """InfoNCE between two modalities in both directions (Radford et al. 2021): Σ over local items of the mean of both, a scalar.

    Args:
        first, second: matching L2-normalised features [n, C] of this rank; negatives come from all ranks.
        content: content ids [n]; items that share one are not each other's negatives.
        valid: 1 for real items, 0 for padding, [n].
    """
    all_content, all_valid = gather(content), gather(valid)
    positive = torch.arange(len(first), device=first.device) + _rank_offset(len(first))
    blocked = (content[:, None] == all_content) | (all_valid == 0)
    forward = info_nce(first, gather(second), positive, blocked, scale)
    backward = info_nce(second, gather(first), positive, blocked, scale)
    return ((forward + backward) / 2 * valid).sum()


def two_view_info_nce(first: torch.Tensor, second: torch.Tensor, content: torch.Tensor, valid: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """InfoNCE over the 2N views of N items (Chen et al. 2020): view i and view i + N are positives, all other views negatives.

    Arguments as in `paired_info_nce`; Σ over local items of the mean over their two views, a scalar.
    """
    views, keys = torch.cat((first, second)), torch.cat((gather(first), gather(second)))
    all_content, all_valid = gather(content).repeat(2), gather(valid).repeat(2)
    items = torch.arange(len(first), device=first.device) + _rank_offset(len(first))
    total = len(keys) // 2
    positive = torch.cat((items + total, items))
    blocked = (content.repeat(2)[:, None] == all_content) | (all_valid == 0)  # a view shares its own content: never its own negative
    return (info_nce(views, keys, positive, blocked, scale) * valid.repeat(2)).sum() / 2


def entity_info_nce(states: torch.Tensor, vectors: torch.Tensor, entities: torch.Tensor, valid: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """InfoNCE of mention states against entity vectors; negatives are the other entities of all ranks' batches.

    Args:
        states, vectors: matching L2-normalised features [n, C] of this rank.
        entities: row of each entity in the store, [n]; mentions of one entity are not each other's negatives.
        valid: 1 for real mentions, 0 for empty slots, [n].
    """
    positive = torch.arange(len(states), device=states.device) + _rank_offset(len(states))
    blocked = (entities[:, None] == gather(entities)) | (gather(valid) == 0)
    return (info_nce(states, gather(vectors), positive, blocked, scale) * valid).sum()
