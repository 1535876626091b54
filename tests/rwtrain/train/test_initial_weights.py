"""Beginning with existing weights: Llama-family trunks, image encoders, whole exports; into every ZeRO stage; what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from benchmarks.forked_ranks import Job
from rwtrain.config.schema import InitConfig, TrainConfig
from rwtrain.data.tokenizer import Tokenizer
from rwtrain.errors import DataError
from rwtrain.export.export import export_run
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.model.heads_refinedweb import RefinedWebForCausalLM, RefinedWebForPreTraining
from rwtrain.objectives.task import PretrainingTask
from rwtrain.train.initial_weights import plan_weights
from rwtrain.train.setup import IDENTITY, make_loader, open_inputs, shape_model
from tests.rwtrain.export.random_run import make_run
from tests.rwtrain.train import initial_worker
from tests.rwtrain.train.runs import losses, start, train

VOCABULARY = 96
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SCALINGS: dict[str, dict[str, Any]] = {
    "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": False}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "ungrouped": ("llama", {"num_key_value_heads": 4, "head_dim": 12}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-3}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    **{name: ("llama", {"rope_parameters": {"rope_theta": 5000.0, **scaling}}) for name, scaling in SCALINGS.items()},
}


def configured(run: Path, **changes: Any) -> TrainConfig:
    return TrainConfig.model_validate({"run": str(run), "steps": 1, "data": {"text": "t", "tokenizer": "t"}, "batch": {"seq_len": 32}, **changes})


def randomised(model: torch.nn.Module) -> Any:
    """Biases and norms away from zero and one, so that a forgotten one shows."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model.eval()


def begun(config: TrainConfig, shape: RefinedWebConfig, kind: Any = RefinedWebForCausalLM) -> Any:
    """A model that holds what `plan_weights` found."""
    torch.manual_seed(2)
    model = kind._from_config(shape).eval()
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in plan_weights(config.init, {name: tuple(tensor.shape) for name, tensor in parameters.items()}).items():
            parameters[name].copy_(torch.cat(list(weight.chunks())).view(weight.shape))
    return model


@pytest.mark.parametrize("name", MODELS)
def test_a_trunk_gives_the_logits_of_the_model_it_comes_from(name: str, tmp_path: Path) -> None:
    kind, settings = MODELS[name]
    torch.manual_seed(0)
    source = randomised(AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SHAPE | settings)))
    source.save_pretrained(tmp_path / "source", max_shard_size="20KB" if name == "qwen3" else "5GB")
    assert (tmp_path / "source" / "model.safetensors.index.json").is_file() == (name == "qwen3")
    config = configured(tmp_path / "run", init={"trunk": str(tmp_path / "source")})
    ours = begun(config, shape_model(config, vocab_size=VOCABULARY, entity_dim=0, image_tokens=0))
    ids = torch.randint(6, VOCABULARY, (2, 40))
    with torch.no_grad():
        expected = source(ids).logits
        assert expected.std() > 0.1
        torch.testing.assert_close(ours(ids).logits, expected, rtol=1e-5, atol=1e-5)


def test_a_model_without_its_head_and_a_pickle(tmp_path: Path) -> None:
    source = randomised(AutoModel.from_config(AutoConfig.for_model("llama", **SHAPE, tie_word_embeddings=True)))
    source.save_pretrained(tmp_path / "bare")  # names without `model.`
    config = configured(tmp_path / "run", init={"trunk": str(tmp_path / "bare")}, model={"tie_word_embeddings": False})
    ours = begun(config, shape_model(config, vocab_size=VOCABULARY, entity_dim=0, image_tokens=0))
    torch.testing.assert_close(ours.lm_head.weight, source.embed_tokens.weight)
    assert ours.lm_head.weight.data_ptr() != ours.model.embed_tokens.weight.data_ptr()
    (tmp_path / "bare" / "model.safetensors").rename(tmp_path / "bare" / "pytorch_model.bin")
    with pytest.raises(DataError, match="pickles"):
        begun(config, shape_model(config, vocab_size=VOCABULARY, entity_dim=0, image_tokens=0))


TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 50}
TOWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "siglip_vision_model": ("siglip_vision_model", {**TINY, "intermediate_size": 32}),
    "siglip": ("siglip", {"vision_config": {**TINY, "intermediate_size": 32}, "text_config": {**TEXT, "projection_size": 16}}),
    "clip_vision_model": ("clip_vision_model", {**TINY, "intermediate_size": 32}),
    "clip": ("clip", {"vision_config": {**TINY, "intermediate_size": 32}, "text_config": TEXT}),
    "dinov2": ("dinov2", TINY),
}


