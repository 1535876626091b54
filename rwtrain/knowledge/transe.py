"""TransE (Bordes et al. 2013): a true triple has a small distance d(h, r, t) = ||h + r - t||.

The negatives of a batch are shared by all its triples, in both directions, so that for the L2 distance the work is three matrix
products. Gradients are written out by hand: they are a few lines, and only the rows that a batch names are read and written.
Shapes: B triples, K negatives, D dimensions.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from rwtrain.config.load import Node
from rwtrain.knowledge.rows import MIN_SQUARE, Place, RowTable

CHUNK_QUERIES = 256


class TransEConfig(Node):
    """How TransE is trained."""

    dimension: int = Field(256, ge=1)
    """Length of an entity's and of a relation's vector."""
    norm: Literal[1, 2] = 2
    """1: sum of absolute differences; 2: Euclidean distance."""
    loss: Literal["softmax", "self_adversarial"] = "self_adversarial"
    """softmax: cross-entropy of the true entity against the negatives; self_adversarial: Sun et al. 2019, eq. 5."""
    negatives: int = Field(512, ge=0)
    """Entities drawn at random for each batch and shared by its queries; 0 compares with every entity ("1-vs-all")."""
    leave_out_known: bool = True
    """Do not use a negative against a query with which it makes a training triple. The index for it takes 16 bytes a training triple."""
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
    optimizer: Literal["adagrad", "adam"] = "adagrad"
    """Both touch only the rows of a batch. adagrad keeps one number a row, adam two moments a number (as torch.optim.SparseAdam)."""
    learning_rate: float = Field(0.4, gt=0)
    """Step of the optimiser; with Adam about a hundred times smaller than with Adagrad."""
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
    matmul: Literal["float32", "bfloat16"] = "float32"
    """L2: how matrix products are computed; bfloat16 where the processor multiplies it faster. Vectors stay float32."""
    threads: int = Field(1, ge=1)
    """CPU threads. The matrices of a batch are small: a second thread gains little, and on a busy machine waiting for it costs much."""

    @model_validator(mode="after")
    def _check(self) -> TransEConfig:
        if self.loss == "self_adversarial" and self.label_smoothing:
            raise ValueError("label_smoothing has no effect with loss: self_adversarial; remove it or use loss: softmax")
        if self.norm == 1 and self.matmul != "float32":
            raise ValueError("matmul has no effect with norm: 1, which multiplies no matrices; remove it or use norm: 2")
        return self


def distance(head: torch.Tensor, relation: torch.Tensor, tail: torch.Tensor, *, norm: int) -> torch.Tensor:
    """d(h, r, t) = ||h + r - t||_norm over the last dimension."""
    return torch.linalg.vector_norm(head + relation - tail, ord=norm, dim=-1)


def pairwise_distance(query_QD: torch.Tensor, candidate_KD: torch.Tensor, *, norm: int, matmul: str = "float32") -> torch.Tensor:
    """Distance of every query to every candidate, [Q, K]; for L2 by one matrix product."""
    if norm == 1:
        return torch.cdist(query_QD, candidate_KD, p=1.0)
    return pairwise_square(query_QD, candidate_KD, matmul=matmul).sqrt_()


def pairwise_square(query_QD: torch.Tensor, candidate_KD: torch.Tensor, *, matmul: str = "float32") -> torch.Tensor:
    """Squared Euclidean distances, [Q, K], at least 1e-12."""
    square_1K = candidate_KD.square().sum(1).unsqueeze(0)
    square_QK = torch.add(square_1K, product(query_QD, candidate_KD.T, matmul=matmul), alpha=-2.0)
    return square_QK.add_(query_QD.square().sum(1, keepdim=True)).clamp_(min=MIN_SQUARE)


def product(left: torch.Tensor, right: torch.Tensor, *, matmul: str) -> torch.Tensor:
    """left @ right in float32, its factors and result rounded to bfloat16 if `matmul` says so."""
    return (left.bfloat16() @ right.bfloat16()).float() if matmul == "bfloat16" else left @ right


def pairwise_gradient(
    query_QD: torch.Tensor, candidate_KD: torch.Tensor, distance_QK: torch.Tensor, weight_QK: torch.Tensor, *, norm: int, matmul: str = "float32"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient of sum(weight * distance) with respect to queries [Q, D] and candidates [K, D]; overwrites the weights."""
    if norm == 1:
        with torch.enable_grad():
            query_QD, candidate_KD = query_QD.detach().requires_grad_(), candidate_KD.detach().requires_grad_()
            gradients = torch.autograd.grad(torch.cdist(query_QD, candidate_KD, p=1.0), (query_QD, candidate_KD), weight_QK)
        return gradients[0], gradients[1]
    unit_QK = weight_QK.div_(distance_QK)
    query_gradient = (query_QD * unit_QK.sum(1, keepdim=True)).sub_(product(unit_QK, candidate_KD, matmul=matmul))
    return query_gradient, (candidate_KD * unit_QK.sum(0).unsqueeze(1)).sub_(product(unit_QK.T, query_QD, matmul=matmul))


