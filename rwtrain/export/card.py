"""The model card: what the model is, what it was trained on, how good it is, where it fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rwtrain.data.shards import ShardDataset
from rwtrain.export.run import TrainedRun
from rwtrain.files import write_text

USAGE = """```python
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor

folder = "{name}"
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

inputs = processor(text="The capital of", {link}return_tensors="pt")
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
LIMITS = """The model repeats what its training text says, with its errors, prejudices and gaps, and invents facts. Text it writes must be
checked by a person before it is relied on. It was not tuned to follow instructions or to refuse harmful requests, and must not
decide about people. Its knowledge ends with its training data. Loading it runs the Python files in this folder
(`trust_remote_code=True`): read them first."""


def write_card(folder: Path, run: TrainedRun, *, parameters: int, name: str, licence: str, linker: bool, parity: dict[str, Any] | None) -> None:
    """Write `README.md`.

    Args:
        parameters: number of parameters, tied ones counted once.
        licence: identifier for the card's header, such as `apache-2.0`.
        linker: whether the entity linker is in the folder.
        parity: report of the parity check, None if it was not run.
    """
    write_text(folder / "README.md", model_card(run, parameters=parameters, name=name, licence=licence, linker=linker, parity=parity))


def model_card(run: TrainedRun, *, parameters: int, name: str, licence: str, linker: bool, parity: dict[str, Any] | None) -> str:
    """The text of the model card; arguments as for `write_card`."""
    config, images = run.config, run.config.vision_config is not None
    tags = ["refinedweb", "feature-extraction", *(["image-text-to-text"] if images else []), *(["entity-linking"] if linker else [])]
    abilities = ["writes text", "embeds text", *(["embeds and describes images"] if images else []), *(["reads linked entities"] if config.entity_dim else [])]
    header = f"---\nlicense: {licence}\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [{', '.join(tags)}]\n---"
    sections = [
        header,
        f"# {name}",
        f"A RefinedWeb model with {parameters:,} parameters: {config.num_hidden_layers} layers of width {config.hidden_size}, {config.vocab_size:,} token ids, "
        f"segments of up to {config.max_position_embeddings} tokens. It {', '.join(abilities)}.",
        "## Use",
        "Needs `torch`, `transformers` and `pillow`.",
        USAGE.format(name=name, link="link=True, " if linker else "", image=IMAGE_USAGE if images else ""),
        "## Training data",
        *[_data_line(use, data) for use, data in run.datasets.items()],
        *([] if run.datasets else ["The training shards were not at hand when the model was exported."]),
        *[f"- prepared from `{Path(item['file']).name}` (XXH3 `{item['hash']}`)" for item in run.corpus.get("inputs", [])],
        "## Training",
        _table(_training_rows(run)),
        "## Parity",
        _parity_line(parity),
        "## Limits",
        LIMITS,
        "## Licence",
        f"The weights: {licence}. The code files: Apache-2.0. The training texts keep their own licences.",
    ]
    return "\n\n".join(sections) + "\n"


def _data_line(use: str, data: ShardDataset) -> str:
    manifest = data.manifest
    counts = [f"{manifest[key]:,} {key}" for key in ("documents", "tokens", "mentions", "images") if manifest[key]]
    return f"- **{use}**: {', '.join(counts)}; tokenizer `{manifest['tokenizer_hash']}`"


def _training_rows(run: TrainedRun) -> list[tuple[str, str]]:
    settings, metrics = run.settings, run.last_metrics()
    batch, engine = settings.get("batch", {}), settings.get("engine", {})
    rows = [("steps", f"{run.step:,}"), ("row length", f"{batch.get('seq_len', '?')} tokens"), ("DeepSpeed overlays", ", ".join(engine.get("overlays", [])))]
    skipped = {"step", "time"}
    return rows + [(key, f"{value:.4g}") for key, value in metrics.items() if isinstance(value, (int, float)) and key not in skipped]


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows)])


def _parity_line(parity: dict[str, Any] | None) -> str:
    if parity is None:
        return "Not checked."
    return (
        f"Loaded with torch {parity['torch']} and transformers {parity['transformers']}, the largest difference from the trained model over "
        f"{len(parity['differences'])} comparisons of logits and embeddings (float32) is {parity['max_abs_diff']:.2g}; see `parity.json`."
    )
