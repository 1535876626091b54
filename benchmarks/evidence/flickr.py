"""Flickr8k from scratch: photos find their captions among 5,000, captions their photo among 1,000, with nothing pretrained.

    python -m benchmarks.evidence.flickr --data DIR [--quick | --large] [--seeds N] [--steps-scale X]

Trains on the official 6,000 training photos with their 30,000 captions, chooses on dev, reports test. A convolutional image encoder
of 64-pixel photos, randomly cropped, mirrored and recoloured; the trunk reads captions, writes them (captioning) and pools both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.evidence.harness import Options, Record, curve_panel, parse_options, plot, print_json, print_table, run_experiment
from benchmarks.evidence.photos import build, caption_losses, flickr8k, opened, recalls, settings_of
from benchmarks.evidence.training import Training, fit
from rwtrain.config.schema import TrainConfig
from rwtrain.data.shards import ShardDataset

CAPTION_TOKENS = 20  # nine captions of ten are not longer
EVALUATIONS = 6
TRAIN_DOCUMENTS = 5000  # pairs of training photos that recall is also measured on


def configuration(options: Options, data: Mapping[str, Path], seed: int) -> TrainConfig:
    """The model, its batch of pairs, its schedule."""
    width, layers, heads = options.choose((128, 2, 4), quick=(64, 1, 2), large=(384, 4, 6))
    stages, depths, size = options.choose(
        ([32, 64, 128, 256], [1, 2, 2, 2], 64), quick=([16, 32, 64], [1, 1, 1], 32), large=([64, 128, 256, 512], [2, 2, 2, 2], 96)
    )
    image_tokens = (-(-size // (2 ** (1 + len(stages))))) ** 2
    seq_len = image_tokens + 2 * CAPTION_TOKENS  # one pair a row: attention over short rows is cheap
    steps = options.steps(1000, quick=20, large=6000)
    return TrainConfig.model_validate(
        {
            "run": "unused",
            "steps": steps,
            "seed": seed,
            "data": {
                "text": str(data["text"]),
                "images": str(data["train"]),
                "tokenizer": str(data["tokenizer"]),
                "augment": {"crop_area": 0.5, "mirror": 0.5, "colour": 0.2},
            },
            "model": {
                "hidden_size": width,
                "intermediate_size": width * 5 // 2,
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "embedding_dim": width,
                "max_position_embeddings": seq_len,
                "vision": {
                    "model_type": "resnet",
                    "image_size": size,
                    "embedding_size": stages[0],
                    "hidden_sizes": stages,
                    "depths": depths,
                    "layer_type": "basic",
                },
            },
            "batch": {"seq_len": seq_len, "text_rows": 2, "image_rows": options.choose(128, quick=32, large=512), "caption_tokens": CAPTION_TOKENS},
            "objectives": {"language_modelling": 0.1, "captioning": 0.5, "image_contrast": 1.0},
            "optimizer": {
                "learning_rate": options.choose(2e-3, quick=2e-3, large=1e-3),
                "min_learning_rate_ratio": 0.01,
                "warmup_steps": max(1, steps // 15),
                "weight_decay": 0.1,
                "beta2": 0.98,
            },
        }
    )


def main() -> None:
    options = parse_options(__doc__ or "")
    data = flickr8k(options.data, options.out / "flickr8k-data")
    sets = {split: ShardDataset(data[split]) for split in ("train", "dev", "test")}
    few = 500 if options.quick else None

    def train(_: Mapping[str, Any], seed: int) -> Record:
        training = Training.open(configuration(options, data, seed))
        seq_len, steps = training.config.batch.seq_len, training.config.steps
        model = build(training)

        def evaluate(model: Any) -> dict[str, float]:
            found = recalls(opened(model, data["tokenizer"], max_tokens=seq_len), sets["dev"], max_documents=few)
            print("  dev", {name: round(value, 1) for name, value in found.items()}, flush=True)
            return {f"dev_{name}": value for name, value in found.items()}

        curve = fit(model, training.losses(model), training.config.optimizer, steps=steps, seed=seed, evaluate=evaluate, every=max(1, steps // EVALUATIONS))
        torch.save(model.state_dict(), options.out / f"flickr-{options.size}-seed{seed}.pt")
        ready = opened(model, data["tokenizer"], max_tokens=seq_len)
        figures = {name: value for name, value in curve[-1].items() if name.startswith("dev_")}
        figures |= {f"test_{name}": value for name, value in recalls(ready, sets["test"], max_documents=few).items()}
        figures |= {f"train_{name}": value for name, value in recalls(ready, sets["train"], max_documents=few or TRAIN_DOCUMENTS).items()}
        figures |= {f"test_caption_loss_{name}": value for name, value in caption_losses(ready, sets["test"]).items()}
        figures |= {"parameters": sum(parameter.numel() for parameter in model.parameters()), "train_cpu_s": curve[-1]["cpu_s"]}
        return {"figures": figures, "curve": curve}

    results = run_experiment("flickr", options, {"resnet": settings_of(configuration(options, data, 0))}, train)
    names = [f"{direction}_r{cutoff}" for direction in ("i2t", "t2i") for cutoff in (1, 5, 10)]
    print_table(results, {f"test_{name}": name for name in names})
    print_table(results, {f"train_{name}": f"train {name}" for name in names})
    panels = [
        curve_panel(results, "image_contrast", title="image–text InfoNCE, training", y="nats"),
        curve_panel(results, "dev_i2t_r10", title="photo → caption R@10, dev (chance 1)", y="%"),
        curve_panel(results, "dev_t2i_r10", title="caption → photo R@10, dev (chance 1)", y="%"),
    ]
    print(f"plot: {plot('flickr', options, panels)}")
    print_json("flickr", options, results)


if __name__ == "__main__":
    main()
