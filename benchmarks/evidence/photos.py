"""Image–text data of the evidence runs, made by the project's own preparation, and how well a model knows it."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.evidence.training import Training, device
from data_prep.pipeline import Preparation
from data_prep.plan import Plan
from data_prep.sources.idx import read_idx
from rwtrain.config.schema import TrainConfig
from rwtrain.data.images import preprocess_image
from rwtrain.data.shards import ShardDataset
from rwtrain.data.tokenizer import PAD_ID, Tokenizer
from rwtrain.evaluate.model import EvaluatedModel
from rwtrain.evaluate.retrieval import CUTOFFS, evaluate_retrieval
from rwtrain.evaluate.zero_shot import Classes, evaluate_zero_shot
from rwtrain.files import atomic_path
from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining

SPLITS = ("train", "dev", "test")
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
TEMPLATES = ("a photo of a {}", "a picture of a {}", "a grey image of a {}", "{}", "this is a {}", "a {} for sale", "the {} in this photo", "a small {}")
HELD_OUT = 5000  # of Fashion-MNIST's training images
UNFILTERED = {name: {"enabled": False} for name in ("language", "repetition", "quality")}


def flickr8k(data: Path, work: Path, *, vocab_size: int = 4000) -> dict[str, Path]:
    """Flickr8k in the official splits: shards of image–caption pairs "train", "dev" and "test", of captions "text", and the "tokenizer".

    The texts are the training captions and those of Multi30k (whose photos are not needed) that are no dev or test captions, as one in six is:
    both data sets drew on the same photos. The tokenizer is trained on them.
    """
    captions = _captions(data)
    pairs: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        names = [name for name in (data / "flickr8k" / f"{split}.txt").read_text().split() if captions[name]]
        _pack(data / "flickr8k" / "images96.tar", work / f"{split}.tar", names, captions)
        pairs[split] = {"kind": "webdataset", "name": f"flickr8k-{split}", "paths": [str(work / f"{split}.tar")], "language": "en"}
        if split == "train":
            texts = [caption for name in names for caption in captions[name]]
    held_out = {
        _letters(caption) for split in ("dev", "test") for name in (data / "flickr8k" / f"{split}.txt").read_text().split() for caption in captions[name]
    }
    texts += [caption for caption in _multi30k(data) if _letters(caption) not in held_out]
    sentences = _sentences(work / "captions.txt", texts)
    made = {"train": prepare(work / "train", [pairs["train"], sentences], tokenizer={"vocab_size": vocab_size})}
    tokenizer = made["train"] / "tokenizer" / "tokenizer.model"
    made |= {split: prepare(work / split, [pairs[split]], tokenizer={"model": str(tokenizer)}) for split in ("dev", "test")}
    folders = {split: folder / "shards" / "images" / "train" for split, folder in made.items()}
    return folders | {"text": made["train"] / "shards" / "text" / "train", "tokenizer": tokenizer}


def fashion_mnist(data: Path, work: Path) -> dict[str, Path]:
    """Fashion-MNIST captioned by class names: shards "train" (55,000 images), labelled Parquet files "dev" (5,000 of the training images, also as
    shards "dev_pairs") and "test".

    Multi30k's captions are the "text", and with the class captions what the "tokenizer" is trained on.
    """
    source = data / "fashion-mnist"
    images, labels = (read_idx(str(source / f"train-{part}-ubyte.gz")) for part in ("images-idx3", "labels-idx1"))
    parts = {"train": slice(0, len(images) - HELD_OUT), "dev": slice(len(images) - HELD_OUT, None)}
    files = []
    for split, part in parts.items():
        paths = {"images": work / f"{split}-images.idx", "labels": work / f"{split}-labels.idx"}
        _write_idx(paths["images"], images[part])
        _write_idx(paths["labels"], labels[part])
        place = {"split": "train"} if split == "train" else {"split": "valid", "zero_shot": True}
        files.append({name: str(path) for name, path in paths.items()} | place)
    pictures = {"kind": "idx", "name": "fashion-mnist", "classes": list(CLASSES), "templates": list(TEMPLATES)}
    sentences = _sentences(work / "captions.txt", _multi30k(data))
    made = prepare(work / "train", [pictures | {"files": files}, sentences], tokenizer={"vocab_size": 2000})
    tokenizer = made / "tokenizer" / "tokenizer.model"
    test = {name: str(source / f"t10k-{part}-ubyte.gz") for name, part in (("images", "images-idx3"), ("labels", "labels-idx1"))}
    test_made = prepare(work / "test", [pictures | {"files": [test | {"split": "test", "zero_shot": True}]}], tokenizer={"model": str(tokenizer)})
    return {
        "train": made / "shards" / "images" / "train",
        "dev": made / "eval" / "zeroshot.parquet",
        "dev_pairs": made / "shards" / "images" / "valid",
        "test": test_made / "eval" / "zeroshot.parquet",
        "text": made / "shards" / "text" / "train",
        "tokenizer": tokenizer,
    }


def prepare(out: Path, sources: list[dict[str, Any]], *, tokenizer: dict[str, Any]) -> Path:
    """Run the preparation of `sources` into `out` without filters and held-out documents, unless it is done already; return `out`."""
    if not (out / "summary.json").is_file():
        settings = {"sources": sources, "tokenizer": tokenizer, "splits": {"valid": 0.0}, "dedup": {"fuzzy": False, "images": False}, **UNFILTERED}
        print(f"preparing {out}", flush=True)
        Preparation(Plan.model_validate(settings), out, workers=1, quiet=True).run()
    return out


def _captions(data: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    with gzip.open(data / "flickr8k" / "Flickr8k.token.txt.gz", "rt", encoding="utf-8") as stream:
        for line in stream:
            name, caption = line.rstrip("\n").split("\t")
            found[name.partition("#")[0]].append(caption.strip())
    return found


def _multi30k(data: Path) -> list[str]:
    with gzip.open(data / "multi30k" / "train.en.gz", "rt", encoding="utf-8") as stream:
        return [line.strip() for line in stream if line.strip()]


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.lower()))


def _sentences(path: Path, lines: list[str]) -> dict[str, Any]:
    """A source of texts, one a line."""
    if not path.is_file():
        with atomic_path(path) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"kind": "text", "name": "captions", "paths": [str(path)], "language": "en"}


def _pack(photos: Path, path: Path, names: list[str], captions: dict[str, list[str]]) -> None:
    """A WebDataset tar with a sample for each caption: the photo and the caption."""
    if path.is_file():
        return
    with tarfile.open(photos) as stored:
        files = {Path(member.name).name: stored.extractfile(member).read() for member in stored if member.isfile()}  # type: ignore[union-attr]
    with atomic_path(path) as temporary, tarfile.open(temporary, "w") as packed:
        for name in names:
            for number, caption in enumerate(captions[name]):
                for suffix, content in (("jpg", files[name]), ("txt", caption.encode())):
                    member = tarfile.TarInfo(f"{Path(name).stem}_{number}.{suffix}")
                    member.size = len(content)
                    packed.addfile(member, io.BytesIO(content))


def _write_idx(path: Path, array: np.ndarray) -> None:
    if not path.is_file():
        with atomic_path(path) as temporary:
            temporary.write_bytes(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """What decides a training's result but for its seed, for `run_experiment`; not where the data lies."""
    return config.model_dump(mode="json", exclude={"run": True, "seed": True, "data": {"text", "images", "tokenizer"}})


