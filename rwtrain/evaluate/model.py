"""Open a trained model, wherever it lies, and embed with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from tqdm import tqdm

from rwtrain.data.images import preprocess_image
from rwtrain.data.shards import ShardDataset
from rwtrain.data.tokenizer import BOS_ID, PAD_ID, Tokenizer
from rwtrain.errors import ConfigError, DataError
from rwtrain.export.completeness import is_export
from rwtrain.export.run import TrainedRun
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.model.heads_refinedweb import RefinedWebForCausalLM

TOKENS_PER_BATCH = 8192
IMAGES_PER_BATCH = 64


@dataclass
class EvaluatedModel:
    """A model ready for evaluation. Use `open_model`.

    Attributes:
        path: where it came from.
        model: in float32 and evaluation mode.
        tokenizer: the sentencepiece tokenizer it was trained with.
        max_tokens: longest text in tokens, the row length of training.
        run: the run folder, None for an exported folder.
    """

    path: Path
    model: RefinedWebForCausalLM
    tokenizer: Tokenizer
    max_tokens: int
    run: TrainedRun | None = None

    @property
    def config(self) -> RefinedWebConfig:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.device

    def check_dataset(self, dataset: ShardDataset) -> None:
        """Raise `DataError` if the shards are empty or were made by another tokenizer."""
        found = dataset.manifest["tokenizer_hash"]
        if found != self.tokenizer.hash:
            raise DataError(
                dataset.folder, f"made by tokenizer {found}, the model {self.path} has {self.tokenizer.hash}", "Prepare the data with the model's tokenizer"
            )
        if len(dataset) == 0:
            raise DataError(dataset.folder, "the dataset is empty", "Give a dataset with at least one document")

    def embed_texts(self, texts: Sequence[str], *, progress: str | None = None) -> np.ndarray:
        """L2-normalised embeddings [texts, C]; texts longer than `max_tokens` are cut."""
        return self.embed_tokens([np.concatenate(([BOS_ID], ids)) for ids in self.tokenizer.encode_batch(list(texts))], progress=progress)

    @torch.inference_mode()
    def embed_tokens(self, rows: Sequence[np.ndarray], *, progress: str | None = None) -> np.ndarray:
        """L2-normalised embeddings [rows, C] of token ids that begin with the begin mark and have no end mark."""
        rows = [row[: self.max_tokens] for row in rows]
        result = np.zeros((len(rows), self.config.embedding_dim), np.float32)
        for places in batches_by_length([len(row) for row in rows], TOKENS_PER_BATCH, progress=progress):
            input_ids, attention_mask = pad_rows([rows[place] for place in places])
            found = self.model.get_text_features(input_ids.to(self.device), attention_mask.to(self.device))
            result[places] = found.float().cpu().numpy()
        return result

    @torch.inference_mode()
    def embed_images(self, images: Sequence[bytes], *, progress: str | None = None) -> np.ndarray:
        """L2-normalised embeddings [images, C] of encoded image files.

        Raises:
            ConfigError: the model has no image encoder.
            RWTrainError: an image cannot be decoded.
        """
        size = self.image_size
        result = np.zeros((len(images), self.config.embedding_dim), np.float32)
        for start in tqdm(range(0, len(images), IMAGES_PER_BATCH), desc=progress, disable=progress is None, leave=False):
            part = images[start : start + IMAGES_PER_BATCH]
            pixels = torch.from_numpy(np.stack([preprocess_image(image, size) for image in part]))
            result[start : start + len(part)] = self.model.get_image_features(pixels.to(self.device)).float().cpu().numpy()
        return result

    @property
    def image_size(self) -> int:
        """Width and height of the image encoder's input in pixels; raises `ConfigError` without one."""
        vision: Any = self.config.vision_config
        if vision is None:
            raise ConfigError(f"{self.path}: this model was trained without images. Give a model with a vision backbone.")
        return int(vision.image_size)


def batches_by_length(lengths: Sequence[int], tokens: int, *, progress: str | None = None) -> Iterator[np.ndarray]:
    """Indices in batches of similar length, each of at most `tokens` padded tokens (or of one row)."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    with tqdm(total=len(order), desc=progress, disable=progress is None, leave=False) as bar:
        start = 0
        while start < len(order):
            places = order[start : start + max(1, tokens // max(1, lengths[order[start]]))]
            yield places
            start += len(places)
            bar.update(len(places))


def pad_rows(rows: Sequence[np.ndarray], *, fill: int = PAD_ID) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows padded on the right and their mask, both [rows, longest] int64."""
    shape = (len(rows), max(map(len, rows)))
    padded, mask = np.full(shape, fill, np.int64), np.zeros(shape, np.int64)
    for row, values in enumerate(rows):
        padded[row, : len(values)] = values
        mask[row, : len(values)] = 1
    return torch.from_numpy(padded), torch.from_numpy(mask)


def open_model(path: str | Path, *, device: str | None = None) -> EvaluatedModel:
    """Open a run folder (its latest checkpoint), one checkpoint of a run, or an exported folder.

    Args:
        device: a torch device; default: the first GPU if there is one, else the CPU.

    Raises:
        DataError: there is no such model, or it is damaged.
    """
    path = Path(path)
    if is_export(path):
        model, tokenizer, run = _load_export(path), Tokenizer(path / "tokenizer.model"), None
        max_tokens = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))["model_max_length"]
    else:
        run = TrainedRun.open(path)
        model, tokenizer, max_tokens = RefinedWebForCausalLM(run.config), Tokenizer(run.tokenizer), run.seq_len
        model.load_state_dict(run.state())
    return EvaluatedModel(path, model.float().eval().to(device or default_device()), tokenizer, max_tokens, run)


def untrained(model: EvaluatedModel, *, seed: int = 0) -> EvaluatedModel:
    """A model of the same shape with random weights: what training is compared with. The global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = RefinedWebForCausalLM(model.config)
    return replace(model, model=fresh.eval().to(model.device))


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _load_export(path: Path) -> RefinedWebForCausalLM:
    """Load with this release's own classes, so that no code of the folder runs."""
    try:
        loaded: Any = RefinedWebForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(path, f"the exported model does not load ({error})", "Export it again with `rwtrain export`") from error
    model, info = loaded
    wrong = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys}
    if wrong:
        raise DataError(path, f"the weights do not fit the model ({wrong})", "Export it again with `rwtrain export`")
    return model
