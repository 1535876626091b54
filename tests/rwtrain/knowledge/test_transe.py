from __future__ import annotations

import numpy as np
import pytest
import torch

from rwtrain.config.load import load_config
from rwtrain.errors import ConfigError
from rwtrain.knowledge.negatives import own_answers
from rwtrain.knowledge.transe import TransE, TransEConfig, distance, pairwise_distance

DRAW = np.random.default_rng(5)


def plain_distance(head: np.ndarray, relation: np.ndarray, tail: np.ndarray, norm: int) -> float:
    difference = [float(h) + float(r) - float(t) for h, r, t in zip(head, relation, tail, strict=True)]
    return sum(abs(value) for value in difference) if norm == 1 else sum(value * value for value in difference) ** 0.5


@pytest.mark.parametrize("norm", [1, 2])
def test_distance_is_the_norm_of_h_plus_r_minus_t(norm: int) -> None:
    head, relation, tail = DRAW.normal(size=(3, 6, 17)).astype(np.float32)
    expected = [plain_distance(head[i], relation[i], tail[i], norm) for i in range(6)]
    found = distance(*map(torch.from_numpy, (head, relation, tail)), norm=norm)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    pairs = pairwise_distance(torch.from_numpy(head + relation), torch.from_numpy(tail), norm=norm)
    np.testing.assert_allclose(pairs, [[plain_distance(head[i], relation[i], tail[j], norm) for j in range(6)] for i in range(6)], rtol=2e-6)


def reference_loss(entity: torch.Tensor, relation: torch.Tensor, triples: np.ndarray, negatives: list[int], config: TransEConfig) -> torch.Tensor:
    """The loss, one triple and one candidate at a time, in float64; autograd then gives its gradient."""
    total = torch.zeros((), dtype=torch.float64)
    for head, rel, tail in triples.tolist():
        positive = torch.linalg.vector_norm(entity[head] + relation[rel] - entity[tail], ord=config.norm)
        for answer, query in ((tail, entity[head] + relation[rel]), (head, entity[tail] - relation[rel])):
            others = torch.stack([torch.linalg.vector_norm(query - entity[other], ord=config.norm) for other in negatives if other != answer])
            if config.loss == "self_adversarial":
                share = torch.softmax(-config.adversarial_temperature * others.detach(), 0)
                total = total - torch.log(torch.sigmoid(config.margin - positive)) - (share * torch.log(torch.sigmoid(others - config.margin))).sum()
                continue
            logits = torch.cat([positive[None], others]) * -config.scale
            smoothing = config.label_smoothing
            target = torch.full((len(logits),), smoothing / len(negatives), dtype=torch.float64)
            target[0] = 1 - smoothing * (len(logits) - 1) / len(negatives)
            total = total - (target * torch.log_softmax(logits, 0)).sum()
    return total


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("negatives", [0, 5])
@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "softmax"},
        {"loss": "softmax", "scale": 2.5, "label_smoothing": 0.1},
        {"loss": "self_adversarial", "margin": 2.0, "adversarial_temperature": 0.7},
    ],
)
def test_a_step_follows_the_gradient_of_the_plain_loss(norm: int, negatives: int, settings: dict) -> None:
    config = TransEConfig(dimension=6, norm=norm, negatives=negatives, learning_rate=0.1, seed=3, **settings)
    model = TransE(entities=9, relations=2, config=config)
    before = model.table.vectors.clone()
    entity = before[:9].double().requires_grad_()
    relation = before[9:].double().requires_grad_()
    triples = np.array([[0, 0, 1], [1, 1, 2], [0, 0, 3], [4, 1, 4]])
    drawn = np.array([1, 3, 5, 6]) if negatives else np.arange(9)
    loss = reference_loss(entity, relation, triples, drawn.tolist(), config)
    loss.backward()
    found = model.step(triples, drawn, own_answers(triples, drawn), learning_rate=0.1)
    np.testing.assert_allclose(float(found), float(loss.detach()), rtol=1e-5)
    gradient = torch.cat([entity.grad, relation.grad])
    step = 0.1 * gradient / (gradient.square().mean(1, keepdim=True) + 1e-12).sqrt()
    np.testing.assert_allclose(model.table.vectors, (before.double() - step).detach(), atol=2e-4)


