"""InfoNCE (van den Oord et al. 2018) and its sigmoid form between features of all ranks, in tiles, with false negatives left out.

The similarities of n local queries and m keys of all ranks never exist at once: tiles of them are made, reduced and dropped,
in the forward pass and again in the backward pass, so memory grows with n + m, not with n · m (Cheng et al. 2024, arXiv 2410.17243).
Dimensions in names: N local queries, M keys of all ranks, C feature width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

TILE = {"cpu": 512, "cuda": 8192}  # rows and columns of a tile: 1 MB of similarities stay in a processor's cache


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


def _without_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
    """A forward or backward pass whose similarities keep the features' precision where autocast is on: a temperature of 0.01 makes 0.4 of bfloat16's error."""

    @functools.wraps(function)
    def wrapped(ctx: Any, first: torch.Tensor, *others: Any) -> Any:
        with torch.autocast(first.device.type, enabled=False):
            return function(ctx, first, *others)

    return wrapped


class _TiledInfoNCE(torch.autograd.Function):
    """The loss of `info_nce`; keeps features and one number per row and column for the backward pass, which makes the tiles again.

    With `both`, the columns are queries too: one pass over the tiles serves both directions, each key being the positive of one query of
    some rank. Ranks then exchange their columns' partial sums, one number per key.
    """

    @staticmethod
    def tiles(ctx: Any) -> Iterator[tuple[slice, slice, torch.Tensor, torch.Tensor]]:
        """(rows, columns, similarities, scaled similarities with −∞ where a key is no negative), tile by tile."""
        size = TILE.get(ctx.queries_NC.device.type, TILE["cuda"])
        for top in range(0, len(ctx.queries_NC), size):
            rows = slice(top, top + size)
            queries, content, positive = ctx.queries_NC[rows], ctx.content_N[rows, None], ctx.positive_N[rows]
            for left in range(0, len(ctx.keys_MC), size):
                columns = slice(left, left + size)
                similarity = queries @ ctx.keys_MC[columns].T
                blocked = (content == ctx.content_M[columns]) | ~ctx.valid_M[columns]
                if ctx.both:
                    blocked |= ~ctx.valid_M[positive][:, None]
                inside = torch.nonzero((positive >= left) & (positive < left + size)).squeeze(1)
                blocked[inside, positive[inside] - left] = False
                yield rows, columns, similarity, (similarity * ctx.scale).masked_fill_(blocked, -torch.inf)

    @staticmethod
    @_without_autocast
    def forward(
        ctx: Any,
        queries_NC: torch.Tensor,
        keys_MC: torch.Tensor,
        positive_N: torch.Tensor,
        content_N: torch.Tensor,
        content_M: torch.Tensor,
        valid_M: torch.Tensor,
        scale: torch.Tensor,
        both: bool,
    ) -> torch.Tensor:
        ctx.queries_NC, ctx.keys_MC, ctx.scale, ctx.both = queries_NC.detach(), keys_MC.detach(), scale.detach(), both
        ctx.positive_N, ctx.content_N, ctx.content_M, ctx.valid_M = positive_N, content_N, content_M, valid_M
        ctx.row_total_N = queries_NC.new_full((len(queries_NC),), -torch.inf)
        ctx.column_total_M = queries_NC.new_full((len(keys_MC),), -torch.inf)
        for rows, columns, _, logits in _TiledInfoNCE.tiles(ctx):
            ctx.row_total_N[rows] = torch.logaddexp(ctx.row_total_N[rows], logits.logsumexp(1))
            if both:
                ctx.column_total_M[columns] = torch.logaddexp(ctx.column_total_M[columns], logits.logsumexp(0))
        positive_logits_N = ctx.scale * (ctx.queries_NC * ctx.keys_MC[positive_N]).sum(1)
        if not both:
            return ctx.row_total_N - positive_logits_N
        ctx.column_total_M = gather(ctx.column_total_M[None]).logsumexp(0)
        return (ctx.row_total_N + ctx.column_total_M[positive_N]) / 2 - positive_logits_N

    @staticmethod
    @_without_autocast
    def backward(ctx: Any, grad_N: torch.Tensor) -> Any:
        queries_NC, keys_MC = ctx.queries_NC, ctx.keys_MC
        grad_queries, grad_keys, grad_scale = torch.zeros_like(queries_NC), torch.zeros_like(keys_MC), torch.zeros_like(ctx.scale)
        row_grad_N, column_grad_M = grad_N, None
        if ctx.both:
            row_grad_N = grad_N / 2
            column_grad_M = gather(row_grad_N)  # rank order is the order of the keys
            column_grad_M = torch.zeros_like(ctx.column_total_M).index_add_(0, gather(ctx.positive_N), column_grad_M)
        for rows, columns, similarity, logits in _TiledInfoNCE.tiles(ctx):
            share = (logits - ctx.row_total_N[rows, None]).exp_().mul_(row_grad_N[rows, None])
            if column_grad_M is not None:
                share += logits.sub_(ctx.column_total_M[columns]).exp_().mul_(column_grad_M[columns])
            grad_scale += torch.dot(share.flatten(), similarity.flatten())
            grad_queries[rows].addmm_(share, keys_MC[columns])
            grad_keys[columns].addmm_(share.T, queries_NC[rows])
        positives_NC = keys_MC[ctx.positive_N]
        grad_scale -= (grad_N * (queries_NC * positives_NC).sum(1)).sum()
        grad_queries -= grad_N[:, None] * positives_NC
        grad_keys.index_add_(0, ctx.positive_N, -grad_N[:, None] * queries_NC)
        return grad_queries * ctx.scale, grad_keys * ctx.scale, None, None, None, None, grad_scale, None


class _TiledSigmoid(torch.autograd.Function):
    """The loss of `sigmoid_contrast`, over the tiles of `_TiledInfoNCE`."""

    @staticmethod
    @_without_autocast
    def forward(
        ctx: Any,
        queries_NC: torch.Tensor,
        keys_MC: torch.Tensor,
        positive_N: torch.Tensor,
        content_N: torch.Tensor,
        content_M: torch.Tensor,
        valid_M: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
    ) -> torch.Tensor:
        ctx.queries_NC, ctx.keys_MC, ctx.scale, ctx.bias, ctx.both = queries_NC.detach(), keys_MC.detach(), scale.detach(), bias.detach(), False
        ctx.positive_N, ctx.content_N, ctx.content_M, ctx.valid_M = positive_N, content_N, content_M, valid_M
        losses_N = -(ctx.scale * (ctx.queries_NC * ctx.keys_MC[positive_N]).sum(1) + ctx.bias)  # softplus(−z) = softplus(z) − z
        for rows, _, _, logits in _TiledInfoNCE.tiles(ctx):
            losses_N[rows] += torch.nn.functional.softplus(logits.add_(ctx.bias)).sum(1)
        return losses_N

    @staticmethod
    @_without_autocast
    def backward(ctx: Any, grad_N: torch.Tensor) -> Any:
        queries_NC, keys_MC = ctx.queries_NC, ctx.keys_MC
        grad_queries, grad_keys = torch.zeros_like(queries_NC), torch.zeros_like(keys_MC)
        grad_scale, grad_bias = torch.zeros_like(ctx.scale), torch.zeros_like(ctx.bias)
        for rows, columns, similarity, logits in _TiledInfoNCE.tiles(ctx):
            share = logits.add_(ctx.bias).sigmoid_().mul_(grad_N[rows, None])
            grad_scale += torch.dot(share.flatten(), similarity.flatten())
            grad_bias += share.sum()
            grad_queries[rows].addmm_(share, keys_MC[columns])
            grad_keys[columns].addmm_(share.T, queries_NC[rows])
        positives_NC = keys_MC[ctx.positive_N]
        grad_scale -= (grad_N * (queries_NC * positives_NC).sum(1)).sum()
        grad_bias -= grad_N.sum()
        grad_queries -= grad_N[:, None] * positives_NC
        grad_keys.index_add_(0, ctx.positive_N, -grad_N[:, None] * queries_NC)
        return grad_queries * ctx.scale, grad_keys * ctx.scale, None, None, None, None, grad_scale, grad_bias


def info_nce(
    queries: torch.Tensor,
    keys: torch.Tensor,
    *,
    positive: torch.Tensor,
    content: torch.Tensor,
    key_content: torch.Tensor,
    key_valid: torch.Tensor,
    scale: torch.Tensor,
    both: bool = False,
) -> torch.Tensor:
    """−log( exp(s·q·k⁺) / (exp(s·q·k⁺) + Σ_{k⁻} exp(s·q·k⁻)) ) for every query, [N].

    Args:
        queries: L2-normalised features [N, C]; keys: [M, C], of the same type.
        positive: index of each query's positive among the keys, [N].
        content, key_content: content ids [N] and [M]; a key with the query's content id is no negative, unless it is its positive.
        key_valid: [M] bool, False for keys that are padding.
        scale: inverse temperature s = 1/τ, [1].
        both: mean of this loss and of the one in which each query's positive looks for its query among the queries of all ranks;
            every valid key must then be the positive of exactly one query of some rank.
    """
    return _TiledInfoNCE.apply(queries, keys, positive, content, key_content, key_valid, scale.to(queries.dtype), both)


def _rank_offset(rows: int) -> int:
    return rows * (dist.get_rank() if dist.is_available() and dist.is_initialized() else 0)


def paired_info_nce(first: torch.Tensor, second: torch.Tensor, content: torch.Tensor, valid: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """InfoNCE between two modalities in both directions (Radford et al. 2021): Σ over local items of the mean of both, a scalar.

    Args:
        first, second: matching L2-normalised features [n, C] of this rank; negatives come from all ranks.
        content: content ids [n]; items that share one are not each other's negatives.
        valid: 1 for real items, 0 for padding, [n].
    """
    losses = info_nce(
        first,
        gather(second),
        positive=torch.arange(len(first), device=first.device) + _rank_offset(len(first)),
        content=content,
        key_content=gather(content),
        key_valid=gather(valid) > 0,
        scale=scale,
        both=True,
    )
    return (losses * valid).sum()


def sigmoid_contrast(
    first: torch.Tensor, second: torch.Tensor, content: torch.Tensor, valid: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Every pair judged alone (SigLIP, Zhai et al. 2023): Σ_i Σ_j −log σ(z_ij (s·first_i·second_j + b)), z = 1 for i = j, else −1; a scalar.

    Arguments as in `paired_info_nce`; `second` are those of all ranks, each pair counts once; `bias` b is [1]. Pairs that share their content
    are left out.
    """
    losses = _TiledSigmoid.apply(
        first,
        gather(second),
        torch.arange(len(first), device=first.device) + _rank_offset(len(first)),
        content,
        gather(content),
        gather(valid) > 0,
        scale.to(first.dtype),
        bias.to(first.dtype),
    )
    return (losses * valid).sum()


