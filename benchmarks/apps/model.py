"""Pretrain and export the small model with which the applications are measured.

    python -m benchmarks.apps.model --data DIR

DIR holds wikitext2, wikipedia-dump, fewrel, multi30k, flickr8k and fb15k237. Everything is written under runs/apps; what is finished is not done again.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

OUT = Path("runs/apps")
MODEL = OUT / "export"
HEADING = re.compile(r"^ = (?!=)(.*?) = $")
JOINED = (("@-@", "-"), ("@,@", ","), ("@.@", "."))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--steps", type=int, default=1100, help="steps of pretraining")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    store, linker, prepared, run = OUT / "kg", OUT / "linker", OUT / "prep", OUT / "train"
    _rwtrain(store / "manifest.json", "kg", "import", options.data / "fb15k237", "--out", store)
    _rwtrain(store / "transe/manifest.json", "kg", "train", store, "--epochs", "10", "--set", "dimension=128")
    _rwtrain(linker / "linker.json", "kg", "linker", store, "--out", linker)
    _write_corpora(options.data)
    plan = OUT / "prep.yaml"
    plan.write_text(yaml.safe_dump(_plan(options.data), sort_keys=False))
    _rwtrain(None, "prep", plan, "--out", prepared, "--set", f"link.store={linker}")
    config = OUT / "train.yaml"
    config.write_text(yaml.safe_dump(_training(store, prepared, run, options.steps), sort_keys=False))
    _rwtrain(None, "train", config, "--processes", "1")
    _rwtrain(MODEL / "config.json", "export", run, "--out", MODEL, "--linker", linker)


def _rwtrain(made: Path | None, *arguments: object) -> None:
    if made is not None and made.exists():
        return
    print(f"$ rwtrain {' '.join(map(str, arguments))}", flush=True)
    subprocess.run([sys.executable, "-m", "rwtrain.cli", *map(str, arguments)], check=True)


def _write_corpora(data: Path) -> None:
    texts = OUT / "texts.jsonl"
    if not texts.exists():
        rows = [*_wikitext(data / "wikitext2/train.txt.gz"), *_fewrel(data / "fewrel/val_wiki.json.gz"), *_captions(data / "multi30k/train.en.gz")]
        texts.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    photos = OUT / "photos.parquet"
    if not photos.exists():
        pq.write_table(pa.table(dict(zip(("image", "text"), zip(*_photos(data / "flickr8k"), strict=True), strict=True))), photos)


def detokenize(text: str) -> str:
    """WikiText's spaced tokens as ordinary text."""
    for mark, plain in JOINED:
        text = text.replace(f" {mark} ", plain)
    text = re.sub(r" ([,.;:!?)\]'])", r"\1", re.sub(r"([(\[]) ", r"\1", text))
    return re.sub(r'" ([^"]*) "', r'"\1"', text).replace(" n't", "n't").replace(" @ ", "@")


def _wikitext(path: Path) -> Iterator[str]:
    article: list[str] = []
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            if HEADING.match(line.rstrip("\n")):
                if article:
                    yield "\n".join(article)
                article = []
            elif line.strip() and not line.startswith(" ="):
                article.append(detokenize(line.strip().replace("<unk>", "")))
    yield "\n".join(article)


def _fewrel(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        for relation in json.load(stream).values():
            sentences = [detokenize(" ".join(row["tokens"])) for row in relation]
            yield from ("\n".join(sentences[start : start + 4]) for start in range(0, len(sentences), 4))


def _captions(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        lines = [line.strip() for line in stream]
    yield from ("\n".join(lines[start : start + 8]) for start in range(0, len(lines), 8))


def _photos(folder: Path) -> Iterator[tuple[bytes, str]]:
    """(JPEG of 64 × 64 pixels, caption) of the training photos, five each."""
    from PIL import Image

    train = set((folder / "train.txt").read_text().split())
    captions: dict[str, list[str]] = {}
    with gzip.open(folder / "Flickr8k.token.txt.gz", "rt", encoding="utf-8") as stream:
        for line in stream:
            key, caption = line.rstrip("\n").split("\t")
            captions.setdefault(key.split("#")[0], []).append(caption.removesuffix(" ."))
    with tarfile.open(folder / "images96.tar") as tar:
        for member in tar:
            name = Path(member.name).name
            if name not in train or (stream := tar.extractfile(member)) is None:
                continue
            buffer = io.BytesIO()
            Image.open(stream).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
            yield from ((buffer.getvalue(), caption) for caption in captions[name])


def _plan(data: Path) -> dict:
    return {
        "name": "apps",
        "sources": [
            {"kind": "text", "name": "texts", "paths": [str(OUT / "texts.jsonl")], "language": "en", "skip": ["language", "quality", "repetition"]},
            {"kind": "wikipedia", "name": "wikipedia", "paths": [str(data / "wikipedia-dump/*.bz2")], "skip": ["language"]},
            {"kind": "image_table", "name": "photos", "paths": [str(OUT / "photos.parquet")], "language": "en"},
        ],
        "splits": {"valid": 0.02},
        "tokenizer": {"vocab_size": 12000},
    }


def _training(store: Path, prepared: Path, run: Path, steps: int) -> dict:
    return {
        "run": str(run),
        "steps": steps,
        "seed": 1,
        "data": {
            "text": str(prepared / "shards/text/train"),
            "images": str(prepared / "shards/images/train"),
            "tokenizer": str(prepared / "tokenizer/tokenizer.model"),
            "entity_store": str(store),
        },
        "model": {
            "hidden_size": 256,
            "intermediate_size": 704,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "embedding_dim": 128,
            "gate_layers": [1, 2],
            "max_position_embeddings": 1024,
            "vision": {
                "model_type": "siglip_vision_model",
                "image_size": 64,
                "patch_size": 16,
                "hidden_size": 128,
                "intermediate_size": 384,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "vision_use_head": False,
            },
        },
        "batch": {"seq_len": 192, "text_rows": 16, "masked_rows": 6, "pair_rows": 8, "image_rows": 6, "view_tokens": 48, "caption_tokens": 24},
        "objectives": {"text_contrast": 0.2, "image_contrast": 0.3, "captioning": 0.3, "entity_alignment": 0.1, "masked_modelling": 0.4},
        "optimizer": {"learning_rate": 1.5e-3, "warmup_steps": 60, "weight_decay": 0.05, "beta2": 0.98},
        "engine": {"overlays": ["zero1", "bf16"]},
        "checkpoint": {"every_steps": 100, "keep": 2},
        "guard": {"hang_timeout_s": 0},
    }


if __name__ == "__main__":
    main()