def loss_and_weights(positive_Q: torch.Tensor, negative_QK: torch.Tensor, *, config: TransEConfig) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss and its derivative with respect to each distance.

    Args:
        positive_Q: distance of each query's true triple.
        negative_QK: distances of its negatives; infinity takes an entry out.

    Returns:
        The loss of each query [Q], d loss / d positive [Q], d loss / d negative [Q, K].
    """
    if config.loss == "self_adversarial":
        share_QK = torch.softmax(-config.adversarial_temperature * negative_QK, 1).nan_to_num_(0.0)  # a query may have no negative left
        gap_QK = config.margin - negative_QK
        loss_Q = torch.nn.functional.softplus(positive_Q - config.margin) + (share_QK * torch.nn.functional.softplus(gap_QK)).sum(1)
        return loss_Q, torch.sigmoid(positive_Q - config.margin), share_QK.mul_(gap_QK.sigmoid_()).neg_()
    nearest_Q = torch.minimum(positive_Q, negative_QK.amin(1))  # subtracted, so that the exponentials neither overflow nor all vanish
    weight_QK = (negative_QK - nearest_Q.unsqueeze(1)).mul_(-config.scale).exp_()
    positive_share_Q = (nearest_Q - positive_Q).mul_(config.scale).exp_()
    total_Q = weight_QK.sum(1) + positive_share_Q
    loss_Q = total_Q.log() + (positive_Q - nearest_Q) * config.scale
    weight_Q = (1 - positive_share_Q / total_Q) * config.scale
    weight_QK.mul_((-config.scale / total_Q).unsqueeze(1))
    if config.label_smoothing:
        spread_QK = (config.label_smoothing * config.scale) * negative_QK.isfinite() / negative_QK.shape[1]
        finite_QK = torch.where(negative_QK.isfinite(), negative_QK, 0.0)
        loss_Q = loss_Q + (spread_QK * (finite_QK - positive_Q.unsqueeze(1))).sum(1)
        weight_Q, weight_QK = weight_Q - spread_QK.sum(1), weight_QK + spread_QK
    return loss_Q, weight_Q, weight_QK


def query_gradients(
    query_QD: torch.Tensor, positive_Q: torch.Tensor, candidate_KD: torch.Tensor, known: tuple[np.ndarray, np.ndarray], *, config: TransEConfig
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss and gradients of queries against shared candidates, a few queries at a time so that their matrices stay in the cache.

    Args:
        query_QD: where the answers should be.
        positive_Q: distance of each query's true answer.
        candidate_KD: vectors of the shared negatives.
        known: (query, candidate) of pairs that are no negatives, by ascending query.
        config: how to train.

    Returns:
        The summed loss, d loss / d positive [Q], d loss / d query [Q, D] and d loss / d candidate [K, D] through the negatives.
    """
    device = query_QD.device
    chunk = CHUNK_QUERIES if device.type == "cpu" else len(query_QD)
    weight_Q, query_gradient, candidate_gradient = torch.empty_like(positive_Q), torch.empty_like(query_QD), torch.zeros_like(candidate_KD)
    loss = torch.zeros((), device=device)
    for start in range(0, len(query_QD), chunk):
        part = slice(start, min(start + chunk, len(query_QD)))
        distance_QK = pairwise_distance(query_QD[part], candidate_KD, norm=config.norm, matmul=config.matmul)
        first, last = np.searchsorted(known[0], (part.start, part.stop))
        out = (torch.from_numpy(known[0][first:last] - start).to(device), torch.from_numpy(known[1][first:last]).to(device))
        distance_QK[out] = float("inf")
        loss_Q, weight_Q[part], weight_QK = loss_and_weights(positive_Q[part], distance_QK, config=config)
        loss += loss_Q.sum()
        query_gradient[part], gradient_KD = pairwise_gradient(query_QD[part], candidate_KD, distance_QK, weight_QK, norm=config.norm, matmul=config.matmul)
        candidate_gradient += gradient_KD
    return loss, weight_Q, query_gradient, candidate_gradient


