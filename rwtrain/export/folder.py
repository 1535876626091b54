"""Everything of a Hugging Face folder except the weights: configuration, code, tokenizer, processor, entity linker."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import rwtrain.model
from rwtrain.data.shards import ShardDataset
from rwtrain.data.tokenizer import BOS_ID, EOS_ID, IMAGE_ID, MASK_ID, PAD_ID
from rwtrain.errors import DataError
from rwtrain.export.tokenizer import write_fast_tokenizer
from rwtrain.files import write_json
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.model.linking_refinedweb import EntityLinker

LINKER_FOLDER = "linker"
CODE_FILES = (
    "configuration_refinedweb.py",
    "modeling_refinedweb.py",
    "heads_refinedweb.py",
    "tasks_refinedweb.py",
    "linking_refinedweb.py",
    "linking_kernels_refinedweb.py",
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


def write_config(folder: Path, config: RefinedWebConfig, *, dtype: str) -> None:
    """`config.json` with the auto classes, and `generation_config.json`."""
    settings = config.to_dict()
    settings.pop("_attn_implementation", None)
    settings |= {"architectures": ["RefinedWebForCausalLM"], "auto_map": AUTO_MAP, "dtype": dtype}
    write_json(folder / "config.json", settings)
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
