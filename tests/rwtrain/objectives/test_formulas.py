"""The formulas of the design, against plain float64 implementations written here."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rwtrain.knowledge.transe import distance
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.model.heads_refinedweb import WeightedLinearCrossEntropy
from rwtrain.model.modeling_refinedweb import RefinedWebDecoderLayer, RefinedWebEntityGate, eager_attention_forward
from rwtrain.objectives.contrastive import Negatives, entity_info_nce, paired_info_nce, two_view_info_nce

DRAW = np.random.default_rng(0)


def softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def normalised(rows: int, width: int) -> np.ndarray:
    vectors = DRAW.normal(size=(rows, width))
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """softmax(QKᵀ/√d_k)V of one head, [S, d]."""
    scores = np.where(visible, q @ k.T / math.sqrt(q.shape[-1]), -np.inf)
    return softmax(scores) @ v


class Holder(torch.nn.Module):
    num_key_value_groups = 1


def test_attention() -> None:
    q, k, v = (DRAW.normal(size=(5, 4)) for _ in range(3))
    mask = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    inputs = (torch.from_numpy(x)[None, None] for x in (q, k, v))
    found, _ = eager_attention_forward(Holder().eval(), *inputs, mask, scaling=4**-0.5)
    np.testing.assert_allclose(found[0, :, 0].numpy(), attention(q, k, v, np.ones((5, 5), bool)), rtol=1e-6, atol=1e-6)  # its softmax runs in float32


def layer(norm_position: str, norm_type: str, implementation: str) -> RefinedWebDecoderLayer:
    config = RefinedWebConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        norm_position=norm_position,
        norm_type=norm_type,
        attn_implementation=implementation,
    )
    torch.manual_seed(3)
    made = RefinedWebDecoderLayer(config, 0).double().eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return made


def norm(module: torch.nn.Module, x: np.ndarray, kind: str) -> np.ndarray:
    weight = module.weight.detach().numpy()
    if kind == "rms_norm":
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * weight + module.bias.detach().numpy()


def multi_head(made: RefinedWebDecoderLayer, x: np.ndarray) -> np.ndarray:
    """Concat(head_1 … head_h) W^O with causal heads; positions all 0, so that the rotation is the identity."""
    part = made.self_attn
    q, k, v = (x @ getattr(part, name).weight.detach().numpy().T for name in ("q_proj", "k_proj", "v_proj"))
    visible = np.tril(np.ones((len(x), len(x)), bool))
    heads = [attention(q[:, 4 * h : 4 * h + 4], k[:, 4 * (h // 2) : 4 * (h // 2) + 4], v[:, 4 * (h // 2) : 4 * (h // 2) + 4], visible) for h in range(4)]
    return np.concatenate(heads, -1) @ part.o_proj.weight.detach().numpy().T


def feed_forward(made: RefinedWebDecoderLayer, x: np.ndarray) -> np.ndarray:
    gate, up, down = (getattr(made.mlp, name).weight.detach().numpy() for name in ("gate_proj", "up_proj", "down_proj"))
    hidden = x @ gate.T
    return (hidden / (1 + np.exp(-hidden)) * (x @ up.T)) @ down.T


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("norm_type", ["rms_norm", "layer_norm"])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_layer_is_attention_feed_forward_residual_and_norm(norm_position: str, norm_type: str, implementation: str) -> None:
    made, x = layer(norm_position, norm_type, implementation), DRAW.normal(size=(6, 16))
    if norm_position == "pre":
        middle = x + multi_head(made, norm(made.input_layernorm, x, norm_type))
        expected = middle + feed_forward(made, norm(made.post_attention_layernorm, middle, norm_type))
    else:
        middle = norm(made.input_layernorm, x + multi_head(made, x), norm_type)
        expected = norm(made.post_attention_layernorm, middle + feed_forward(made, middle), norm_type)
    still = (torch.ones(1, 6, 4, dtype=torch.float64), torch.zeros(1, 6, 4, dtype=torch.float64))
    mask = torch.full((6, 6), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    with torch.no_grad():
        found = made(torch.from_numpy(x)[None], position_embeddings=still, attention_mask=mask)[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)  # the softmax and RMSNorm run in float32


def test_two_view_info_nce_is_cross_entropy_over_positive_then_negatives() -> None:
    items, scale = 5, 1 / 0.1
    views = normalised(2 * items, 8)
    similarity = views @ views.T
    losses = []
    for i in range(2 * items):
        partner = (i + items) % (2 * items)
        negatives = [similarity[i, j] for j in range(2 * items) if j not in (i, partner)]
        logits = scale * np.array([similarity[i, partner], *negatives])  # the positive first: the label is 0
        losses.append(-np.log(softmax(logits)[0]))
    first, second = torch.from_numpy(views).split(items)
    found = two_view_info_nce(first, second, torch.arange(items), torch.ones(items, dtype=torch.float64), torch.tensor([scale], dtype=torch.float64))
    assert found.item() / items == pytest.approx(np.mean(losses), rel=1e-12)


def test_hard_negatives_stand_below_the_line_of_every_view() -> None:
    items, scale, content = 3, 4.0, [0, 1, 2]
    views, hard, hard_content, present = normalised(2 * items, 8), normalised(3, 8), [10, 1, 12], [1.0, 1.0, 0.0]
    expected = 0.0
    for i in range(2 * items):
        partner = (i + items) % (2 * items)
        others = [views[j] for j in range(2 * items) if j not in (i, partner)]
        others += [hard[k] for k in range(3) if present[k] and hard_content[k] != content[i % items]]
        expected += -np.log(softmax(scale * np.array([views[i] @ key for key in (views[partner], *others)]))[0]) / 2
    first, second = torch.from_numpy(views).split(items)
    negatives = Negatives(torch.from_numpy(hard), torch.tensor(hard_content), torch.tensor(present))
    inverse_temperature = torch.tensor([scale], dtype=torch.float64)
    found = two_view_info_nce(first, second, torch.tensor(content), torch.ones(items, dtype=torch.float64), inverse_temperature, negatives)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_drawn_entities_are_further_negatives_unless_they_are_the_answer() -> None:
    states, vectors, drawn, entities, drawn_entities = normalised(3, 8), normalised(3, 8), normalised(4, 8), [5, 6, 7], [9, 6, 5, 9]
    expected = 0.0
    for i in range(3):
        others = [vectors[j] for j in range(3) if j != i] + [drawn[k] for k in range(4) if drawn_entities[k] != entities[i]]
        expected += -np.log(softmax(3.0 * np.array([states[i] @ key for key in (vectors[i], *others)]))[0])
    negatives = Negatives(torch.from_numpy(drawn), torch.tensor(drawn_entities), torch.ones(4))
    scale = torch.tensor([3.0], dtype=torch.float64)
    found = entity_info_nce(torch.from_numpy(states), torch.from_numpy(vectors), torch.tensor(entities), torch.ones(3), scale, negatives)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_paired_info_nce_averages_both_directions_and_skips_false_negatives() -> None:
    images, texts, content = normalised(4, 8), normalised(4, 8), [7, 8, 7, 9]
    expected = 0.0
    for queries, keys in ((images, texts), (texts, images)):
        for i in range(4):
            kept = [i] + [j for j in range(4) if j != i and content[j] != content[i]]
            expected += -np.log(softmax(5.0 * np.array([queries[i] @ keys[j] for j in kept]))[0]) / 2
    weights, scale = torch.ones(4, dtype=torch.float64), torch.tensor([5.0], dtype=torch.float64)
    found = paired_info_nce(torch.from_numpy(images), torch.from_numpy(texts), torch.tensor(content), weights, scale)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_padding_neither_adds_to_a_contrast_nor_is_a_negative() -> None:
    states, vectors, scale = torch.from_numpy(normalised(4, 8)), torch.from_numpy(normalised(4, 8)), torch.tensor([3.0], dtype=torch.float64)
    whole = entity_info_nce(states[:3], vectors[:3], torch.tensor([1, 2, 3]), torch.ones(3), scale)
    padded = entity_info_nce(states, vectors, torch.tensor([1, 2, 3, 0]), torch.tensor([1.0, 1, 1, 0]), scale)
    assert padded.item() == pytest.approx(whole.item(), rel=1e-12)


@pytest.mark.parametrize("order", [1, 2])
def test_transe_distance(order: int) -> None:
    h, r, t = (DRAW.normal(size=(6, 10)) for _ in range(3))
    expected = [np.linalg.norm(h[i] + r[i] - t[i], ord=order) for i in range(6)]
    found = distance(*(torch.from_numpy(x) for x in (h, r, t)), norm=order)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_gate_mixes_only_at_the_mentions() -> None:
    gate, hidden, entity = RefinedWebEntityGate(6).double(), DRAW.normal(size=(2, 5, 6)), DRAW.normal(size=(2, 2, 6))
    positions = np.array([[1, 4], [3, -1]])
    expected = hidden.copy()
    weight, bias = gate.gate.weight.detach().numpy(), gate.gate.bias.detach().numpy()
    for row, slot in ((0, 0), (0, 1), (1, 0)):
        place = positions[row, slot]
        state, vector = hidden[row, place], entity[row, slot]
        g = 1 / (1 + np.exp(-(weight @ np.concatenate((state, vector)) + bias)))
        expected[row, place] = g * state + (1 - g) * vector
    with torch.no_grad():
        found, _ = gate(torch.from_numpy(hidden), torch.from_numpy(entity), torch.from_numpy(positions))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_gate_starts_almost_closed() -> None:
    from rwtrain.model.modeling_refinedweb import RefinedWebModel

    model = RefinedWebModel(RefinedWebConfig(vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, entity_dim=4))
    bias = model.entity_gates["1"].gate.bias
    assert torch.sigmoid(bias).detach().numpy() == pytest.approx(1 / (1 + math.exp(-4)))


def test_fused_loss_and_its_gradients_equal_full_logits() -> None:
    hidden, weight = (torch.from_numpy(DRAW.normal(size=shape)).requires_grad_() for shape in ((7, 6), (11, 6)))
    labels, weights = torch.from_numpy(DRAW.integers(0, 11, 7)), torch.from_numpy(DRAW.uniform(size=7))
    total, losses = WeightedLinearCrossEntropy.apply(hidden, weight, labels, weights, 3)
    expected = torch.nn.functional.cross_entropy(hidden @ weight.T, labels, reduction="none")
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(3 * total, (hidden, weight))
    torch.testing.assert_close(found, torch.autograd.grad(3 * (expected * weights).sum(), (hidden, weight)), rtol=1e-10, atol=1e-12)
