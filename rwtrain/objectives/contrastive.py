"""InfoNCE (van den Oord et al. 2018) between features of all ranks, in tiles, with false negatives left out.

The similarities of n local queries and m keys of all ranks never exist at once: tiles of them are made, reduced and dropped,
in the forward pass and again in the backward pass, so memory grows with n, not with n · m (Cheng et al. 2024, arXiv 2410.17243).
Dimensions in names: N local queries, M keys of all ranks, C feature width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

TILE = 2048


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
    return _GatherFeatures.apply(local)


class _TiledInfoNCE(torch.autograd.Function):
    """The loss of `info_nce`; keeps features and one number per query for the backward pass, which makes the tiles again."""

    @staticmethod
    def tile(ctx: Any, start: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(similarities, scaled similarities with −∞ at keys that are no negatives) of all queries and one tile of keys."""
        part = slice(start, start + TILE)
        similarity = ctx.queries_NC @ ctx.keys_MC[part].T
        blocked = (ctx.content_N[:, None] == ctx.content_M[part]) | ~ctx.valid_M[part]
        rows = torch.nonzero((ctx.positive_N >= start) & (ctx.positive_N < start + TILE)).squeeze(1)
        blocked[rows, ctx.positive_N[rows] - start] = False
        return similarity, (similarity * ctx.scale).masked_fill_(blocked, -torch.inf)

    @staticmethod
    def forward(
        ctx: Any,
        queries_NC: torch.Tensor,
        keys_MC: torch.Tensor,
        positive_N: torch.Tensor,
        content_N: torch.Tensor,
        content_M: torch.Tensor,
        valid_M: torch.Tensor,
        scale: torch.Tensor,
    ) -> torch.Tensor:
        ctx.queries_NC, ctx.keys_MC, ctx.scale = queries_NC.detach(), keys_MC.detach(), scale.detach()
        ctx.positive_N, ctx.content_N, ctx.content_M, ctx.valid_M = positive_N, content_N, content_M, valid_M
        ctx.log_total_N = queries_NC.new_full((len(queries_NC),), -torch.inf)
        for start in range(0, len(keys_MC), TILE):
            ctx.log_total_N = torch.logaddexp(ctx.log_total_N, _TiledInfoNCE.tile(ctx, start)[1].logsumexp(1))
        return ctx.log_total_N - ctx.scale * (ctx.queries_NC * ctx.keys_MC[positive_N]).sum(1)

    @staticmethod
    def backward(ctx: Any, grad_N: torch.Tensor) -> Any:
        queries_NC, keys_MC = ctx.queries_NC, ctx.keys_MC
        grad_queries, grad_keys, grad_scale = torch.zeros_like(queries_NC), torch.zeros_like(keys_MC), torch.zeros_like(ctx.scale)
        for start in range(0, len(keys_MC), TILE):
            similarity, logits = _TiledInfoNCE.tile(ctx, start)
            share = logits.sub_(ctx.log_total_N[:, None]).exp_().mul_(grad_N[:, None])
            grad_scale += (share * similarity).sum()
            grad_queries.addmm_(share, keys_MC[start : start + TILE])
            grad_keys[start : start + TILE] = share.T @ queries_NC
        positives_NC = keys_MC[ctx.positive_N]
        grad_scale -= (grad_N * (queries_NC * positives_NC).sum(1)).sum()
        grad_queries -= grad_N[:, None] * positives_NC
        grad_keys.index_add_(0, ctx.positive_N, -grad_N[:, None] * queries_NC)
        return grad_queries * ctx.scale, grad_keys * ctx.scale, None, None, None, None, grad_scale


def info_nce(
    queries: torch.Tensor,
    keys: torch.Tensor,
    *,
    positive: torch.Tensor,
    content: torch.Tensor,
    key_content: torch.Tensor,
    key_valid: torch.Tensor,
    scale: torch.Tensor,
) -> torch.Tensor:
    """−log( exp(s·q·k⁺) / (exp(s·q·k⁺) + Σ_{k⁻} exp(s·q·k⁻)) ) for every query, [N].

    Args:
        queries: L2-normalised features [N, C]; keys: [M, C], of the same type.
        positive: index of each query's positive among the keys, [N].
        content, key_content: content ids [N] and [M]; a key with the query's content id is no negative, unless it is its positive.
        key_valid: [M] bool, False for keys that are padding.
        scale: inverse temperature s = 1/τ, [1].
    """
    return _TiledInfoNCE.apply(queries, keys, positive, content, key_content, key_valid, scale.to(queries.dtype))


def _rank_offset(rows: int) -> int:
    return rows * (dist.get_rank() if dist.is_available() and dist.is_initialized() else 0)


def paired_info_nce(first: torch.Tensor, second: torch.Tensor, content: torch.Tensor, valid: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """InfoNCE between two modalities in both directions (Radford et al. 2021): Σ over local items of the mean of both, a scalar.

    Args:
        first, second: matching L2-normalised features [n, C] of this rank; negatives come from all ranks.
        content: content ids [n]; items that share one are not each other's negatives.
        valid: 1 for real items, 0 for padding, [n].
    """
    positive = torch.arange(len(first), device=first.device) + _rank_offset(len(first))
    rest: dict[str, torch.Tensor] = {"positive": positive, "content": content, "key_content": gather(content), "key_valid": gather(valid) > 0, "scale": scale}
    forward = info_nce(first, gather(second), **rest)
    backward = info_nce(second, gather(first), **rest)
    return ((forward + backward) / 2 * valid).sum()


def two_view_info_nce(first: torch.Tensor, second: torch.Tensor, content: torch.Tensor, valid: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """InfoNCE over the 2N views of N items (Chen et al. 2020): view i and view i + N are positives, all other views negatives.

    Arguments as in `paired_info_nce`; Σ over local items of the mean over their two views, a scalar.
    """
    views, keys = torch.cat((first, second)), torch.cat((gather(first), gather(second)))
    items = torch.arange(len(first), device=first.device) + _rank_offset(len(first))
    losses = info_nce(  # a view shares its own content id, so it is never its own negative
        views,
        keys,
        positive=torch.cat((items + len(keys) // 2, items)),
        content=content.repeat(2),
        key_content=gather(content).repeat(2),
        key_valid=gather(valid).repeat(2) > 0,
        scale=scale,
    )
    return (losses * valid.repeat(2)).sum() / 2


def entity_info_nce(states: torch.Tensor, vectors: torch.Tensor, entities: torch.Tensor, valid: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """InfoNCE of mention states against entity vectors; negatives are the other entities of all ranks' batches.

    Args:
        states, vectors: matching L2-normalised features [n, C] of this rank.
        entities: row of each entity in the store, [n]; mentions of one entity are not each other's negatives.
        valid: 1 for real mentions, 0 for empty slots, [n].
    """
    losses = info_nce(
        states,
        gather(vectors),
        positive=torch.arange(len(states), device=states.device) + _rank_offset(len(states)),
        content=entities,
        key_content=gather(entities),
        key_valid=gather(valid) > 0,
        scale=scale,
    )
    return (losses * valid).sum()