class Negatives(NamedTuple):
    """Keys that are no query's positive.

    Attributes:
        features: L2-normalised, of this rank, [K, C]; those of all ranks are negatives.
        content: content ids [K]; a query with the same one does not count it.
        valid: 1 for real ones, 0 for empty places, [K].
    """

    features: torch.Tensor
    content: torch.Tensor
    valid: torch.Tensor


def two_view_info_nce(
    first: torch.Tensor, second: torch.Tensor, content: torch.Tensor, valid: torch.Tensor, scale: torch.Tensor, hard: Negatives | None = None
) -> torch.Tensor:
    """InfoNCE over the 2N views of N items (Chen et al. 2020): view i and view i + N are positives, all other views negatives.

    Arguments as in `paired_info_nce`; Σ over local items of the mean over their two views, a scalar.

    Args:
        hard: texts that look like positives but are none, as further negatives of every view of the batch (Karpukhin et al. 2020; Gao et al. 2021).
    """
    items = torch.arange(len(first), device=first.device) + _rank_offset(len(first))
    keys, key_content, key_valid = [gather(first), gather(second)], [gather(content)] * 2, [gather(valid)] * 2
    total = len(keys[0])
    if hard is not None:
        keys, key_content, key_valid = [*keys, gather(hard.features)], [*key_content, gather(hard.content)], [*key_valid, gather(hard.valid)]
    losses = info_nce(  # a view shares its own content id, so it is never its own negative
        torch.cat((first, second)),
        torch.cat(keys),
        positive=torch.cat((items + total, items)),
        content=content.repeat(2),
        key_content=torch.cat(key_content),
        key_valid=torch.cat(key_valid) > 0,
        scale=scale,
    )
    return (losses * valid.repeat(2)).sum() / 2


def entity_info_nce(
    states: torch.Tensor, vectors: torch.Tensor, entities: torch.Tensor, valid: torch.Tensor, scale: torch.Tensor, drawn: Negatives | None = None
) -> torch.Tensor:
    """InfoNCE of mention states against entity vectors; negatives are the other entities of all ranks' batches, and those that are drawn.

    Args:
        states, vectors: matching L2-normalised features [n, C] of this rank.
        entities: row of each entity in the store, [n]; mentions of one entity are not each other's negatives.
        valid: 1 for real mentions, 0 for empty slots, [n].
        drawn: further entities, by their rows in the store.
    """
    keys, key_content, key_valid = [gather(vectors)], [gather(entities)], [gather(valid)]
    if drawn is not None:
        keys, key_content, key_valid = [*keys, gather(drawn.features)], [*key_content, gather(drawn.content)], [*key_valid, gather(drawn.valid)]
    losses = info_nce(
        states,
        torch.cat(keys),
        positive=torch.arange(len(states), device=states.device) + _rank_offset(len(states)),
        content=entities,
        key_content=torch.cat(key_content),
        key_valid=torch.cat(key_valid) > 0,
        scale=scale,
    )
    return (losses * valid).sum()
