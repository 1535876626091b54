"""TransE (Bordes et al. 2013): a true triple has a small distance d(h, r, t) = ||h + r - t||.

The negatives of a batch are shared by all its triples, in both directions, so that for the L2 distance the work is three matrix
products. Gradients are written out by hand: they are a few lines, and only the rows that a batch names are read and written.
Shapes: B triples, K negatives, D dimensions.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator

from rwtrain.config.load import Node

MIN_SQUARE = 1e-12


class TransEConfig(Node):
    """How TransE is trained."""

    dimension: int = Field(256, ge=1)
    """Length of an entity's and of a relation's vector."""
    norm: Literal[1, 2] = 2
    """1: sum of absolute differences; 2: Euclidean distance."""
    loss: Literal["softmax", "self_adversarial"] = "self_adversarial"
    """softmax: cross-entropy of the true entity against the negatives; self_adversarial: Sun et al. 2019, eq. 5."""
    negatives: int = Field(256, ge=0)
    """Entities drawn at random for each batch; 0 compares with every entity ("1-vs-all")."""
    scale: float = Field(1.0, gt=0)
    """Distances are multiplied by this before the softmax."""
    margin: float = Field(5.0, gt=0)
    """self_adversarial: the distance that parts true from false triples."""
    adversarial_temperature: float = Field(1.0, ge=0)
    """self_adversarial: how strongly near negatives weigh; 0 weighs all alike."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """softmax: share of the target spread evenly over the negatives."""
    batch_size: int = Field(1024, ge=1)
    """Triples per update; each is used in both directions."""
    learning_rate: float = Field(0.4, gt=0)
    """Step of row-wise Adagrad."""
    decay_share: float = Field(0.75, ge=0, le=1)
    """Share of the training, at its end, in which the learning rate falls linearly to zero."""
    epochs: int = Field(40, ge=1)
    """Passes over the training triples."""
    minutes: float | None = Field(None, gt=0)
    """Wall time; if set it replaces `epochs`: the number of updates is fixed after a short measurement."""
    evaluate_every: int = Field(5, ge=0)
    """Epochs between validations; 0 never validates."""
    valid_triples: int = Field(2000, ge=1)
    """How many validation triples a validation ranks; always the same ones."""
    patience: int = Field(0, ge=0)
    """Stop after this many validations without a better MRR; 0 runs to the end."""
    checkpoint_seconds: float = Field(60.0, gt=0)
    """Wall time between checkpoints."""
    seed: int = 0
    """Decides the initial vectors, the order of the triples and the negatives."""
    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:1, …"""
    threads: int = Field(1, ge=1)
    """CPU threads. The matrices of a batch are small: a second thread gains little, and on a busy machine waiting for it costs much."""

    @model_validator(mode="after")
    def _check(self) -> TransEConfig:
        if self.loss == "self_adversarial" and self.label_smoothing:
            raise ValueError("label_smoothing has no effect with loss: self_adversarial; remove it or use loss: softmax")
        return self


def distance(head: torch.Tensor, relation: torch.Tensor, tail: torch.Tensor, *, norm: int) -> torch.Tensor:
    """d(h, r, t) = ||h + r - t||_norm over the last dimension."""
    return torch.linalg.vector_norm(head + relation - tail, ord=norm, dim=-1)


def pairwise_distance(query_QD: torch.Tensor, candidate_KD: torch.Tensor, *, norm: int) -> torch.Tensor:
    """Distance of every query to every candidate, [Q, K]; for L2 by one matrix product."""
    if norm == 1:
        return torch.cdist(query_QD, candidate_KD, p=1.0)
    return pairwise_square(query_QD, candidate_KD).sqrt_()


