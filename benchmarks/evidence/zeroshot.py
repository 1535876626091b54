"""Fashion-MNIST zero-shot: images learned from captions alone, classified by the nearest prompts.

    python -m benchmarks.evidence.zeroshot --data DIR [--quick | --large] [--seeds N]

Trains on 55,000 of the 60,000 training images, each with a caption of its class's name in one of eight templates; settings were chosen on the
other 5,000, and the figure is the accuracy on the 10,000 test images. Images of one class are not each other's negatives.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.evidence.harness import Options, Record, curve_panel, parse_options, plot, print_json, print_table, run_experiment
from benchmarks.evidence.photos import build, fashion_mnist, opened, settings_of, zero_shot
from benchmarks.evidence.training import Training, fit
from rwtrain.config.schema import TrainConfig

CAPTION_TOKENS = 14
IMAGE_TOKENS = 4
EVALUATIONS = 6
CURVE_IMAGES = 2000  # of the held-out ones, for the learning curve


def configuration(options: Options, data: Mapping[str, Path], seed: int) -> TrainConfig:
    """The model, its batch of pairs, its schedule."""
    width, layers = options.choose((64, 1), quick=(64, 1), large=(256, 4))
    stages, depths = options.choose(([32, 64, 128], [1, 1, 1]), quick=([16, 32, 64], [1, 1, 1]), large=([64, 128, 256], [2, 2, 2]))
    seq_len = IMAGE_TOKENS + 2 * CAPTION_TOKENS
    steps = options.steps(400, quick=25, large=3000)
    return TrainConfig.model_validate(
        {
            "run": "unused",
            "steps": steps,
            "seed": seed,
            "data": {
                "text": str(data["text"]),
                "images": str(data["train"]),
                "tokenizer": str(data["tokenizer"]),
                "augment": {"crop_area": 0.8, "mirror": 0.5},
            },
            "model": {
                "hidden_size": width,
                "intermediate_size": width * 5 // 2,
                "num_hidden_layers": layers,
                "num_attention_heads": 2,
                "embedding_dim": 64,
                "max_position_embeddings": seq_len,
                "vision": {
                    "model_type": "resnet",
                    "image_size": 28,
                    "embedding_size": stages[0],
                    "hidden_sizes": stages,
                    "depths": depths,
                    "layer_type": "basic",
                },
            },
            "batch": {"seq_len": seq_len, "text_rows": 1, "image_rows": options.choose(128, quick=128, large=256), "caption_tokens": CAPTION_TOKENS},
            "objectives": {"language_modelling": 0.1, "captioning": 0.2, "image_contrast": 1.0},
            "optimizer": {"learning_rate": 3e-3, "min_learning_rate_ratio": 0.01, "warmup_steps": max(1, steps // 15), "weight_decay": 0.05, "beta2": 0.98},
        }
    )


def main() -> None:
    options = parse_options(__doc__ or "")
    data = fashion_mnist(options.data, options.out / "fashion-mnist-data")
    few = 500 if options.quick else None

    def train(_: Mapping[str, Any], seed: int) -> Record:
        training = Training.open(configuration(options, data, seed))
        seq_len, steps = training.config.batch.seq_len, training.config.steps
        model = build(training)

        def evaluate(model: Any) -> dict[str, float]:
            ready = opened(model, data["tokenizer"], max_tokens=seq_len)
            return {"dev_accuracy": 100 * zero_shot(ready, data["dev"], max_images=few or CURVE_IMAGES)}

        curve = fit(model, training.losses(model), training.config.optimizer, steps=steps, seed=seed, evaluate=evaluate, every=max(1, steps // EVALUATIONS))
        ready = opened(model, data["tokenizer"], max_tokens=seq_len)
        figures = {f"{split}_accuracy": 100 * zero_shot(ready, data[split], max_images=few) for split in ("dev", "test")}
        return {"figures": figures | {"images_seen": steps * training.loader.recipe.images, "train_cpu_s": curve[-1]["cpu_s"]}, "curve": curve}

    results = run_experiment("zeroshot", options, {"resnet": settings_of(configuration(options, data, 0))}, train)
    print_table(results, {"dev_accuracy": "held-out train, %", "test_accuracy": "test, %", "images_seen": "images seen", "train_cpu_s": "CPU-s"})
    panels = [
        curve_panel(results, "image_contrast", title="image–text InfoNCE, training", y="nats"),
        curve_panel(results, "dev_accuracy", title="zero-shot accuracy, held out (chance 10)", y="%"),
    ]
    print(f"plot: {plot('zeroshot', options, panels)}")
    print_json("zeroshot", options, results, test_accuracies=[record["figures"]["test_accuracy"] for record in results["resnet"]])


if __name__ == "__main__":
    main()
