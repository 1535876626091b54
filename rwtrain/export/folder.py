"""Everything of a Hugging Face folder except the weights: configuration, code, tokenizer, processor, entity linker."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import rwtrain.model
from rwtrain.data.shards import ShardDataset
from rwtrain.data.tokenizer import BOS_ID, EOS_ID, IMAGE_ID, MASK_ID, PAD_ID
from rwtrain.errors import DataError
from rwtrain.export.run import TrainedRun
from rwtrain.export.tokenizer import write_fast_tokenizer
from rwtrain.files import write_json
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.model.linking_refinedweb import SETTINGS_FILE, EntityLinker

LINKER_FOLDER = "linker"
CODE_FILES = (
    "configuration_refinedweb.py",
    "modeling_refinedweb.py",
    "heads_refinedweb.py",
    "tasks_refinedweb.py",
    "linking_refinedweb.py",
    "linking_run_refinedweb.py",
    "linking_kernels_refinedweb.py",
    "linking_spots_refinedweb.py",
    "linking_features_refinedweb.py",
    "linking_words_refinedweb.py",
    "processing_refinedweb.py",
    "embedding_refinedweb.py",
)
AUTO_MAP = {
    "AutoConfig": "configuration_refinedweb.RefinedWebConfig",
    "AutoModel": "modeling_refinedweb.RefinedWebModel",
    "AutoModelForCausalLM": "heads_refinedweb.RefinedWebForCausalLM",
    "AutoModelForSequenceClassification": "tasks_refinedweb.RefinedWebForSequenceClassification",
    "AutoModelForTokenClassification": "tasks_refinedweb.RefinedWebForTokenClassification",
    "AutoModelForQuestionAnswering": "tasks_refinedweb.RefinedWebForQuestionAnswering",
    "AutoProcessor": "processing_refinedweb.RefinedWebProcessor",
}


CAUSAL = "RefinedWebForCausalLM"
TASK_CLASSES = {
    "RefinedWebForSequenceClassification": "AutoModelForSequenceClassification",
    "RefinedWebForTokenClassification": "AutoModelForTokenClassification",
    "RefinedWebForQuestionAnswering": "AutoModelForQuestionAnswering",
}


def architecture(config: RefinedWebConfig) -> str:
    """The class whose weights a run trains: `CAUSAL` (pretraining, embeddings) or a key of `TASK_CLASSES` (fine-tuning)."""
    named = (config.architectures or [CAUSAL])[0]
    return named if named in TASK_CLASSES else CAUSAL


def write_config(folder: Path, config: RefinedWebConfig, *, dtype: str) -> None:
    """`config.json` with the auto classes; for a model that generates also `generation_config.json`."""
    settings, own = config.to_dict(), architecture(config)
    settings.pop("_attn_implementation", None)
    kept = {key: value for key, value in AUTO_MAP.items() if own == CAUSAL or not key.startswith("AutoModelFor") or key == TASK_CLASSES[own]}
    settings |= {"architectures": [own], "auto_map": kept, "dtype": dtype}
    write_json(folder / "config.json", settings)
    if own != CAUSAL:
        return
    generation = {
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": PAD_ID,
        "suppress_tokens": [MASK_ID, IMAGE_ID],
        "transformers_version": settings.get("transformers_version"),
    }
    write_json(folder / "generation_config.json", generation)


def copy_code(folder: Path) -> None:
    """The model's source files, unchanged."""
    source = Path(rwtrain.model.__file__).parent
    for name in CODE_FILES:
        shutil.copyfile(source / name, folder / name)


def write_processor(folder: Path, config: RefinedWebConfig, tokenizer: Path, *, max_tokens: int, linking: dict[str, Any]) -> None:
    """Fast tokenizer, its sentencepiece model and `processor_config.json`.

    Args:
        max_tokens: longest text seen in training; the tokenizer cuts there when asked to.
        linking: how the training data was linked: `left_context` and `min_score`.
    """
    write_fast_tokenizer(tokenizer, folder, max_length=max_tokens)
    shutil.copyfile(tokenizer, folder / "tokenizer.model")
    vision: Any = config.vision_config
    size = vision.image_size if vision is not None else 224
    image_processor = {
        "image_processor_type": "SiglipImageProcessorPil",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    settings = {
        "processor_class": "RefinedWebProcessor",
        "auto_map": {"AutoProcessor": AUTO_MAP["AutoProcessor"]},
        "image_processor": image_processor,
        "image_seq_length": config.image_seq_length,
        "entity_dim": config.entity_dim,
        "link_left_context": linking["left_context"],
        "link_min_score": linking["min_score"],
    }
    write_json(folder / "processor_config.json", settings)


def write_sentence_transformers(folder: Path) -> None:
    """The files with which sentence-transformers loads the folder."""
    write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": "embedding_refinedweb.RefinedWebEmbedding"}])
    write_json(folder / "config_sentence_transformers.json", {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine", "prompts": {}})


def copy_linker(source: Path, folder: Path, config: RefinedWebConfig, data: ShardDataset | None) -> None:
    """The entity linker, after checking that it belongs to the entities the model was trained with.

    Raises:
        DataError: it is no linker folder, its vectors have another width, or the data was linked with other entities.
    """
    try:
        linker = EntityLinker.open(source)
        width = int(linker.vectors([0]).shape[1])
    except (OSError, ValueError, KeyError, IndexError, json.JSONDecodeError) as error:
        raise DataError(source, f"not an entity linker with vectors ({error})", "Build it with `rwtrain kg`, or leave --linker out") from error
    if width != config.entity_dim:
        raise DataError(
            source, f"its vectors have {width} dimensions, the model reads {config.entity_dim}", "Give the linker of the entity store used in training"
        )
    expected = data.manifest.get("entity_store_hash") if data is not None else None
    if expected is not None and linker.store_hash != expected:
        raise DataError(
            source, f"it knows the entity store {linker.store_hash}, the training data was linked with {expected}", "Give the linker that prepared the data"
        )
    shutil.copytree(source, folder / LINKER_FOLDER, symlinks=False)


def ship_knowledge(folder: Path, run: TrainedRun) -> None:
    """The linker that the training data was linked with if it is still there, else one built from the run's entity store.

    Raises:
        DataError: the run was trained without knowledge, or neither is there.
    """
    store = (run.settings.get("data") or {}).get("entity_store")
    if not run.config.entity_dim or not store:
        raise DataError(run.folder, "trained without an entity store", "Leave --with-knowledge out")
    data = run.datasets.get("text")
    linked_with = (run.corpus.get("plan", {}).get("link") or {}).get("store")
    if linked_with and (Path(linked_with) / SETTINGS_FILE).is_file():
        copy_linker(Path(linked_with), folder, run.config, data)
        return
    from rwtrain.knowledge.linker import build_linker
    from rwtrain.knowledge.store import EntityStore

    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        build_linker(EntityStore.open(store), Path(name) / LINKER_FOLDER)
        copy_linker(Path(name) / LINKER_FOLDER, folder, run.config, data)
