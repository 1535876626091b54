"""Heads for understanding: padding does not matter, losses are the formulas, training moves them, they load from a pretrained folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.model.heads_refinedweb import RefinedWebForCausalLM
from rwtrain.model.tasks_refinedweb import RefinedWebForQuestionAnswering, RefinedWebForSequenceClassification, RefinedWebForTokenClassification

SHAPE = {"vocab_size": 80, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "embedding_dim": 8}
HEADS = [RefinedWebForSequenceClassification, RefinedWebForTokenClassification, RefinedWebForQuestionAnswering]
IDS = torch.tensor([[1, 20, 30, 40, 2]])


def make(head: Any, **settings: Any) -> Any:
    torch.manual_seed(0)
    return head._from_config(RefinedWebConfig(**SHAPE, **settings)).eval()


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    out = model(ids, mask)
    return torch.stack((out.start_logits, out.end_logits), -1) if isinstance(model, RefinedWebForQuestionAnswering) else out.logits


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(head: Any, side: str) -> None:
    model, pad = make(head, num_labels=3), torch.tensor([[3, 3]])
    real, none = torch.ones_like(IDS), torch.zeros_like(pad)
    padded, mask = (torch.cat(parts if side == "right" else parts[::-1], 1) for parts in ((IDS, pad), (real, none)))
    found = logits(model, padded, mask)
    if found.ndim == 3:
        found = found[:, :5] if side == "right" else found[:, 2:]
    torch.testing.assert_close(found, logits(model, IDS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_every_token_sees_its_right_context(head: Any) -> None:
    model, other = make(head, num_labels=3), IDS.clone()
    other[0, -2] = 41
    assert (logits(model, IDS)[:, 0] - logits(model, other)[:, 0]).abs().max() > 1e-5


def test_losses_are_the_formulas() -> None:
    with torch.no_grad():
        model = make(HEADS[0], num_labels=3)
        out = model(IDS, labels=torch.tensor([2]))
        assert out.loss.item() == pytest.approx(-out.logits.log_softmax(-1)[0, 2].item(), rel=1e-6)
        model = make(HEADS[0], num_labels=1)
        out = model(IDS, labels=torch.tensor([2.5]))
        assert out.loss.item() == pytest.approx((out.logits.item() - 2.5) ** 2, rel=1e-6)
        model = make(HEADS[1], num_labels=3)
        out = model(IDS, labels=torch.tensor([[-100, 1, 0, -100, 2]]))
        shares = out.logits.log_softmax(-1)[0]
        assert out.loss.item() == pytest.approx(-(shares[1, 1] + shares[2, 0] + shares[4, 2]).item() / 3, rel=1e-6)
        model = make(HEADS[2])
        out = model(IDS, start_positions=torch.tensor([1]), end_positions=torch.tensor([3]))
        wanted = -(out.start_logits.log_softmax(-1)[0, 1] + out.end_logits.log_softmax(-1)[0, 3]).item() / 2
        assert out.loss.item() == pytest.approx(wanted, rel=1e-6)


def test_a_pretrained_folder_gives_the_trunk_and_only_the_head_is_new(tmp_path: Path) -> None:
    pretrained = make(RefinedWebForCausalLM)
    pretrained.save_pretrained(tmp_path)
    model, info = RefinedWebForSequenceClassification.from_pretrained(tmp_path, num_labels=4, output_loading_info=True)
    assert set(info["missing_keys"]) == {"score.weight", "score.bias"}
    assert not info["unexpected_keys"]
    for name, parameter in pretrained.model.named_parameters():
        torch.testing.assert_close(model.model.get_parameter(name), parameter, rtol=0, atol=0)


def test_the_head_learns_the_order_of_words() -> None:
    """A bag of words cannot tell these apart: the label is whether token 10 stands before token 11."""
    torch.manual_seed(0)
    model = make(HEADS[0], num_labels=2).train()
    places = torch.stack([torch.randperm(8)[:2] for _ in range(128)])
    texts = torch.full((128, 8), 20)
    texts[torch.arange(128), places[:, 0]], texts[torch.arange(128), places[:, 1]] = 10, 11
    labels = (places[:, 0] < places[:, 1]).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(texts, labels=labels).loss.backward()
        optimizer.step()
    assert (model.eval()(texts).logits.argmax(1) == labels).float().mean() > 0.95