@pytest.mark.parametrize("name", TOWERS)
def test_an_image_encoder_gives_the_features_of_the_model_it_comes_from(name: str, tmp_path: Path) -> None:
    kind, settings = TOWERS[name]
    torch.manual_seed(0)
    source = randomised(AutoModel.from_config(AutoConfig.for_model(kind, **settings)))
    source.save_pretrained(tmp_path / "source")
    mean, std = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
    (tmp_path / "source" / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True, "image_mean": mean, "image_std": std}))
    data = {"text": "t", "tokenizer": "t", "images": "i"}
    config = configured(tmp_path / "run", init={"vision": str(tmp_path / "source")}, data=data, batch={"seq_len": 64, "image_rows": 1})
    tokens = 5 if "siglip" not in kind else 4  # the others prepend a class token
    ours = begun(config, shape_model(config, vocab_size=VOCABULARY, entity_dim=0, image_tokens=tokens), RefinedWebForPreTraining)
    pixels = torch.rand(2, 3, 28, 28)
    tower = getattr(source, "vision_model", source)
    with torch.no_grad():
        expected = tower(pixel_values=(pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]).last_hidden_state
        found = ours.model.vision_features(pixels * 2 - 1)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["siglip", "clip", "dinov2"])
def test_an_image_encoder_is_resized_to_larger_images(name: str, tmp_path: Path) -> None:
    kind, settings = TOWERS[name]
    torch.manual_seed(0)
    source = randomised(AutoModel.from_config(AutoConfig.for_model(kind, **settings)))
    source.save_pretrained(tmp_path / "source")
    data = {"text": "t", "tokenizer": "t", "images": "i"}
    changes: dict[str, Any] = {"data": data, "batch": {"seq_len": 64, "image_rows": 1}, "model": {"vision": {"image_size": 56}}}
    config = configured(tmp_path / "run", init={"vision": str(tmp_path / "source")}, **changes)
    tokens = 16 + (kind != "siglip")
    ours = begun(config, shape_model(config, vocab_size=VOCABULARY, entity_dim=0, image_tokens=tokens), RefinedWebForPreTraining)
    pixels, tower = torch.rand(2, 3, 56, 56) * 2 - 1, getattr(source, "vision_model", source)
    with torch.no_grad():
        expected = tower(pixel_values=pixels, **({} if kind == "dinov2" else {"interpolate_pos_encoding": True})).last_hidden_state
        torch.testing.assert_close(ours.model.vision_features(pixels), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPE)).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def planned(init: dict[str, Any], run: Path, vocab_size: int = VOCABULARY, **model: Any) -> dict[str, Any]:
    config = configured(run, init=init, model=model)
    with torch.device("meta"):
        shape = RefinedWebForPreTraining(shape_model(config, vocab_size=vocab_size, entity_dim=0, image_tokens=0))
    return plan_weights(config.init, {name: tuple(parameter.shape) for name, parameter in shape.named_parameters()})