class TransE:
    """The vectors of a graph and one training step. Relations are the rows behind the entities' in one table.

    Args:
        entities: number of entity rows.
        relations: number of relation rows.
        config: how to train.
        place: this process among the ranks that share the table.
    """

    def __init__(self, *, entities: int, relations: int, config: TransEConfig, place: Place | None = None) -> None:
        self.entities, self.relations, self.config = entities, relations, config
        self.device = torch.device(config.device)
        self.table = RowTable(entities + relations, config.dimension, seed=config.seed, optimizer=config.optimizer, place=place or Place(), device=self.device)
        self.steps = 0

    @torch.no_grad()
    def step(self, batch_B3: np.ndarray, negatives_K: np.ndarray, known: tuple[np.ndarray, np.ndarray], *, learning_rate: float) -> torch.Tensor:
        """Train on one batch; return the loss summed over its queries.

        Args:
            batch_B3: int64 rows (head, relation, tail); with several ranks, this rank's part of the batch.
            negatives_K: int64 entity rows; with several ranks the same on all.
            known: (query, place in `negatives_K`) of negatives to leave out, as `KnownNegatives.pairs` gives them.
            learning_rate: of this step.
        """
        count, norm = len(batch_B3), self.config.norm
        named = np.concatenate([batch_B3[:, 0], batch_B3[:, 2], negatives_K, batch_B3[:, 1] + self.entities])
        rows_U, place = (torch.from_numpy(array).to(self.device) for array in np.unique(named, return_inverse=True))
        vectors_UD, request = self.table.gather(rows_U)
        head_BD, tail_BD, candidate_KD, relation_BD = vectors_UD[place].split([count, count, len(negatives_K), count])
        difference_BD = head_BD + relation_BD - tail_BD
        positive_B = torch.linalg.vector_norm(difference_BD, ord=norm, dim=1).clamp_(min=MIN_SQUARE**0.5)
        query_QD = torch.cat([head_BD + relation_BD, tail_BD - relation_BD])
        loss, weight_Q, query_gradient, candidate_gradient = query_gradients(query_QD, positive_B.repeat(2), candidate_KD, known, config=self.config)
        direction_BD = difference_BD.sign() if norm == 1 else difference_BD / positive_B.unsqueeze(1)
        positive_gradient = direction_BD * weight_Q.view(2, -1).sum(0).unsqueeze(1)
        tail_query, head_query = query_gradient.chunk(2)
        gradient = torch.cat([positive_gradient + tail_query, head_query - positive_gradient, candidate_gradient, positive_gradient + tail_query - head_query])
        gradient_UD = torch.zeros_like(vectors_UD).index_add_(0, place, gradient)
        self.steps += 1
        self.table.update(request, gradient_UD, learning_rate=learning_rate, step=self.steps)
        return loss
