"""The trunk: Llama's numbers, segments that do not see each other, blocks, images, entities, the cache."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rwtrain.errors import ConfigError
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.model.heads_refinedweb import RefinedWebForCausalLM, RefinedWebForPreTraining
from rwtrain.train.setup import image_shape

SHAPE = {"vocab_size": 80, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "vision_use_head": False,
}


@pytest.fixture
def full() -> RefinedWebForPreTraining:
    torch.manual_seed(0)
    config = RefinedWebConfig(**SHAPE, embedding_dim=8, entity_dim=6, gate_layers=[1], gate_bias_init=0.0, vision_config=VISION, image_seq_length=4)
    return RefinedWebForPreTraining._from_config(config).eval()


def causal(model: RefinedWebForPreTraining) -> RefinedWebForCausalLM:
    """The same weights behind the generation interface."""
    made = RefinedWebForCausalLM._from_config(model.config).eval()
    made.load_state_dict(model.state_dict())
    return made


def test_causal_logits_equal_llamas_with_its_weights() -> None:
    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 500.0})).eval()
    config = RefinedWebConfig(**SHAPE, tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    ours = RefinedWebForCausalLM._from_config(config).eval()
    missing, unexpected = ours.load_state_dict(llama.state_dict(), strict=False)
    assert not unexpected
    assert set(missing) == {"text_logit_scale", "image_logit_scale", "model.embedding_projection.weight"}
    ids = torch.randint(6, 80, (2, 20))
    torch.testing.assert_close(ours(ids).logits, llama(ids).logits, rtol=1e-5, atol=1e-6)


def test_packed_segments_do_not_see_each_other(full: RefinedWebForPreTraining) -> None:
    ids = torch.randint(6, 80, (1, 12))
    positions = torch.cat((torch.arange(5), torch.arange(7)))[None]
    blocks = torch.tensor([[-1] * 5 + [0] * 7])  # the first segment causal, the second read in both directions
    with torch.no_grad():
        packed = full.model(ids, position_ids=positions, block_sequence_ids=blocks).last_hidden_state
        first = full.model(ids[:, :5]).last_hidden_state
        second = full.model(ids[:, 5:], block_sequence_ids=torch.zeros(1, 7, dtype=torch.long)).last_hidden_state
    torch.testing.assert_close(packed, torch.cat((first, second), 1), rtol=1e-5, atol=1e-6)


def test_a_causal_token_does_not_see_its_future_a_block_does(full: RefinedWebForPreTraining) -> None:
    ids = torch.randint(6, 80, (1, 8))
    changed = ids.clone()
    changed[0, -1] = (ids[0, -1] + 1) % 70 + 6
    block = torch.zeros(1, 8, dtype=torch.long)
    with torch.no_grad():
        alone = [full.model(x).last_hidden_state[:, :-1] for x in (ids, changed)]
        both = [full.model(x, block_sequence_ids=block).last_hidden_state[:, :-1] for x in (ids, changed)]
    torch.testing.assert_close(*alone, rtol=0, atol=0)
    assert (both[0] - both[1]).abs().max() > 1e-4


def test_loss_of_a_packed_row_is_the_sum_of_its_segments(full: RefinedWebForPreTraining) -> None:
    def total(ids: torch.Tensor, positions: torch.Tensor) -> float:
        labels = ids.clone()
        labels[positions == 0] = -100
        nothing = torch.full_like(ids, -1)
        out = full(ids, positions, nothing, labels, torch.ones(ids.shape), nothing, 0)
        return float(out.token_loss.detach())

    ids = torch.randint(6, 80, (1, 12))
    whole = total(ids, torch.cat((torch.arange(5), torch.arange(7)))[None])
    parts = total(ids[:, :5], torch.arange(5)[None]) + total(ids[:, 5:], torch.arange(7)[None])
    assert whole == pytest.approx(parts, abs=1e-4, rel=1e-6)


def test_generation_with_a_cache_equals_generation_without(full: RefinedWebForPreTraining) -> None:
    model = causal(full)
    inputs = {
        "input_ids": torch.tensor([[5, 5, 5, 5, 1, 20, 30]]),
        "pixel_values": torch.randn(1, 3, 28, 28),
        "entity_embeds": torch.randn(1, 1, 6),
        "entity_positions": torch.tensor([[6]]),
    }
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 3}
    cached, uncached = (model.generate(**inputs, **options, use_cache=use) for use in (True, False))
    assert cached.tolist() == uncached.tolist()


def test_image_and_entity_change_what_is_predicted(full: RefinedWebForPreTraining) -> None:
    model = causal(full)
    ids, picture = torch.tensor([[5, 5, 5, 5, 1, 20, 30]]), torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        plain = model(ids, pixel_values=picture).logits
        other_picture = model(ids, pixel_values=-picture).logits
        entity = model(ids, pixel_values=picture, entity_embeds=torch.randn(1, 1, 6), entity_positions=torch.tensor([[6]])).logits
        empty_slot = model(ids, pixel_values=picture, entity_embeds=torch.randn(1, 1, 6), entity_positions=torch.tensor([[-1]])).logits
    assert (plain - other_picture).abs().max() > 1e-4
    assert (plain - entity).abs()[:, -1].max() > 1e-4
    torch.testing.assert_close(plain[:, :6], entity[:, :6], rtol=0, atol=0)  # nothing leaks to the left of the mention
    torch.testing.assert_close(plain, empty_slot, rtol=0, atol=0)


def test_embeddings_do_not_depend_on_padding(full: RefinedWebForPreTraining) -> None:
    ids = torch.tensor([[1, 20, 30, 40]])
    with torch.no_grad():
        alone = full.get_text_features(ids)
        for padded, mask in (([1, 20, 30, 40, 3, 3], [1, 1, 1, 1, 0, 0]), ([3, 3, 1, 20, 30, 40], [0, 0, 1, 1, 1, 1])):
            found = full.get_text_features(torch.tensor([padded]), torch.tensor([mask]))
            torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-6)


def test_pooled_slots_equal_the_inference_interface(full: RefinedWebForPreTraining) -> None:
    picture = torch.randn(1, 3, 28, 28)
    ids = torch.tensor([[5, 5, 5, 5, 1, 20, 1, 30, 40]])  # an image with a caption, then a text to embed
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1, 2]])
    blocks = torch.tensor([[0, 0, 0, 0, -1, -1, 1, 1, 1]])
    pools = torch.tensor([[1, 1, 1, 1, -1, -1, 0, 0, 0]])
    labels = torch.full_like(ids, -100)
    with torch.no_grad():
        out = full(ids, positions, blocks, labels, torch.zeros(ids.shape), pools, 2, pixel_values=picture)
        text, image = full.get_text_features(torch.tensor([[1, 30, 40]])), full.get_image_features(picture)
    torch.testing.assert_close(out.embeddings, torch.cat((text, image)), rtol=1e-5, atol=1e-6)


def test_the_last_token_pools_instead_of_the_mean(full: RefinedWebForPreTraining) -> None:
    full.config.pooling = "last"
    full.model.config.pooling = "last"
    ids, picture = torch.tensor([[1, 20, 30, 40, 3, 3], [1, 50, 3, 3, 3, 3]]), torch.randn(2, 3, 28, 28)
    mask = (ids != 3).long()
    slots = torch.tensor([[0] * 4 + [-1] * 2, [2] * 2 + [-1] * 4])
    blocks, positions = torch.where(mask.bool(), 0, -1), torch.arange(6).expand(2, 6)
    with torch.no_grad():
        hidden = full.model(ids, block_sequence_ids=blocks, position_ids=positions).last_hidden_state
        expected = torch.nn.functional.normalize(full.model.embedding_projection(torch.stack((hidden[0, 3], hidden[1, 1]))), dim=-1)
        torch.testing.assert_close(full.get_text_features(ids, mask), expected, rtol=1e-5, atol=1e-6)
        pooled = full(ids, positions, blocks, torch.full_like(ids, -100), torch.zeros(ids.shape), slots, 3).embeddings
        torch.testing.assert_close(pooled[[0, 2]], expected, rtol=1e-5, atol=1e-6)
        assert not pooled[1].any()
        assert full.get_image_features(picture).shape == (2, 8)


def test_images_of_another_size_and_several_in_a_row(full: RefinedWebForPreTraining) -> None:
    """42 x 42 pixels are nine patches instead of four; a text between two images sees the first and not the second."""
    ids = torch.tensor([[5] * 9 + [1, 20, 30] + [5] * 9 + [40, 50]])
    pictures = torch.randn(2, 3, 42, 42)
    with torch.no_grad():
        found = full.model(ids, pixel_values=pictures).last_hidden_state
        alone = full.model(ids[:, :12], pixel_values=pictures[:1]).last_hidden_state
        swapped = full.model(ids, pixel_values=torch.stack((pictures[0], -pictures[1]))).last_hidden_state
        assert full.get_image_features(pictures).shape == (2, 8)
    torch.testing.assert_close(found[:, :12], alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[:, :12], swapped[:, :12], rtol=0, atol=0)
    assert (found[:, -1] - swapped[:, -1]).abs().max() > 1e-4


def test_wrong_inputs_are_refused(full: RefinedWebForPreTraining) -> None:
    with pytest.raises(ValueError, match="image placeholder"):
        full.model(torch.tensor([[5] * 8]), pixel_values=torch.randn(1, 3, 28, 28))
    ids, positions = torch.arange(6, 18)[None], torch.cat((torch.arange(5), torch.arange(7)))[None]
    for blocks in ([0] * 12, [3, 3, 3, -1, -1, -1, -1, -1, 3, 3, 3, 3]):
        with pytest.raises(ValueError, match=r"row 0, block \d lies in several segments"):
            full.model(ids, position_ids=positions, block_sequence_ids=torch.tensor([blocks]))
    full.model(ids, position_ids=positions, block_sequence_ids=torch.tensor([[0] * 5 + [1] * 3 + [-1] * 4]))
    with pytest.raises(ValueError, match="gate_layers"):
        RefinedWebConfig(**SHAPE, entity_dim=4, gate_layers=[7])
    with pytest.raises(ValueError, match="norm_position"):
        RefinedWebConfig(**SHAPE, norm_position="middle")


CONVOLUTIONAL = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "mobilenet_v2": {"depth_multiplier": 0.25},
}


@pytest.mark.parametrize(("kind", "tokens", "width"), [("resnet", 16, 16), ("convnext", 16, 16), ("mobilenet_v2", 1, 1280)])
def test_places_of_a_feature_map_become_tokens(kind: str, tokens: int, width: int) -> None:
    """Strides of 8, 8 and 32 over 32 pixels; MobileNet's last layer has 1,280 channels (Sandler et al. 2018, table 2)."""
    vision = {"model_type": kind, "image_size": 32, **CONVOLUTIONAL[kind]}
    assert image_shape(vision) == (32, tokens, width)
    torch.manual_seed(0)
    config = RefinedWebConfig(**SHAPE, embedding_dim=8, vision_config=vision, vision_width=width, image_seq_length=tokens)
    model = RefinedWebForCausalLM._from_config(config).eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = model.model.image_features(pixels)
        map_ICHW = model.model.vision_tower(pixel_values=pixels).last_hidden_state
        side = map_ICHW.shape[-1]
        expected = torch.stack([model.model.image_projector(map_ICHW[:, :, place // side, place % side]) for place in range(tokens)], 1)
        assert model.get_image_features(pixels).shape == (2, 8)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    again = RefinedWebConfig.from_dict(config.to_dict())
    assert (again.vision_width, again.vision_config.image_size) == (width, 32)


def test_a_backbone_without_an_image_size_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"resnet has no image size.*image_size"):
        image_shape({"model_type": "resnet", **CONVOLUTIONAL["resnet"]})
