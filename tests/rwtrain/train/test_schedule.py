"""Learning rates and parameter groups by formula."""

from __future__ import annotations

import math

import pytest

from rwtrain.config.schema import OptimizerConfig
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining
from rwtrain.train.engine import learning_rate_factor, parameter_groups


def factors(steps: int, **settings: object) -> list[float]:
    config = OptimizerConfig.model_validate({"warmup_steps": 4, "min_learning_rate_ratio": 0.1, **settings})
    return [learning_rate_factor(step, steps, config) for step in range(steps + 1)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant"])
def test_warm_up_has_no_step_without_learning_rate(schedule: str) -> None:
    assert factors(20, schedule=schedule)[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors(20, schedule=schedule, warmup_steps=0)[0] == 1.0


def test_decays_by_formula() -> None:
    assert factors(20, schedule="cosine")[12] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * 8 / 16)) / 2)
    assert factors(20, schedule="linear")[12] == pytest.approx(0.1 + 0.9 * (1 - 8 / 16))
    assert set(factors(20, schedule="constant")[4:]) == {1.0}
    for schedule in ("cosine", "linear", "wsd"):
        assert factors(20, schedule=schedule)[20] == pytest.approx(0.1)


def test_wsd_stays_then_falls() -> None:
    found = factors(20, schedule="wsd", decay_steps=5)
    assert found[4:16] == [1.0] * 12
    assert found[16:] == pytest.approx([0.1 + 0.9 * (1 - part / 5) for part in (1, 2, 3, 4, 5)])
    assert factors(100, schedule="wsd")[90] == 1.0
    assert factors(100, schedule="wsd")[95] == pytest.approx(0.1 + 0.9 * 0.5)
    assert factors(20, schedule="wsd", decay_steps=100)[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_only_matrices_decay() -> None:
    model = RefinedWebForPreTraining(
        RefinedWebConfig(vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, entity_dim=8)
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, plain = ({names[id(parameter)] for parameter in group["params"]} for group in parameter_groups(model, 0.1))
    assert len(decayed) + len(plain) == len(names)
    assert all(name.endswith((".bias", "norm.weight", "logit_scale")) for name in plain)
    assert not any(name.endswith((".bias", "norm.weight", "logit_scale")) for name in decayed)
    assert {"text_logit_scale", "model.norm.weight", "model.entity_gates.1.gate.bias"} <= plain


def test_layer_decay_by_hand() -> None:
    """Two layers, decay 0.5: heads 1, layer 1 and its gate 1/2, layer 0 1/4, embedding and entity projection 1/8."""
    config = RefinedWebConfig(vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, entity_dim=4, gate_layers=[1])
    model = RefinedWebForPreTraining(config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, 0.1, layer_decay=0.5)
    scales = {names[id(parameter)]: group["lr_scale"] for group in groups for parameter in group["params"]}
    assert scales.keys() == set(names.values())
    expected = {"embed_tokens": 0.125, "entity_projection": 0.125, "layers.0.": 0.25, "layers.1.": 0.5, "entity_gates.1.": 0.5}
    for name, scale in scales.items():
        assert scale == next((value for part, value in expected.items() if part in name), 1.0), name
    assert {group["weight_decay"] for group in groups} == {0.1, 0.0}
    assert all((group["weight_decay"] == 0.1) == (parameter.ndim >= 2) for group in groups for parameter in group["params"])
    assert [group["lr_scale"] for group in parameter_groups(model, 0.1)] == [1.0, 1.0]
