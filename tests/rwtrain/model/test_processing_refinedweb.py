"""The processor of exported models gives the rows that training reads."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.linking import token_spans as byte_token_spans
from rwtrain.data.images import preprocess_image
from rwtrain.data.tokenizer import BOS_ID, IMAGE_ID, PAD_ID, Tokenizer
from rwtrain.export.folder import write_processor
from rwtrain.knowledge.linker import build_linker
from rwtrain.knowledge.store import EntityStore
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.model.processing_refinedweb import RefinedWebProcessor, token_spans

TEXT = "entity 3 met entity 14 in Kraków, then entity 5 left."
VISION = {"model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def make_processor(folder: Path, tokenizer_file: Path, **shape: Any) -> RefinedWebProcessor:
    config = RefinedWebConfig(**({"vocab_size": 600, "entity_dim": 12, "vision_config": VISION, "image_seq_length": 4} | shape))
    write_processor(folder, config, tokenizer_file, max_tokens=64, linking={"left_context": True, "min_score": 0.0})
    return RefinedWebProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path, entity_store: Path) -> RefinedWebProcessor:
    folder = tmp_path_factory.mktemp("processor")
    build_linker(EntityStore.open(entity_store), folder / "linker")
    return make_processor(folder, tokenizer_file)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_file: Path) -> Tokenizer:
    return Tokenizer(tokenizer_file)


def image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 31, 3), dtype=np.uint8))


def test_text_rows(processor: RefinedWebProcessor, tokenizer: Tokenizer) -> None:
    batch = processor(text=["short", TEXT])
    short, long = tokenizer.encode("short").tolist(), tokenizer.encode(TEXT).tolist()
    assert batch["input_ids"].tolist() == [[PAD_ID] * (len(long) - len(short)) + [BOS_ID, *short], [BOS_ID, *long]]
    assert batch["attention_mask"].sum(1).tolist() == [len(short) + 1, len(long) + 1]
    assert set(batch) == {"input_ids", "attention_mask"}


def test_image_comes_before_its_text(processor: RefinedWebProcessor, tokenizer: Tokenizer) -> None:
    batch = processor(text=["one", "two three"], images=[image(0), image(1)])
    ids = tokenizer.encode("two three").tolist()
    assert batch["input_ids"][1].tolist() == [IMAGE_ID] * 4 + [BOS_ID, *ids]
    assert batch["pixel_values"].shape == (2, 3, 28, 28)
    encoded = io.BytesIO()
    image(1).save(encoded, "PNG")
    assert np.array_equal(batch["pixel_values"][1].numpy(), preprocess_image(encoded.getvalue(), 28))


def test_image_alone_is_a_prompt_for_its_description(processor: RefinedWebProcessor) -> None:
    batch = processor(images=image(0))
    assert batch["input_ids"].tolist() == [[IMAGE_ID] * 4 + [BOS_ID]]


def test_embedding_keeps_images_and_texts_apart(processor: RefinedWebProcessor, tokenizer: Tokenizer) -> None:
    assert set(processor(images=[image(0), image(1)], mode="embed")) == {"pixel_values"}
    batch = processor(images=image(0), text=["a", "b", "c"], mode="embed")
    assert batch["pixel_values"].shape[0] == 1
    assert batch["input_ids"][0].tolist() == [BOS_ID, *tokenizer.encode("a").tolist()]


def test_entities_enter_where_training_lets_them_enter(processor: RefinedWebProcessor, tokenizer: Tokenizer, entity_store: Path) -> None:
    vectors = EntityStore.open(entity_store).vectors
    mentions = processor.linker.link(TEXT, left_context=True)
    assert [mention.entity for mention in mentions] == [3, 14, 5]
    ids = tokenizer.encode(TEXT)
    starts, ends, entities = byte_token_spans(TEXT, mentions, tokenizer.byte_ends(ids))
    causal, embed = (processor(text=["", TEXT], link=True, mode=mode) for mode in ("causal", "embed"))
    assert causal["entity_positions"][1].tolist() == list(ends)  # the begin mark shifts by one
    assert causal["entity_positions"][0].tolist() == [-1, -1, -1]
    assert np.array_equal(causal["entity_embeds"][1].numpy(), vectors[entities])
    assert not causal["entity_embeds"][0].any()
    places = [place + 1 for start, end in zip(starts, ends, strict=True) for place in range(start, end)]
    assert embed["entity_positions"][1].tolist() == places
    assert embed["entity_embeds"].shape == (2, len(places), 12)


def test_entity_places_follow_padding_and_images(processor: RefinedWebProcessor) -> None:
    plain = processor(text=TEXT, link=True)
    after_image = processor(text=TEXT, images=image(0), link=True)
    assert (after_image["entity_positions"] - plain["entity_positions"]).tolist() == [[4, 4, 4]]
    padded = processor(text=["longer than the other one, " * 8, TEXT], link=True)
    shift = int((padded["attention_mask"][1] == 0).sum())
    assert shift > 0
    assert (padded["entity_positions"][1] - plain["entity_positions"][0]).tolist() == [shift] * 3
    right = processor(text=["longer than the other one, " * 8, TEXT], link=True, padding_side="right")
    assert torch.equal(right["entity_positions"][1], plain["entity_positions"][0])


def test_given_mentions_stand_for_the_linker(processor: RefinedWebProcessor, entity_store: Path) -> None:
    batch = processor(text="somebody called it so", entities=[[(0, 8, 7)]])
    assert np.array_equal(batch["entity_embeds"][0, 0].numpy(), EntityStore.open(entity_store).vectors[7])
    with pytest.raises(ValueError, match="entities holds 1 rows for 2 texts"):
        processor(text=["a", "b"], entities=[[]])


def test_truncation_drops_mentions_that_are_cut_off(processor: RefinedWebProcessor) -> None:
    whole = processor(text=TEXT, link=True)
    limit = int(whole["entity_positions"][0, 1])  # the second mention's last token would be the first one cut
    cut = processor(text=TEXT, link=True, truncation=True, max_length=limit)
    assert cut["input_ids"].shape[1] == limit
    assert cut["entity_positions"].tolist() == whole["entity_positions"][:, :1].tolist()
    assert processor(text="word " * 100, truncation=True)["input_ids"].shape[1] == 64


@settings(max_examples=200, deadline=None)
@given(data=st.data(), text=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_spans_of_tokens_are_those_of_data_preparation(data: st.DataObject, text: str, processor: RefinedWebProcessor, tokenizer: Tokenizer) -> None:
    class Mention:
        def __init__(self, start: int, end: int, entity: int) -> None:
            self.start, self.end, self.entity, self.score = start, end, entity, 1.0

    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=6)))
    spans = [(start, end, number) for number, (start, end) in enumerate(zip(cuts[::2], cuts[1::2], strict=False)) if end > start]
    ids = tokenizer.encode(text)
    expected = list(zip(*byte_token_spans(text, [Mention(*span) for span in spans], tokenizer.byte_ends(ids)), strict=True))
    offsets = processor.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    assert [(first - 1, stop - 1, entity) for first, stop, entity in token_spans(spans, offsets)] == expected


def test_saves_and_loads(processor: RefinedWebProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert (saved["image_seq_length"], saved["entity_dim"], saved["link_left_context"]) == (4, 12, True)
    again = RefinedWebProcessor.from_pretrained(tmp_path)
    assert again(text=TEXT)["input_ids"].tolist() == processor(text=TEXT)["input_ids"].tolist()
    with pytest.raises(ValueError, match="No entity linker"):
        again(text=TEXT, link=True)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "Give text, images or both"),
        ({"text": "a", "mode": "both"}, "choose one of"),
        ({"text": ["a", "b"], "images": [image(0)]}, "1 images for 2 texts"),
    ],
)
def test_inputs_that_do_not_fit(arguments: dict[str, Any], problem: str, processor: RefinedWebProcessor) -> None:
    with pytest.raises(ValueError, match=problem):
        processor(**arguments)


def test_models_without_images_or_entities(tmp_path: Path, tokenizer_file: Path) -> None:
    plain = make_processor(tmp_path, tokenizer_file, entity_dim=0, vision_config=None, image_seq_length=0)
    with pytest.raises(ValueError, match="without images"):
        plain(images=image(0))
    with pytest.raises(ValueError, match="without entities"):
        plain(text="a", entities=[[]])
