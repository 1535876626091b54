"""What the image–text contrast owes to its temperature, its batch and its negatives: zero-shot accuracy on Fashion-MNIST, one change at a time.

    python -m benchmarks.evidence.contrastive --data DIR [--quick | --large] [--seeds N]

The base contrasts 256 pairs with a learnable temperature and masks images of the same class. Every variant sees the same images in the same
order from the same initial weights. Batches are read in micro-batches of 64 pairs; larger ones
are contrasted whole by gradient caching. The learning rate grows with the square root of the batch. "In groups" keeps the batch and the
number of updates and changes only how many negatives a pair meets.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

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
    summarise,
)
from benchmarks.evidence.photos import build, fashion_mnist, opened, settings_of, zero_shot
from benchmarks.evidence.training import Training, fit
from rwtrain.config.schema import TrainConfig
from rwtrain.data.recipe import Batch

MICRO_BATCH = 64
BASE: dict[str, Any] = {"batch": 256, "temperature": None, "masked": True, "cached": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "base": BASE,
    **{f"temperature fixed at {value}": BASE | {"temperature": value} for value in (0.01, 0.07, 0.5)},
    **{f"batch {size}": BASE | {"batch": size} for size in (64, 1024, 4096)},
    "batch 1024 in groups of 64": BASE | {"batch": 1024, "cached": False},
    "same class as negatives": BASE | {"masked": False},
}
NAMES = list(VARIANTS)
FEW_IMAGES = 1000  # of the held-out ones, for the learning curve


def configuration(options: Options, data: Mapping[str, Path], settings: Mapping[str, Any], seed: int) -> TrainConfig:
    """The zero-shot experiment's model with this variant's batch; all variants see the same number of images."""
    values = zeroshot.configuration(dataclasses.replace(options, quick=not options.large), data, seed).model_dump()
    images = options.choose(8192, quick=4096, large=500_000 // 4096 * 4096)
    steps = max(1, round(images * options.steps_scale / settings["batch"]))
    values["steps"] = steps
    values["batch"] |= {"image_rows": settings["batch"], "text_rows": settings["batch"] // MICRO_BATCH, "accumulation": settings["batch"] // MICRO_BATCH}
    values["objectives"] |= {"captioning": 0.0, "gradient_caching": settings["cached"]}
    values["optimizer"] |= {"learning_rate": 3e-3 * math.sqrt(settings["batch"] / 256), "warmup_steps": max(1, steps // 15)}
    return TrainConfig.model_validate(values)


class Unmasked:
    """A loader whose images all have content ids of their own, so that every other pair is a negative."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def step_batches(self, step: int) -> list[Batch]:
        """As `Loader.step_batches`."""
        return [dataclasses.replace(batch, image_content=torch.from_numpy(batch.samples["image"])) for batch in self.loader.step_batches(step)]


def main() -> None:
    options = parse_options(__doc__ or "")
    data = fashion_mnist(options.data, options.out / "fashion-mnist-data")
    few = 500 if options.quick else None

    def train(settings: Mapping[str, Any], seed: int) -> Record:
        training = Training.open(configuration(options, data, settings, seed))
        seq_len, steps = training.config.batch.seq_len, training.config.steps
        if not settings["masked"]:
            training = dataclasses.replace(training, loader=Unmasked(training.loader))  # type: ignore[arg-type]
        model = build(training)
        if settings["temperature"] is not None:
            model.image_logit_scale.data.fill_(math.log(1 / settings["temperature"]))
            model.image_logit_scale.requires_grad_(False)
            model.config.logit_scale_max = max(model.config.logit_scale_max, math.log(1 / settings["temperature"]))

        def evaluate(model: Any) -> dict[str, float]:
            ready = opened(model, data["tokenizer"], max_tokens=seq_len)
            return {"accuracy": 100 * zero_shot(ready, data["dev"], max_images=few or FEW_IMAGES), "temperature": 1 / math.exp(float(model.image_logit_scale))}

        curve = fit(model, training.losses(model), training.config.optimizer, steps=steps, seed=seed, evaluate=evaluate, every=max(1, steps // 3))
        for point in curve:
            point["images"] = point["step"] * settings["batch"]
        ready = opened(model, data["tokenizer"], max_tokens=seq_len)
        figures = {"dev_accuracy": 100 * zero_shot(ready, data["dev"], max_images=few), "temperature": curve[-1]["temperature"]}
        return {"figures": figures | {"updates": steps, "train_cpu_s": curve[-1]["cpu_s"]}, "curve": curve}

    variants = {name: settings | {"all": settings_of(configuration(options, data, settings, 0))} for name, settings in VARIANTS.items()}
    results = run_experiment("contrastive", options, variants, train)
    columns = {"dev_accuracy": "held-out accuracy, %", "temperature": "temperature at the end", "updates": "updates", "train_cpu_s": "CPU-s"}
    print_table(results, columns)
    differences = {name: paired_difference(results, name, NAMES[0], "dev_accuracy") for name in NAMES[1:]}
    print("\nagainst the base, points: " + "; ".join(f"{name} {found['mean']:+.1f} ± {found['std']:.1f}" for name, found in differences.items()))
    print(f"plot: {plot('contrastive', options, panels(results))}")
    print_json("contrastive", options, results, minus_base=differences)


def panels(results: Results) -> list[Panel]:
    """Accuracy over temperature and batch, and the learning curves of the variants with other negatives."""
    found = summarise(results)

    def points(names: Mapping[str, float]) -> list[list[tuple[float, float]]]:
        seeds = len(next(iter(results.values())))
        return [[(x, found[name]["dev_accuracy"]["values"][seed]) for name, x in names.items()] for seed in range(seeds)]

    temperatures = {name: settings["temperature"] for name, settings in VARIANTS.items() if settings["temperature"]}
    learned = found[NAMES[0]]["temperature"]["mean"]
    batches = {name: settings["batch"] for name, settings in VARIANTS.items() if settings | {"batch": 0} == BASE | {"batch": 0}}
    batches = dict(sorted(batches.items(), key=lambda item: item[1]))
    curves = {name: results[name] for name in (NAMES[0], "same class as negatives", "batch 1024", "batch 1024 in groups of 64")}
    lines = {"fixed": points(temperatures), f"learnable (ends at {learned:.3f})": points({NAMES[0]: learned})}
    return [
        Panel("temperature", "temperature", "held-out zero-shot accuracy, %", lines, log_x=True),
        Panel("batch, same images seen", "pairs per update", "held-out zero-shot accuracy, %", {"gradient caching": points(batches)}, log_x=True),
        curve_panel(curves, "accuracy", title="negatives", y="held-out zero-shot accuracy, %", x="images"),
    ]


if __name__ == "__main__":
    main()