def build(training: Training) -> RefinedWebForPreTraining:
    """The model of a training, arranged for speed on a processor: convolutions with channels last (a fifth faster), attention in plain operations.

    Over rows as short as a photo and its captions the backward pass of torch's fused attention takes longer than the layers around it.
    """
    if device().type == "cpu":
        training.model_config._attn_implementation = "eager"
    model = training.build_model()
    model.model.vision_tower.to(memory_format=torch.channels_last)
    return model


def opened(model: Any, tokenizer: Path, *, max_tokens: int) -> EvaluatedModel:
    """A model under training, ready for `rwtrain.evaluate`."""
    return EvaluatedModel(Path("training"), model.eval(), Tokenizer(tokenizer), max_tokens)


def zero_shot(model: EvaluatedModel, labelled: Path, *, max_images: int | None = None) -> float:
    """Share of labelled images whose class's prompts are the nearest."""
    return evaluate_zero_shot(model, labelled, Classes(list(CLASSES), list(TEMPLATES)), max_images=max_images)["accuracy"]


def recalls(model: EvaluatedModel, dataset: ShardDataset, *, max_documents: int | None = None) -> dict[str, float]:
    """Recall in percent by direction and cutoff: i2t_r1 (a photo finds one of its captions), …, t2i_r10; and `r10`, the mean of both at 10."""
    found = evaluate_retrieval(model, dataset, max_documents=max_documents)
    names = {"i2t": "image_to_text", "t2i": "text_to_image"}
    figures = {f"{short}_r{cutoff}": 100 * found[long][f"recall@{cutoff}"] for short, long in names.items() for cutoff in CUTOFFS}
    return figures | {"r10": (figures["i2t_r10"] + figures["t2i_r10"]) / 2}


