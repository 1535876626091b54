"""Continued pretraining on biomedical sentences: what the model gains on them, what it forgets, and what replay of the first corpus keeps.

A small causal model is trained on WikiText-2 and exported; training then begins with that folder (`rwtrain train`, init.model) on FewRel's
unsupervised PubMed sentences, for the same number of steps alone, and mixed with as many tokens of WikiText-2. Perplexities are of held-out text
that no training has seen: FewRel's labelled PubMed sentences, which are taken out of the unsupervised ones, and WikiText-2's validation file.
Finished parts below --runs are not done again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.glue import call
from benchmarks.glue_corpus import SHORTEST, plain, read_lines
from benchmarks.peer_env import ROOT
from data_prep.tokenizer_training import train_tokenizer
from rwtrain.data.shards import Document, ShardDataset, ShardWriter
from rwtrain.data.tokenizer import BOS_ID, EOS_ID, Tokenizer

VOCABULARY = 8000
STEPS, ADAPTATION_STEPS, QUICK_STEPS = 250, 60, 12
HELD_OUT = 400  # documents of the general text
SETTINGS: dict[str, Any] = {
    "model": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "embedding_dim": 64,
    },
    "batch": {"seq_len": 192, "text_rows": 24},
    "objectives": {"text_contrast": 0.0},
    "optimizer": {"learning_rate": 3e-3, "warmup_steps": 30, "min_learning_rate_ratio": 0.05},
    "engine": {"overlays": ["zero0", "fp32"]},
    "guard": {"hang_timeout_s": 0},
    "checkpoint": {"every_steps": 100, "keep": 1},
    "logging": {"every_steps": 20, "tensorboard": False},
}
ADAPTED = {"learning_rate": 1e-3, "warmup_steps": 10, "min_learning_rate_ratio": 0.05}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with wikitext2 and fewrel")
    parser.add_argument("--runs", type=Path, help="folder of the parts (default: runs/adaptation, with --quick runs/adaptation-quick)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_STEPS} steps of each training")
    options = parser.parse_args()
    runs = options.runs or ROOT / "runs" / ("adaptation-quick" if options.quick else "adaptation")
    shards = write_shards(options.data, runs / "data")
    steps, further = (QUICK_STEPS, QUICK_STEPS) if options.quick else (STEPS, ADAPTATION_STEPS)
    export = runs / "general" / "export"
    train(runs / "general", {**SETTINGS, "steps": steps}, shards / "general")
    if not export.is_dir():
        call("-m", "rwtrain.cli", "export", runs / "general", "--out", export)
    adapted = {**{key: value for key, value in SETTINGS.items() if key != "model"}, "steps": further, "optimizer": ADAPTED, "init": {"model": str(export)}}
    figures: dict[str, Any] = {"name": "adaptation", "quick": options.quick, "before": perplexities(runs / "general", shards)}
    for name, text in (("domain", "domain"), ("with replay", "replayed")):
        run = runs / text
        train(run, adapted, shards / text)
        figures[name] = perplexities(run, shards)
    print(f"{'':14}{'PubMed perplexity':>20}{'WikiText-2 perplexity':>24}")
    for name in ("before", "domain", "with replay"):
        print(f"{name:14}{figures[name]['domain']:20.1f}{figures[name]['general']:24.1f}")
    print(json.dumps(figures))


def sentences(data: Path) -> dict[str, list[str]]:
    """Documents of the four texts: general and domain, to train on and held out."""

    def read(name: str) -> Any:
        with gzip.open(data / "fewrel" / name, "rt", encoding="utf-8") as stream:
            return json.load(stream)

    domain = list(dict.fromkeys(" ".join(item["tokens"]) for item in read("pubmed_unsupervised.json.gz")))
    labelled = dict.fromkeys(" ".join(item["tokens"]) for items in read("val_pubmed.json.gz").values() for item in items)
    general = {split: [plain(line) for line in read_lines(data / "wikitext2" / f"{split}.txt.gz") if len(line) > SHORTEST] for split in ("train", "valid")}
    return {
        "general": general["train"],
        "domain": [sentence for sentence in domain if sentence not in labelled],
        "held-out-general": general["valid"][:HELD_OUT],
        "held-out-domain": list(labelled),
    }


def write_shards(data: Path, out: Path) -> Path:
    """One folder of shards for each text and for the mixture, with a tokenizer that knows the general text only."""
    if (out / "replayed" / "manifest.json").is_file():
        return out
    texts = sentences(data)
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.model").write_bytes(train_tokenizer(texts["general"], vocab_size=VOCABULARY))
    tokenizer = Tokenizer(out / "tokenizer.model")
    tokens = {name: [np.concatenate(([BOS_ID], ids, [EOS_ID])) for ids in tokenizer.encode_batch(lines)] for name, lines in texts.items()}
    order, replay, wanted = np.random.default_rng(0).permutation(len(tokens["general"])), [], sum(map(len, tokens["domain"]))
    for place in order:  # as many tokens of the general text as of the domain's
        if wanted <= 0:
            break
        replay.append(tokens["general"][place])
        wanted -= len(replay[-1])
    for name, rows in {**tokens, "replayed": tokens["domain"] + replay}.items():
        with ShardWriter(out / name, vocab_size=tokenizer.vocab_size, tokenizer_hash=tokenizer.hash) as writer:
            for number, row in enumerate(rows):
                writer.add(Document(doc_id=f"{name}-{number}", language="en", tokens=row, content_id=number))
    return out


def train(run: Path, settings: dict[str, Any], text: Path) -> None:
    """Train, or go on, to the end."""
    if (run / "checkpoints" / f"step-{settings['steps']:08d}").is_dir():
        return
    path = run.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({**settings, "run": str(run), "data": {"text": str(text), "tokenizer": str(text.parent / "tokenizer.model")}}))
    call("-m", "rwtrain.cli", "train", path)


def perplexities(run: Path, shards: Path) -> dict[str, float]:
    """Perplexity on held-out domain and general text, of the run's latest checkpoint."""
    from rwtrain.evaluate.language_modelling import evaluate_language_modelling
    from rwtrain.evaluate.model import open_model

    model, found = open_model(run, device="cpu"), {}
    for name in ("domain", "general"):
        result = evaluate_language_modelling(model, ShardDataset(shards / f"held-out-{name}"), compare_untrained=False)
        found[name] = result["perplexity"]
        assert math.isfinite(found[name])
    return found


if __name__ == "__main__":
    main()
