"""Small data that many tests share: a tokenizer, text shards with mentions, image shards, an entity store."""

from __future__ import annotations

import bz2
import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from selenium.webdriver.remote.webdriver import WebDriver

os.environ.setdefault("HF_HUB_OFFLINE", "1")

SAMPLE_DATA = Path(__file__).parent.parent / "examples" / "data"
ENTITIES = 20
ENTITY_DIM = 12


@pytest.fixture(scope="session")
def paragraphs() -> list[str]:
    """A few hundred paragraphs of real text."""
    with bz2.open(SAMPLE_DATA / "enwiki-pages-articles1-shortened.xml.bz2", "rt", encoding="utf-8") as stream:
        text = re.sub(r"<[^>]+>", "", stream.read(1_000_000))
    return [line for line in text.splitlines() if len(line) > 200][:400]


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory, paragraphs: list[str]) -> Path:
    import sentencepiece

    folder = tmp_path_factory.mktemp("tokenizer")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(paragraphs),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=600,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        pad_id=3,
        unk_piece="<unk>",
        control_symbols=["<mask>", "<image>"],
        minloglevel=2,
    )
    return folder / "tokenizer.model"


@pytest.fixture(scope="session")
def entity_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 20 entities with random vectors of width 12."""
    from rwtrain.knowledge.store import EntityStore
    from rwtrain.knowledge.writing import Rejects, entity_batch, write_store, write_vectors

    folder = tmp_path_factory.mktemp("knowledge") / "store"
    rows = [{"id": f"Q{index}", "wikidata_id": f"Q{index}", "label": f"entity {index}", "description": "", "aliases": []} for index in range(ENTITIES)]
    triples = np.array([[index, 0, (index + 1) % ENTITIES] for index in range(ENTITIES)], np.int32)
    write_store(folder, entities=[entity_batch(rows)], relations=[("P1", "next")], triples={"train": triples}, rejects=Rejects(), provenance={})
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(ENTITIES, ENTITY_DIM)).astype(np.float32)
    write_vectors(EntityStore.open(folder), entity_vectors=vectors, relation_vectors=vectors[:1], details={})
    return folder


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory, paragraphs: list[str], tokenizer_file: Path, entity_store: Path) -> tuple[Path, Path]:
    """(text shards with a mention every 40 tokens, image shards of 10 patterns with captions)."""
    from PIL import Image

    from rwtrain.data.shards import Document, ShardWriter
    from rwtrain.data.tokenizer import BOS_ID, EOS_ID, Tokenizer
    from rwtrain.knowledge.store import EntityStore

    tokenizer, folder = Tokenizer(tokenizer_file), tmp_path_factory.mktemp("shards")
    common = {"vocab_size": tokenizer.vocab_size, "tokenizer_hash": tokenizer.hash, "entity_store_hash": EntityStore.open(entity_store).hash}
    with ShardWriter(folder / "text", max_shard_bytes=60_000, **common) as writer:
        for number, text in enumerate(paragraphs):
            tokens = np.concatenate(([BOS_ID], tokenizer.encode(text), [EOS_ID]))
            starts = np.arange(10, len(tokens) - 5, 40)
            entities = (number + np.arange(len(starts))) % ENTITIES
            writer.add(
                Document(
                    doc_id=str(number), tokens=tokens, content_id=number, mention_start=starts, mention_end=starts + 3, mention_entity=entities, language="en"
                )
            )
    with ShardWriter(folder / "images", **common) as writer:
        for number in range(60):
            encoded = io.BytesIO()
            pattern = np.random.default_rng(number % 10).integers(0, 256, (28, 28, 3), np.uint8)
            Image.fromarray(pattern).save(encoded, "PNG")
            tokens = np.concatenate(([BOS_ID], tokenizer.encode(f"{number % 10} dots"), [EOS_ID]))
            writer.add(Document(doc_id=str(number), tokens=tokens, content_id=number % 10, images=[encoded.getvalue()]))
    return folder / "text", folder / "images"


@pytest.fixture(scope="session")
def pair_shards(tmp_path_factory: pytest.TempPathFactory, paragraphs: list[str], tokenizer_file: Path) -> Path:
    """40 pairs, the first half of a paragraph and the second; every other one has the next paragraph's beginning as hard negative."""
    import json

    from data_prep.pairs import Fields, write_pairs
    from rwtrain.data.tokenizer import Tokenizer

    folder = tmp_path_factory.mktemp("pairs")
    records = []
    for number, text in enumerate(paragraphs[:40]):
        record = {"first": text[:60], "second": text[60:120]}
        records.append(record | ({"negative": paragraphs[number + 1][:60]} if number % 2 else {}))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write_pairs([folder / "pairs.jsonl"], folder / "shards", tokenizer=Tokenizer(tokenizer_file), fields=Fields())
    return folder / "shards"


@pytest.fixture(scope="session")
def train_settings(datasets: tuple[Path, Path], tokenizer_file: Path, entity_store: Path) -> dict:
    """Settings of a tiny run with every kind of row and loss; `run` is to be added."""
    return {
        "steps": 6,
        "data": {"text": str(datasets[0]), "images": str(datasets[1]), "tokenizer": str(tokenizer_file), "entity_store": str(entity_store)},
        "model": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "embedding_dim": 16,
            "vision": {
                "model_type": "siglip_vision_model",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
                "vision_use_head": False,
            },
        },
        "batch": {
            "seq_len": 64,
            "text_rows": 4,
            "masked_rows": 2,
            "pair_rows": 2,
            "image_rows": 4,
            "view_tokens": 16,
            "caption_tokens": 12,
            "mentions_per_row": 8,
        },
        "objectives": {"text_contrast": 1.0, "image_contrast": 1.0, "entity_alignment": 1.0},
        "optimizer": {"learning_rate": 2e-4, "warmup_steps": 2},
        "checkpoint": {"every_steps": 3},
        "logging": {"every_steps": 1, "tensorboard": False},
    }


@pytest.fixture(scope="session")
def browser() -> Iterator[WebDriver]:
    """Headless Chromium with a telephone's screen (390 x 844); skips where Debian's chromium and chromium-driver are not installed."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("needs headless Chromium: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.add_experimental_option("mobileEmulation", {"deviceMetrics": {"width": 390, "height": 844, "pixelRatio": 2.0}})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()