@torch.no_grad()
def caption_losses(model: EvaluatedModel, dataset: ShardDataset, *, every: int = 5, batch: int = 100) -> dict[str, float]:
    """Mean −log p (nats) of the caption tokens of every `every`-th pair behind its own photo, behind the next one of other content, and without one.

    Returns:
        {"right", "wrong", "none"}.
    """
    places = np.arange(0, len(dataset), every)
    totals, tokens = dict.fromkeys(("right", "wrong", "none"), 0.0), 0
    for start in range(0, len(places), batch):
        part = places[start : start + batch]
        rows = [np.asarray(dataset.tokens(int(place)), np.int64) for place in part]
        contents = [_content(dataset, int(place)) for place in part]
        others = [next(k % len(part) for k in range(n + 1, n + 1 + len(part)) if contents[k % len(part)] != contents[n]) for n in range(len(part))]
        pixels = torch.from_numpy(np.stack([preprocess_image(_photo(dataset, int(place)), model.image_size) for place in part])).to(model.device)
        ids = torch.full((len(part), max(map(len, rows))), PAD_ID)
        for row, values in zip(ids, rows, strict=True):
            row[: len(values)] = torch.from_numpy(values)
        ids = ids.to(model.device)
        images = torch.full((len(part), model.config.image_seq_length), model.config.image_token_id, device=ids.device)
        with_image = torch.cat((images, ids), 1)
        tokens += int((ids[:, 1:] != PAD_ID).sum())
        for kind, shown in (("right", pixels), ("wrong", pixels[others])):
            totals[kind] += _loss(model.model, with_image, ids, pixel_values=shown)
        totals["none"] += _loss(model.model, ids, ids)
    return {kind: total / tokens for kind, total in totals.items()}


def _photo(dataset: ShardDataset, document: int) -> bytes:
    shard, row = dataset.locate(document)
    return shard.images(row)[0]


def _content(dataset: ShardDataset, document: int) -> int:
    shard, row = dataset.locate(document)
    return int(shard.content_id[row])


def _loss(model: Any, inputs: torch.Tensor, captions: torch.Tensor, **pixels: torch.Tensor) -> float:
    """Σ −log p of the captions' tokens behind their begin marks; the captions stand at the end of the inputs."""
    hidden = model.model(input_ids=inputs, **pixels).last_hidden_state[:, -captions.shape[1] : -1]
    wanted = captions[:, 1:] != PAD_ID
    return float(torch.nn.functional.cross_entropy(model.lm_head(hidden[wanted]).float(), captions[:, 1:][wanted], reduction="sum"))
