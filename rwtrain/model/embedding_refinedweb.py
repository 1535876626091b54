"""RefinedWeb models in sentence-transformers (6.0 or newer): texts and images to embeddings.

Copied as-is into exported folders, where `modules.json` names it: imports torch, transformers and sentence_transformers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sentence_transformers.base.modules import InputModule
from transformers import AutoModel, AutoProcessor


class RefinedWebEmbedding(InputModule):
    """The embedding that training optimised: the whole input read in both directions, averaged, projected and normalised."""

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.max_seq_length = processor.tokenizer.model_max_length

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        token: str | bool | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        **_: Any,
    ) -> RefinedWebEmbedding:
        """Load model and processor from a folder or the hub; arguments as sentence-transformers passes them."""
        common: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": local_files_only, "cache_dir": cache_folder}
        common |= {name: value for name, value in (("token", token), ("revision", revision)) if value is not None}
        model = AutoModel.from_pretrained(model_name_or_path, **{**common, **(model_kwargs or {})})
        return cls(model, AutoProcessor.from_pretrained(model_name_or_path, **{**common, **(processor_kwargs or {})}))

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def modalities(self) -> list[Any]:
        return ["text", "image"] if self.model.config.vision_config is not None else ["text"]

    def get_embedding_dimension(self) -> int:
        """Width of the embeddings."""
        return self.model.config.embedding_dim

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Any]:
        """Tensors of a list of texts, or of a list of images."""
        if all(isinstance(item, str) for item in inputs):
            texts = [(prompt or "") + item for item in inputs]
            return dict(self.processor(text=texts, mode="embed", truncation=True, max_length=self.max_seq_length))
        return dict(self.processor(images=list(inputs), mode="embed"))

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Add `sentence_embedding` [inputs, width], of length 1."""
        if "pixel_values" in features:
            features["sentence_embedding"] = self.model.get_image_features(features["pixel_values"])
        else:
            features["sentence_embedding"] = self.model.get_text_features(features["input_ids"], features["attention_mask"])
        return features

    def save(self, output_path: str, *_: Any, safe_serialization: bool = True, **__: Any) -> None:
        """Write model, processor and their code files."""
        self.model.save_pretrained(output_path)
        self.processor.save_pretrained(output_path)


__all__ = ["RefinedWebEmbedding"]