def test_adam_moves_rows_as_torchs_sparse_adam_does() -> None:
    config = TransEConfig(dimension=5, optimizer="adam", loss="softmax")
    model = TransE(entities=9, relations=2, config=config)
    parameter = torch.nn.Parameter(model.table.vectors.clone())
    optimizer = torch.optim.SparseAdam([parameter], lr=0.01)
    for triples, drawn in (([[0, 0, 1], [1, 1, 2]], [3, 5]), ([[0, 0, 7]], [1, 3, 8]), ([[0, 1, 1]], [5])):
        batch, negatives = np.array(triples), np.array(drawn)
        loss = reference_loss(parameter[:9].double(), parameter[9:].double(), batch, drawn, config)
        (dense,) = torch.autograd.grad(loss, parameter)
        parameter.grad = dense.to_sparse(1)
        optimizer.step()
        model.step(batch, negatives, own_answers(batch, negatives), learning_rate=0.01)
        np.testing.assert_allclose(model.table.vectors, parameter.detach(), atol=2e-6)


def test_products_in_bfloat16_follow_float32() -> None:
    steps = {}
    for matmul in ("float32", "bfloat16"):
        model = TransE(entities=300, relations=4, config=TransEConfig(dimension=64, matmul=matmul, optimizer="adam"))
        before = model.table.vectors.clone()
        triples, negatives = np.random.default_rng(0).integers(0, (300, 4, 300), (200, 3)), np.arange(0, 300, 2)
        model.step(triples, negatives, own_answers(triples, negatives), learning_rate=1.0)
        steps[matmul] = (model.table.state["first"] * 10, before)
    exact, rounded = steps["float32"][0], steps["bfloat16"][0]
    assert 0 < torch.linalg.norm(exact - rounded) < 0.02 * torch.linalg.norm(exact)


def test_rows_outside_the_batch_are_not_touched() -> None:
    model = TransE(entities=50, relations=4, config=TransEConfig(dimension=4))
    before = model.table.vectors.clone()
    model.step(np.array([[1, 2, 3]]), np.array([7, 9]), (np.zeros(0, int), np.zeros(0, int)), learning_rate=0.1)
    changed = (model.table.vectors != before).any(1).nonzero().flatten().tolist()
    assert changed == [1, 3, 7, 9, 50 + 2]


@pytest.mark.parametrize("loss", ["softmax", "self_adversarial"])
def test_a_query_without_a_negative_left_still_learns_from_its_triple(loss: str) -> None:
    model = TransE(entities=3, relations=1, config=TransEConfig(dimension=4, loss=loss, margin=1.0))
    triples, negatives = np.array([[0, 0, 1]]), np.array([1, 2])
    before = model.table.vectors.clone()
    everything = (np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    found = model.step(triples, negatives, everything, learning_rate=0.01)
    positive = distance(before[0], before[3], before[1], norm=2).item()
    expected = 2 * np.log1p(np.exp(positive - 1.0)) if loss == "self_adversarial" else 0.0
    assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert model.table.vectors.isfinite().all()
    moved = distance(*model.table.vectors[[0, 3, 1]], norm=2).item()
    assert moved < positive if loss == "self_adversarial" else moved == pytest.approx(positive)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("norm", [1, 2])
def test_a_step_on_the_gpu_equals_one_on_the_cpu(norm: int) -> None:
    draw = np.random.default_rng(0)
    triples, negatives = draw.integers(0, (300, 4, 300), (200, 3)), np.arange(0, 300, 3)
    found = {}
    for device in ("cpu", "cuda"):
        model = TransE(entities=300, relations=4, config=TransEConfig(dimension=32, norm=norm, device=device))
        for _ in range(3):
            model.step(triples, negatives, own_answers(triples, negatives), learning_rate=0.1)
        found[device] = model.table.vectors.cpu()
    np.testing.assert_allclose(found["cuda"], found["cpu"], atol=1e-3)


def test_settings_without_effect_are_refused() -> None:
    with pytest.raises(ConfigError, match="label_smoothing has no effect"):
        load_config(TransEConfig, None, ["loss=self_adversarial", "label_smoothing=0.1"])
    with pytest.raises(ConfigError, match="matmul has no effect with norm: 1"):
        load_config(TransEConfig, None, ["norm=1", "matmul=bfloat16"])
    with pytest.raises(ConfigError, match="did you mean `dimension`"):
        load_config(TransEConfig, None, ["dimensions=3"])