def test_what_does_not_fit_is_named(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"vocabulary has 96 tokens, data\.tokenizer 600.*init\.vocabulary=new"):
        planned({"trunk": str(llama)}, tmp_path, vocab_size=600)
    kept = planned({"trunk": str(llama), "vocabulary": "new"}, tmp_path, vocab_size=600)
    assert "model.layers.0.mlp.up_proj.weight" in kept
    assert not any("embed_tokens" in name or "lm_head" in name for name in kept)
    with pytest.raises(ValueError, match=r"model\.hidden_size is 64, the folder's 32"):
        planned({"trunk": str(llama)}, tmp_path, hidden_size=64)
    with pytest.raises(DataError, match=r"head differs.*tie_word_embeddings=false"):
        planned({"trunk": str(llama)}, tmp_path, tie_word_embeddings=True)
    weights = load_file(llama / "model.safetensors")
    weights["model.layers.7.mlp.up_proj.weight"] = weights.pop("model.layers.1.mlp.up_proj.weight")
    weights["model.norm.weight"] = torch.ones(3)
    save_file(weights, llama / "model.safetensors")
    with pytest.raises(DataError) as caught:
        planned({"trunk": str(llama)}, tmp_path)
    for part in (
        r"missing: model.layers.1.mlp.up_proj.weight",
        "unexpected: model.layers.7.mlp.up_proj.weight",
        "wrong shape: model.norm.weight is [3], not [32]",
    ):
        assert part in str(caught.value)
    (llama / "model.safetensors").write_bytes((llama / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(DataError, match="not a readable safetensors file"):
        planned({"trunk": str(llama)}, tmp_path)
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(config | {"model_type": "gemma"}))
    with pytest.raises(ValueError, match=r"holds a gemma model.*Known: llama, mistral"):
        planned({"trunk": str(llama)}, tmp_path)


def test_another_tokenizer_is_noticed(llama: Path, tokenizer_file: Path) -> None:
    tokenizer = Tokenizer(tokenizer_file)
    pieces = {tokenizer.processor.id_to_piece(index): index for index in range(VOCABULARY)}
    shapes = {"model.embed_tokens.weight": (VOCABULARY, 32), "lm_head.weight": (VOCABULARY, 32)}
    init = InitConfig(trunk=str(llama), partial=True)
    (llama / "tokenizer.json").write_text(json.dumps({"model": {"vocab": pieces}}))
    assert list(plan_weights(init, shapes, tokenizer)) == ["model.embed_tokens.weight", "lm_head.weight"]
    first, second = list(pieces)[50:52]
    pieces[first], pieces[second] = 51, 50
    (llama / "tokenizer.json").write_text(json.dumps({"model": {"vocab": pieces}}))
    with pytest.raises(DataError, match=r"2 of 96 pieces differ, first number 50"):
        plan_weights(init, shapes, tokenizer)


def test_weights_reach_every_zero_stage_unrounded(tmp_path: Path, train_settings: dict) -> None:
    """Two ranks, in bf16 and fp32: the optimiser's values are the stored float32 ones, the model computes with them, and training goes on."""
    out = tmp_path / "found.json"
    arguments = [json.dumps({**train_settings, "run": str(tmp_path / "run")}), str(tmp_path / "stored"), str(out)]
    job = Job(arguments, processes=2, output=tmp_path / "log", main=initial_worker.main)
    assert job.wait() == [0, 0], job.output.read_text()[-3000:]
    found = json.loads(out.read_text())
    assert len(found) == 6
    for name, result in found.items():
        assert result["largest_difference"] == 0.0, name
        assert result["parameters"] > 30, name
        assert result["loss"] == pytest.approx(result["expected_loss"], rel=1e-5 if "fp32" in name else 2e-2), name
        assert result["applied"], name


def test_continued_pretraining_begins_with_the_exports_weights_and_resumes_without_them(tmp_path: Path, train_settings: dict) -> None:
    model = make_run(tmp_path / "before", train_settings)
    export_run(tmp_path / "before", tmp_path / "export", parity=False)
    settings = {key: value for key, value in train_settings.items() if key != "model"} | {"engine": {"overlays": ["zero3", "fp32"]}}
    settings["init"] = {"model": str(tmp_path / "export")}
    run = tmp_path / "run"
    config = TrainConfig.model_validate({**settings, "run": str(run)})
    assert (config.model.hidden_size, config.model.num_hidden_layers, config.model.gate_layers) == (48, 3, [1])
    inputs = open_inputs(config, verify=False)
    loader = make_loader(config, inputs, rank=0, world_size=1)
    task, batch = PretrainingTask(loader.recipe, config.objectives, replicas=1), loader.micro_batch(0, 0)
    expected = task(model.train(), batch, task.counts(batch)).total.item()
    printed = train(run, settings, processes=1, steps=2)
    assert "0 drawn from the seed" in printed
    assert losses(run)[1]["loss/total"] == pytest.approx(expected, rel=1e-5)
    assert len(json.loads((run / IDENTITY).read_text())["init.model"]) == 32
    (tmp_path / "export").rename(tmp_path / "moved")
    assert train(run, settings, processes=1, steps=3).count("drawn from the seed") == 1  # of both starts
    assert list(losses(run, 1)) == [3]
    other = {**settings, "init": {"model": str(tmp_path / "moved")}}
    weights = load_file(tmp_path / "moved" / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, tmp_path / "moved" / "model.safetensors")
    job = start(run, other, processes=1, steps=4)
    assert job.wait() == [2]
    assert "init.model" in job.output.read_text()