def pairwise_square(query_QD: torch.Tensor, candidate_KD: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distances, [Q, K], at least 1e-12."""
    square_QK = torch.addmm(candidate_KD.square().sum(1).unsqueeze(0), query_QD, candidate_KD.T, alpha=-2.0)
    return square_QK.add_(query_QD.square().sum(1, keepdim=True)).clamp_(min=MIN_SQUARE)


def pairwise_gradient(
    query_QD: torch.Tensor, candidate_KD: torch.Tensor, distance_QK: torch.Tensor, weight_QK: torch.Tensor, *, norm: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient of sum(weight * distance) with respect to queries [Q, D] and candidates [K, D]."""
    if norm == 1:
        with torch.enable_grad():
            query_QD, candidate_KD = query_QD.detach().requires_grad_(), candidate_KD.detach().requires_grad_()
            gradients = torch.autograd.grad(torch.cdist(query_QD, candidate_KD, p=1.0), (query_QD, candidate_KD), weight_QK)
        return gradients[0], gradients[1]
    unit_QK = weight_QK / distance_QK
    query_gradient = query_QD * unit_QK.sum(1, keepdim=True) - unit_QK @ candidate_KD
    return query_gradient, candidate_KD * unit_QK.sum(0).unsqueeze(1) - unit_QK.T @ query_QD


def loss_and_weights(positive_Q: torch.Tensor, negative_QK: torch.Tensor, *, config: TransEConfig) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The mean loss and its derivative with respect to each distance.

    Args:
        positive_Q: distance of each query's true triple.
        negative_QK: distances of its negatives; infinity takes an entry out.

    Returns:
        The mean loss, d loss / d positive [Q], d loss / d negative [Q, K], both for the sum over queries.
    """
    if config.loss == "self_adversarial":
        share_QK = torch.softmax(-config.adversarial_temperature * negative_QK, 1)
        gap_QK = config.margin - negative_QK
        loss_Q = torch.nn.functional.softplus(positive_Q - config.margin) + (share_QK * torch.nn.functional.softplus(gap_QK)).sum(1)
        return loss_Q.mean(), torch.sigmoid(positive_Q - config.margin), -share_QK * torch.sigmoid(gap_QK)
    logits = torch.cat([positive_Q.unsqueeze(1), negative_QK], 1).mul_(-config.scale)
    log_total = torch.logsumexp(logits, 1)
    loss_Q = log_total - logits[:, 0]
    logits.sub_(log_total.unsqueeze(1)).exp_()  # probabilities from here on
    weight_Q, weight_QK = (1 - logits[:, 0]) * config.scale, logits[:, 1:] * -config.scale
    if config.label_smoothing:
        spread_QK = (config.label_smoothing * config.scale) * negative_QK.isfinite() / negative_QK.shape[1]
        finite_QK = torch.where(negative_QK.isfinite(), negative_QK, 0.0)
        loss_Q = loss_Q + (spread_QK * (finite_QK - positive_Q.unsqueeze(1))).sum(1)
        weight_Q, weight_QK = weight_Q - spread_QK.sum(1), weight_QK + spread_QK
    return loss_Q.mean(), weight_Q, weight_QK


class RowAdagrad:
    """Adagrad with one accumulator a row: `table[row] -= lr * g / sqrt(sum of mean(g^2))`; touches only the given rows."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table
        self.square = torch.zeros(len(table), device=table.device)

    def update(self, rows: torch.Tensor, gradient_RD: torch.Tensor, *, learning_rate: float) -> None:
        """Apply the gradients of `rows`; a row may appear several times, its gradients are added first."""
        unique, place = torch.unique(rows, return_inverse=True)
        total_UD = torch.zeros(len(unique), gradient_RD.shape[1], device=gradient_RD.device).index_add_(0, place, gradient_RD)
        square_U = self.square[unique] + total_UD.square().mean(1)
        self.square[unique] = square_U
        self.table.index_add_(0, unique, total_UD * (square_U + MIN_SQUARE).rsqrt().unsqueeze(1), alpha=-learning_rate)


class TransE:
    """The vectors, their optimiser state and one training step.

    Args:
        entities: number of entity rows.
        relations: number of relation rows.
        config: how to train.
    """

    def __init__(self, *, entities: int, relations: int, config: TransEConfig) -> None:
        self.config = config
        generator = torch.Generator().manual_seed(config.seed)
        spread = config.dimension**-0.5
        self.entity_ND = (torch.randn(entities, config.dimension, generator=generator) * spread).to(config.device)
        self.relation_RD = (torch.randn(relations, config.dimension, generator=generator) * spread).to(config.device)
        self.entity_optimizer, self.relation_optimizer = RowAdagrad(self.entity_ND), RowAdagrad(self.relation_RD)

    @torch.no_grad()
    def step(self, triples_B3: torch.Tensor, negatives_K: torch.Tensor | None, *, learning_rate: float) -> torch.Tensor:
        """Train on one batch; return its mean loss.

        Args:
            triples_B3: int64 rows (head, relation, tail).
            negatives_K: int64 entity rows, or None for all of them.
            learning_rate: of this step.
        """
        norm, rows_B, relation_B, tail_B = self.config.norm, triples_B3[:, 0], triples_B3[:, 1], triples_B3[:, 2]
        head_BD, relation_BD, tail_BD = self.entity_ND[rows_B], self.relation_RD[relation_B], self.entity_ND[tail_B]
        candidate_KD = self.entity_ND if negatives_K is None else self.entity_ND[negatives_K]
        query_QD = torch.cat([head_BD + relation_BD, tail_BD - relation_BD])
        answer_Q = torch.cat([tail_B, rows_B])
        distance_QK = pairwise_distance(query_QD, candidate_KD, norm=norm)
        masked_QK = distance_QK.masked_fill(self._is_answer(answer_Q, negatives_K), float("inf"))
        difference_BD = head_BD + relation_BD - tail_BD
        positive_B = torch.linalg.vector_norm(difference_BD, ord=norm, dim=1).clamp_(min=MIN_SQUARE**0.5)
        loss, weight_Q, weight_QK = loss_and_weights(positive_B.repeat(2), masked_QK, config=self.config)
        query_gradient, candidate_gradient = pairwise_gradient(query_QD, candidate_KD, distance_QK, weight_QK, norm=norm)
        direction_BD = difference_BD.sign() if norm == 1 else difference_BD / positive_B.unsqueeze(1)
        positive_gradient = direction_BD * weight_Q.view(2, -1).sum(0).unsqueeze(1)
        tail_query, head_query = query_gradient.chunk(2)
        candidates = torch.arange(len(self.entity_ND), device=rows_B.device) if negatives_K is None else negatives_K
        self.entity_optimizer.update(
            torch.cat([rows_B, tail_B, candidates]),
            torch.cat([positive_gradient + tail_query, head_query - positive_gradient, candidate_gradient]),
            learning_rate=learning_rate,
        )
        self.relation_optimizer.update(relation_B, positive_gradient + tail_query - head_query, learning_rate=learning_rate)
        return loss

    def _is_answer(self, answer_Q: torch.Tensor, negatives_K: torch.Tensor | None) -> torch.Tensor:
        """Where a negative is the query's own true entity, [Q, K] bool."""
        if negatives_K is not None:
            return answer_Q.unsqueeze(1) == negatives_K.unsqueeze(0)
        answers_QN = torch.zeros(len(answer_Q), len(self.entity_ND), dtype=torch.bool, device=answer_Q.device)
        return answers_QN.scatter_(1, answer_Q.unsqueeze(1), True)
