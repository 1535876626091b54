"""What the image evidence runs measure with: captions behind their photos, clean splits, a loader whose images all differ."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.evidence.contrastive import Unmasked
from benchmarks.evidence.photos import caption_losses, flickr8k, opened, settings_of
from benchmarks.evidence.training import Training
from rwtrain.config.schema import TrainConfig
from rwtrain.data.images import preprocess_image
from rwtrain.data.shards import ShardDataset
from rwtrain.data.tokenizer import Tokenizer
from rwtrain.model.heads_refinedweb import RefinedWebForCausalLM


@pytest.fixture
def training(train_settings: dict) -> Training:
    return Training.open(TrainConfig.model_validate({**train_settings, "run": "unused"}))


def test_caption_losses_equal_the_model_asked_one_pair_at_a_time(training: Training, train_settings: dict) -> None:
    """−log p of every caption token behind the image's tokens; "wrong" is the next image, which has other content."""
    images, tokenizer = ShardDataset(train_settings["data"]["images"]), training.inputs.tokenizer
    model = opened(training.build_model(), tokenizer.path, max_tokens=64)
    found = caption_losses(model, images, every=1, batch=4)
    documents = len(images) // 4 * 4
    totals, tokens = dict.fromkeys(("right", "wrong", "none"), 0.0), 0
    for document in range(documents):
        caption = torch.from_numpy(np.asarray(images.tokens(document), np.int64))[None]
        tokens += caption.shape[1] - 1
        prefix = torch.full((1, model.config.image_seq_length), model.config.image_token_id)
        other = document // 4 * 4 + (document + 1) % 4
        for kind, shown in (("right", document), ("wrong", other), ("none", None)):
            pixels = {}
            if shown is not None:
                shard, row = images.locate(shown)
                pixels = {"pixel_values": torch.from_numpy(preprocess_image(shard.images(row)[0], model.image_size))[None]}
            inputs = caption if shown is None else torch.cat((prefix, caption), 1)
            with torch.no_grad():
                logits = RefinedWebForCausalLM.forward(model.model, input_ids=inputs, **pixels).logits[:, -caption.shape[1] : -1]
            totals[kind] += float(torch.nn.functional.cross_entropy(logits[0], caption[0, 1:], reduction="sum"))
    assert documents == len(images), "the comparison needs whole batches"
    assert found == pytest.approx({kind: total / tokens for kind, total in totals.items()}, rel=1e-4)


def test_images_that_all_differ(training: Training) -> None:
    plain, changed = training.loader.step_batches(3), Unmasked(training.loader).step_batches(3)
    contents = torch.cat([batch.image_content for batch in changed])
    assert len(contents.unique()) == len(contents)
    assert all(torch.equal(one.pixel_values, other.pixel_values) for one, other in zip(plain, changed, strict=True))


def test_settings_that_decide_a_result(train_settings: dict) -> None:
    config = TrainConfig.model_validate({**train_settings, "run": "a"})
    moved = TrainConfig.model_validate({**train_settings, "run": "b", "seed": 9, "data": {**train_settings["data"], "text": "elsewhere"}})
    assert settings_of(config) == settings_of(moved)
    changed = TrainConfig.model_validate({**train_settings, "run": "a", "data": {**train_settings["data"], "augment": {"mirror": 0.5}}})
    assert settings_of(config) != settings_of(changed)


def test_held_out_captions_are_no_training_text(tmp_path: Path) -> None:
    """Four photos of two captions each; Multi30k holds one caption of the test photo, written with other spaces and capitals."""
    source = tmp_path / "data" / "flickr8k"
    source.mkdir(parents=True)
    names = {"train": ["a.jpg", "b.jpg"], "dev": ["c.jpg"], "test": ["d.jpg", "lost.jpg"]}
    lines = []
    with tarfile.open(source / "images96.tar", "w") as packed:
        for number, name in enumerate("abcd"):
            buffer = io.BytesIO()
            Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(buffer, "JPEG")
            member = tarfile.TarInfo(f"{name}.jpg")
            member.size = buffer.tell()
            packed.addfile(member, io.BytesIO(buffer.getvalue()))
            lines += [f"{name}.jpg#0\tA dog of kind {name} runs through the grass .", f"{name}.jpg#1\tThe dog {name} is running outside ."]
    for split, photos in names.items():
        (source / f"{split}.txt").write_text("\n".join(photos) + "\n")
    with gzip.open(source / "Flickr8k.token.txt.gz", "wt") as stream:
        stream.write("\n".join(lines) + "\n")
    (tmp_path / "data" / "multi30k").mkdir()
    with gzip.open(tmp_path / "data" / "multi30k" / "train.en.gz", "wt") as stream:
        stream.write("A dog of kind D runs through the grass.\n" + "".join(f"Sentence number {number} about people.\n" for number in range(300)))
    made = flickr8k(tmp_path / "data", tmp_path / "work", vocab_size=300)
    texts = (tmp_path / "work" / "captions.txt").read_text().splitlines()
    assert len(texts) == 4 + 300
    assert not any("kind d" in text.lower() for text in texts)
    test = ShardDataset(made["test"])
    tokenizer = Tokenizer(made["tokenizer"])
    assert [tokenizer.decode(np.asarray(test.tokens(index))) for index in range(len(test))] == [line.split("\t")[1] for line in lines[-2:]]
    assert len(ShardDataset(made["train"])) == 4
    first, second = (test.locate(index)[0].content_id[test.locate(index)[1]] for index in range(2))
    assert first == second, "captions of one photo are not each other's negatives"
