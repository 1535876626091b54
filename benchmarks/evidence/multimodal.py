"""Fusion and alignment: what an image is worth to the words about it, and what each of the two losses contributes.

    python -m benchmarks.evidence.multimodal --data DIR [--quick | --large] [--seeds N]

"Fusion" trains the trunk to continue an image with its caption (captioning loss), "alignment" trains the embeddings of image and caption to meet
(InfoNCE). Each is trained with the other and without it, from the same initial weights on the same batches of captioned Fashion-MNIST images;
all read captions alone as well. Measured on held-out training images: perplexity of captions behind the right image, behind one of another
class and without any, and zero-shot accuracy.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.evidence import zeroshot
from benchmarks.evidence.harness import (
    Options,
    Panel,
    Record,
    Results,
    curve_panel,
    paired_difference,
    parse_options,
    plot,
    print_json,
    print_table,
    run_experiment,
)
from benchmarks.evidence.photos import build, caption_losses, fashion_mnist, opened, settings_of, zero_shot
from benchmarks.evidence.training import Training, fit
from rwtrain.config.schema import TrainConfig
from rwtrain.data.shards import ShardDataset

BOTH, FUSION, ALIGNMENT = "fusion and alignment", "fusion only", "alignment only"
VARIANTS = {
    BOTH: {"captioning": 1.0, "image_contrast": 1.0},
    FUSION: {"captioning": 1.0, "image_contrast": 0.0},
    ALIGNMENT: {"captioning": 0.0, "image_contrast": 1.0},
}
EVALUATIONS = 6
CURVE_IMAGES = 1000  # of the held-out ones, for the learning curve
KINDS = ("right", "wrong", "none")


def configuration(options: Options, data: Mapping[str, Path], weights: Mapping[str, float], seed: int) -> TrainConfig:
    """The zero-shot experiment's smaller model; its texts are the captions."""
    values = zeroshot.configuration(dataclasses.replace(options, quick=not options.large), data, seed).model_dump()
    steps = options.steps(120, quick=20, large=2000)
    values["steps"] = steps
    values["data"] |= {"text": str(data["train"])}
    values["batch"] |= {"text_rows": 16, "image_rows": 64}
    values["objectives"] |= {"language_modelling": 1.0, **weights}
    values["optimizer"] |= {"warmup_steps": max(1, steps // 15)}
    return TrainConfig.model_validate(values)


def main() -> None:
    options = parse_options(__doc__ or "")
    data = fashion_mnist(options.data, options.out / "fashion-mnist-data")
    pairs = ShardDataset(data["dev_pairs"])
    few = 500 if options.quick else None

    def train(settings: Mapping[str, Any], seed: int) -> Record:
        training = Training.open(configuration(options, data, settings["weights"], seed))
        seq_len, steps = training.config.batch.seq_len, training.config.steps
        model = build(training)

        def figures(model: Any, images: int | None) -> dict[str, float]:
            ready = opened(model, data["tokenizer"], max_tokens=seq_len)
            losses = caption_losses(ready, pairs, every=max(1, len(pairs) // (images or len(pairs))))
            found = {f"perplexity_{kind}": math.exp(losses[kind]) for kind in KINDS}
            return found | {"worth": losses["wrong"] - losses["right"], "accuracy": 100 * zero_shot(ready, data["dev"], max_images=images)}

        def evaluate(model: Any) -> dict[str, float]:
            return figures(model, few or CURVE_IMAGES)

        curve = fit(model, training.losses(model), training.config.optimizer, steps=steps, seed=seed, evaluate=evaluate, every=max(1, steps // EVALUATIONS))
        return {"figures": figures(model, few) | {"train_cpu_s": curve[-1]["cpu_s"]}, "curve": curve}

    variants = {name: {"weights": weights, "all": settings_of(configuration(options, data, weights, 0))} for name, weights in VARIANTS.items()}
    results = run_experiment("multimodal", options, variants, train)
    columns = {"perplexity_right": "right image", "perplexity_wrong": "wrong image", "perplexity_none": "no image"}
    print_table(results, columns | {"worth": "wrong − right, nats", "accuracy": "zero-shot, %"})
    differences = {
        "alignment_adds_to_worth": paired_difference(results, BOTH, FUSION, "worth"),
        "fusion_adds_to_accuracy": paired_difference(results, BOTH, ALIGNMENT, "accuracy"),
    }
    print("; ".join(f"{name} {found['mean']:+.3f} ± {found['std']:.3f}" for name, found in differences.items()))
    print(f"plot: {plot('multimodal', options, panels(results))}")
    print_json("multimodal", options, results, **differences)


def panels(results: Results) -> list[Panel]:
    """Perplexities of the model with both losses; what the image is worth and what the embeddings know, by variant."""
    lines = {f"{kind} image": [[(point["step"], point[f"perplexity_{kind}"]) for point in record["curve"]] for record in results[BOTH]] for kind in KINDS}
    return [
        Panel("captions, fusion and alignment", "step", "perplexity per token", lines, log_y=True),
        curve_panel(results, "worth", title="what the right image is worth", y="nats per token against a wrong one"),
        curve_panel(results, "accuracy", title="zero-shot accuracy (chance 10)", y="%"),
    ]


if __name__ == "__main__":
    main()
