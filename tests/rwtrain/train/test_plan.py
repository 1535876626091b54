"""Plans: memory terms against real modules and hand counts, refusals with their reasons, figures that scale as they must."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from rwtrain import cli
from rwtrain.config.load import load_config
from rwtrain.config.schema import TrainConfig
from rwtrain.data.recipe import Recipe
from rwtrain.errors import ConfigError
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining
from rwtrain.train.flops import count_parameters
from rwtrain.train.hardware import DEVICES, peak_tflops_of
from rwtrain.train.memory import Precision, layer_activation_bytes, rank_memory
from rwtrain.train.plan import Cluster, Widths, check, communication_bytes, largest_micro_batch, make_plan

EXAMPLE = Path(__file__).parents[3] / "examples" / "pretrain.yaml"
WIDTHS = Widths(32_000, 128, 196, ())
H100 = Cluster(8, 8, DEVICES["h100"])


def example(*overrides: str) -> TrainConfig:
    return load_config(TrainConfig, EXAMPLE, overrides)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("norm", ["rms_norm", "layer_norm"])
def test_activations_of_a_layer_are_what_autograd_keeps(size: int, norm: str) -> None:
    config = RefinedWebConfig(
        vocab_size=100, hidden_size=128, intermediate_size=352, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=4, norm_type=norm
    )
    dtype = torch.bfloat16 if size == 2 else torch.float32
    model = RefinedWebForPreTraining._from_config(config).to(dtype)
    hidden = torch.randn(2, 128, 128, dtype=dtype, requires_grad=True)
    rotary = model.model.rotary_emb(hidden, position_ids=torch.arange(128)[None].expand(2, -1))
    mask = torch.ones(2, 1, 128, 128, dtype=torch.bool).tril()
    not_counted = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *rotary)}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in not_counted:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        model.model.layers[0](hidden, position_embeddings=rotary, attention_mask=mask)
    assert layer_activation_bytes(config, 128, size) == pytest.approx(sum(kept.values()) / 256, rel=0.02)


def zero(stage: int, size: int = 2, *, offload: bool = False) -> Precision:
    return Precision(size, stage, offload, offload, {"stage": stage})


@pytest.mark.parametrize(
    ("stage", "per_parameter"),
    # Rajbhandari et al. 2020, figure 1, with 4 ranks: 2 + 2 + 12 bytes, of which optimiser, gradients, weights are sharded in turn
    [(0, 2 + 2 + 12), (1, 2 + 2 + 12 / 4), (2, 2 + 2 / 4 + 12 / 4), (3, 16 / 4)],
)
def test_states_follow_the_zero_paper(stage: int, per_parameter: float) -> None:
    config = example()
    model = RefinedWebConfig(vocab_size=1000, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4)
    recipe = Recipe.derive(config.batch, world_size=64, image_tokens=0, entity_dim=0)
    memory = rank_memory(model, recipe, zero(stage), world_size=4, checkpoint_every=0, label_tokens=100)
    assert memory.parameters + memory.gradients + memory.optimizer == pytest.approx(per_parameter * count_parameters(model).total)


def test_a_moving_average_takes_four_bytes_a_parameter() -> None:
    plans = [make_plan(example(*more), H100, WIDTHS) for more in ((), ("optimizer.ema_decay=0.999",))]
    parameters = 1_056_276_355
    assert plans[1].memory.optimizer - plans[0].memory.optimizer == pytest.approx(4 * parameters / 64)
    assert plans[1].checkpoint_bytes - plans[0].checkpoint_bytes == pytest.approx(4 * parameters)


def test_communication_by_hand() -> None:
    """1,000 bf16 parameters, 4 ranks: 1,500 bytes once around the ring."""
    sent = {
        (stage, accumulation): sum(communication_bytes(1000, zero(stage), world_size=4, accumulation=accumulation).values())
        for stage in range(4)
        for accumulation in (1, 2)
    }
    assert [sent[stage, 1] for stage in range(4)] == [3000, 3000, 3000, 4500]
    assert [sent[stage, 2] for stage in range(4)] == [3000, 3000, 4500, 9000]
    assert communication_bytes(1000, zero(3), world_size=1, accumulation=1) == {"gather": 0, "reduce": 0}


def test_time_and_cost_by_hand() -> None:
    plan = make_plan(example(), Cluster(8, 8, DEVICES["h100"], price_per_gpu_hour=2.0), WIDTHS)
    assert plan.tokens_per_step == (512 + 64 + 64 + 128) * 4096
    assert plan.mfu == pytest.approx(plan.model_flops / 64 / plan.step_s / 989e12)
    assert plan.days == pytest.approx(120_000 * plan.step_s / 86_400)
    assert plan.cost == pytest.approx(120_000 * plan.step_s / 3600 * 64 * 2.0)
    assert plan.step_s == pytest.approx(plan.compute_s + plan.communication["reduce"] / 50e9 + plan.update_s)


def test_published_speeds_are_met_within_a_fifth() -> None:
    """llm-foundry, 7B on H100, ZeRO-3-like sharding: 46.4% MFU; our estimate must be of that order, for a text-only batch of its kind."""
    config = example("model.preset=7b", "model.vision=null", "data.entity_store=null", "batch.masked_rows=0", "batch.pair_rows=0", "batch.image_rows=0")
    plan = make_plan(config, H100, Widths(50_000, 0, 0, ()))
    assert plan.mfu == pytest.approx(0.464, rel=0.2)


def test_checkpointing_trades_memory_for_time() -> None:
    plans = [make_plan(example(f"engine.activation_checkpointing={every}"), H100, WIDTHS) for every in (0, 2, 1)]
    assert plans[0].memory.activations > plans[1].memory.activations > plans[2].memory.activations
    assert plans[0].step_s < plans[1].step_s < plans[2].step_s
    assert len({plan.model_flops for plan in plans}) == 1


def test_impossible_configurations_are_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"batch.masked_rows=64.* cannot be split over 96 ranks"):
        check(example(), Cluster(12, 8, DEVICES["h100"]), WIDTHS)
    with pytest.raises(ConfigError, match=r"memory: one rank needs .* Try .*the zero3 overlay"):
        check(example("model.preset=13b", "engine.overlays=[zero1, bf16]"), H100, WIDTHS)
    with pytest.raises(ConfigError, match=r"not a multiple of num_attention_heads=12"):
        example("model.num_attention_heads=12")
    with pytest.raises(ConfigError, match=r"do not fit a row of 128"):
        check(example("batch.seq_len=128", "batch.view_tokens=64"), H100, WIDTHS)


def test_the_largest_micro_batch_fits_and_the_next_does_not() -> None:
    config, one_node = example(), Cluster(1, 8, DEVICES["h100"])
    best = largest_micro_batch(config, one_node, WIDTHS)
    assert best is not None
    assert best.fits
    assert best.accumulation > 1
    assert not make_plan(config, one_node, WIDTHS, accumulation=best.accumulation // 2).fits


def test_offload_moves_the_optimiser_to_the_host() -> None:
    here, there = make_plan(example(), H100, WIDTHS), make_plan(example("engine.overlays=[zero3, bf16, offload]"), H100, WIDTHS)
    assert there.memory.optimizer == 0 < here.memory.optimizer
    assert there.memory.host > here.memory.optimizer
    assert there.memory.total < here.memory.total


def test_the_command_prints_tables_and_one_json_object(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    common = ["plan", str(EXAMPLE), "--nodes", "8", "--gpus", "8", "--gpu", "h100"]
    assert cli.main([*common, "--price-per-gpu-hour", "2", "--plot", str(tmp_path / "plan.png")]) == 0
    printed = capsys.readouterr().out
    assert "1,056,276,355 parameters on 8 x 8 h100" in printed
    assert "cannot be split over 4096 ranks" in printed
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main([*common, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] is True
    assert found["tokens"] == 120_000 * 768 * 4096
    assert [entry["world_size"] for entry in found["scaling"]][-1] == 4096
    assert cli.main(["plan", str(EXAMPLE), "--gpu", "h900"]) == 2
    assert "h100" in capsys.readouterr().err


def test_without_a_size_the_smallest_that_can_run_it_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="one rank needs"):
        check(example(), Cluster(1, 8, DEVICES["h100"]), WIDTHS)
    assert cli.main(["plan", str(EXAMPLE), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["world_size"], found["fits"]) == (16, True)
    assert "2 x 8 GPUs, the fewest" in found["assumptions"][0]
    assert cli.main(["plan", str(EXAMPLE), "--set", "model.preset=70b", "--set", "engine.overlays=[zero0, bf16]"]) == 2
    assert "one rank needs" in capsys.readouterr().err


def test_devices_are_recognised_by_the_drivers_name() -> None:
    assert peak_tflops_of("NVIDIA H200") == 989
    assert peak_tflops_of("NVIDIA A100-SXM4-80GB") == 312
    assert peak_tflops_of("NVIDIA GeForce RTX 4090") == 165
    assert peak_tflops_of("Intel UHD") is None
