"""The model card: what the model is, what it was trained on, how good it is, where it fails."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rwtrain.export.energy import Power, compute_lines
from rwtrain.export.folder import CAUSAL, architecture
from rwtrain.export.run import TrainedRun

USAGE = """```python
from transformers import AutoModelForCausalLM, AutoProcessor

folder = "{name}"
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

inputs = processor(text="The capital of"{link})
print(processor.decode(model.generate(**inputs, max_new_tokens=40)[0], skip_special_tokens=True))

a, b = model.get_text_features(**processor(text=["a sentence", "another one"], mode="embed"))
print("similarity", float(a @ b))
{image}```
"""
IMAGE_USAGE = """
from PIL import Image
image = Image.open("photo.png")
scores = model.get_image_features(processor(images=image, mode="embed")["pixel_values"]) @ model.get_text_features(
    **processor(text=["a photo of a shoe", "a photo of a bag"], mode="embed")).T
caption = model.generate(**processor(images=image), max_new_tokens=20)
"""
TASK_USAGE = """```python
from transformers import pipeline

{verb} = pipeline("{pipeline}", model="{name}", trust_remote_code=True)
print({verb}({example}))
```
"""
TASK_PIPELINES = {
    "RefinedWebForSequenceClassification": ("text-classification", "classify", '"a sentence"'),
    "RefinedWebForTokenClassification": ("token-classification", "classify", '"a sentence"'),
    "RefinedWebForQuestionAnswering": ("question-answering", "answer", 'question="Who wrote it?", context="It was written by Ada."'),
}
INTENDED = """For research on, and as a starting point of, models of the texts it was trained on: continued pretraining, fine-tuning, retrieval by
embeddings. What it was not measured on (see Evaluation), it should be assumed not to do."""
LIMITS = """The model repeats what its training text says, with its errors, prejudices and gaps, and invents facts. Text it writes must be
checked by a person before it is relied on. It was not tuned to follow instructions or to refuse harmful requests, and must not
decide about people. Its knowledge ends with its training data. Loading it runs the Python files in this folder
(`trust_remote_code=True`): read them first."""


def model_card(
    run: TrainedRun,
    *,
    parameters: int,
    name: str,
    licence: str,
    linker: bool,
    power: Power,
    parity: dict[str, Any] | None,
    evaluations: Mapping[str, Mapping[str, Any]],
) -> str:
    """The text of the model card.

    Args:
        parameters: number of parameters, tied ones counted once.
        licence: identifier for the card's header, such as `apache-2.0`.
        linker: whether the entity linker is in the folder.
        power: what a rank drew.
        parity: report of the parity check, None if it was not run.
        evaluations: figures of `rwtrain eval … --json` by title.
    """
    config, images = run.config, run.config.vision_config is not None
    tags = ["refinedweb", "feature-extraction", *(["image-text-to-text"] if images else []), *(["entity-linking"] if linker else [])]
    abilities = ["writes text", "embeds text", *(["embeds and describes images"] if images else []), *(["reads linked entities"] if config.entity_dim else [])]
    own = architecture(config)
    tag, verb, example = TASK_PIPELINES.get(own, ("text-generation", "", ""))
    if own != CAUSAL:
        abilities = ["was fine-tuned on " + str((run.task or {}).get("task", "a task"))]
        usage = TASK_USAGE.format(name=name, pipeline=tag, verb=verb, example=example)
    else:
        usage = USAGE.format(name=name, link=", link=True" if linker else "", image=IMAGE_USAGE if images else "")
    header = f"---\nlicense: {licence}\nlibrary_name: transformers\npipeline_tag: {tag}\ntags: [{', '.join(tags)}]\n---"
    sections = [
        header,
        f"# {name}",
        f"A RefinedWeb model with {parameters:,} parameters: {config.num_hidden_layers} layers of width {config.hidden_size}, {config.vocab_size:,} token ids, "
        f"segments of up to {config.max_position_embeddings} tokens. It {', '.join(abilities)}.",
        "## Use",
        "Needs `torch`, `transformers` and `pillow`.",
        usage,
        "## Training data",
        "\n".join(_data_lines(run)) or "The training shards were not at hand when the model was exported.",
        "## Training",
        _table(_training_rows(run)),
        "## Compute",
        " ".join(compute_lines(run, power)),
        "## Evaluation",
        *[f"**{title}**\n\n{_table(_flat(figures))}" for title, figures in evaluations.items()],
        *([] if evaluations else ["No figures were given at export."]),
        "## Parity",
        _parity_line(parity),
        "## Intended use",
        INTENDED,
        "## Limits",
        LIMITS,
        "## Licence",
        f"The weights: {licence}. The code files: Apache-2.0. The training texts keep their own licences.",
    ]
    return "\n\n".join(sections) + "\n"


def _data_lines(run: TrainedRun) -> list[str]:
    lines = []
    for use, data in run.datasets.items():
        counts = [f"{data.manifest[key]:,} {key}" for key in ("documents", "tokens", "mentions", "images") if data.manifest[key]]
        lines.append(f"- **{use}**: {', '.join(counts)}; tokenizer `{data.manifest['tokenizer_hash']}`")
    return lines + [f"- prepared from `{Path(item['file']).name}` (XXH3 `{item['hash']}`)" for item in run.corpus.get("inputs", [])]


def _training_rows(run: TrainedRun) -> list[tuple[str, str]]:
    settings, metrics = run.settings, run.metrics[-1] if run.metrics else {}
    batch, engine = settings.get("batch", {}), settings.get("engine", {})
    rows = [("steps", f"{run.step:,}"), ("row length", f"{batch.get('seq_len', '?')} tokens"), ("DeepSpeed overlays", ", ".join(engine.get("overlays", [])))]
    hours = run.rank_hours()
    rows += [("ranks", str(run.manifest["world_size"])), ("rank-hours (steps only)", f"{hours:.3g}")] if hours else []
    return rows + [(key, f"{value:.4g}") for key, value in metrics.items() if isinstance(value, (int, float)) and key not in {"step", "process"}]


def _flat(figures: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in figures.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key} ")
        elif value is not None:
            rows.append((prefix + key, f"{value:.4g}" if isinstance(value, float) else str(value)))
    return rows


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows)])


def _parity_line(parity: dict[str, Any] | None) -> str:
    if parity is None:
        return "Not checked."
    return (
        f"Loaded with torch {parity['torch']} and transformers {parity['transformers']}, the largest difference from the trained model over "
        f"{len(parity['differences'])} comparisons of logits and embeddings (float32) is {parity['max_abs_diff']:.2g}; see `parity.json`."
    )
