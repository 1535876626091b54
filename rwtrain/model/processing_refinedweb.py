"""Text, images and entity mentions into the tensors that RefinedWeb models read, exactly as in training.

Copied as-is into exported folders: imports numpy, torch, transformers and its sibling files only.
Dimensions in names: B rows, S tokens of a row, M mention slots of a row, E entity vector width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import snapshot_download
from transformers import BatchFeature, ProcessorMixin

from .linking_refinedweb import EntityLinker

LINKER_FOLDER = "linker"
MODES = ("causal", "embed")
Span = tuple[int, int, int]


class RefinedWebProcessor(ProcessorMixin):
    """One call for text, images and entities.

    Args:
        image_processor, tokenizer: the standard parts.
        image_seq_length: trunk tokens of one image; 0 for a model without images.
        entity_dim: width of the entity vectors; 0 for a model without knowledge.
        link_left_context: let the linker see only what stands left of a mention, as when the training data was linked.
        link_min_score: mentions with a lower score are left out.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_seq_length: int = 0,
        entity_dim: int = 0,
        link_left_context: bool = True,
        link_min_score: float = 0.0,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.image_seq_length = image_seq_length
        self.entity_dim = entity_dim
        self.link_left_context = link_left_context
        self.link_min_score = link_min_score
        self._linker: EntityLinker | None = None
        self._origin: tuple[str, dict[str, Any]] | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> RefinedWebProcessor:
        """Load from a folder or the hub; the entity linker is opened when it is first used."""
        processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        wanted = ("cache_dir", "force_download", "local_files_only", "token", "revision")
        processor._origin = (str(pretrained_model_name_or_path), {name: kwargs[name] for name in wanted if kwargs.get(name) is not None})
        return processor

    def to_dict(self) -> dict[str, Any]:
        linker, self._linker = self._linker, None  # memory-mapped, not a setting
        try:
            return super().to_dict()
        finally:
            self._linker = linker

    @property
    def linker(self) -> EntityLinker:
        """The entity linker that came with the model; raises `ValueError` if there is none."""
        if self._linker is None:
            name, options = self._origin or ("", {})
            folder = Path(name) / LINKER_FOLDER
            if name and not Path(name).is_dir():
                folder = Path(snapshot_download(name, allow_patterns=f"{LINKER_FOLDER}/*", **options)) / LINKER_FOLDER
            if not name or not folder.is_dir():
                raise ValueError(f"No entity linker in {folder}: use a model exported with --linker, or set processor.linker.")
            self._linker = EntityLinker.open(folder)
        return self._linker

    @linker.setter
    def linker(self, linker: EntityLinker) -> None:
        self._linker = linker

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values", "entity_embeds", "entity_positions"]

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        *,
        mode: str = "causal",
        link: bool = False,
        entities: Sequence[Sequence[Span]] | None = None,
        padding: bool | str = True,
        padding_side: str | None = None,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Inputs of `generate` and `forward` (mode "causal") or of `get_text_features` and `get_image_features` (mode "embed").

        Args:
            images: one image or a list (PIL, array or tensor). In causal mode every text, if any is given, continues the image of
                the same index: the row is the image's tokens, the begin mark, the text. In embed mode images and texts are independent.
            text: one text or a list.
            mode: "causal" puts an entity's vector at the last token of its mention, "embed" at all of them.
            link: find the entities of every text with the linker.
            entities: instead of `link`, the mentions of every text as (first character, end, row of the entity).
            padding, padding_side, truncation, max_length: as for the tokenizer; `max_length` counts the text's tokens.
            return_tensors: "pt" or "np".

        Returns:
            input_ids, attention_mask [B, S]; pixel_values [images, 3, size, size]; with `link` or `entities` also
            entity_embeds [B, M, E] float32 and entity_positions [B, M] (−1: empty slot).

        Raises:
            ValueError: the inputs do not fit each other or this model.
        """
        if mode not in MODES:
            raise ValueError(f"mode={mode!r}: choose one of {MODES}.")
        pixels = self._pixels(images, return_tensors)
        if text is None and (pixels is None or mode == "embed"):
            if pixels is None:
                raise ValueError("Give text, images or both.")
            return BatchFeature({"pixel_values": pixels})
        texts = [text] if isinstance(text, str) else [""] * len(pixels) if text is None else list(text)
        prefix = self._image_prefix(pixels, texts) if mode == "causal" else []
        limit = (max_length or self.tokenizer.model_max_length) if truncation else None
        encoded = [self.tokenizer(item, return_offsets_mapping=True, truncation=truncation, max_length=limit) for item in texts]
        rows = [prefix + item["input_ids"] for item in encoded]
        batch = self.tokenizer.pad(
            {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]},
            padding=padding,
            padding_side=padding_side,
            return_tensors=return_tensors,
            max_length=len(prefix) + max_length if max_length and padding == "max_length" else None,
        )
        data = dict(batch)
        if pixels is not None:
            data["pixel_values"] = pixels
        if link or entities is not None:
            left = [int(np.argmax(np.asarray(mask))) for mask in batch["attention_mask"]]
            shifts = [shift + len(prefix) for shift in left]
            spans = [self.find_entities(item) for item in texts] if entities is None else [list(row) for row in entities]
            data.update(self._entity_inputs(spans, [item["offset_mapping"] for item in encoded], shifts, mode))
        return BatchFeature(data, tensor_type=return_tensors)

    def find_entities(self, text: str) -> list[Span]:
        """The linked mentions of a text as (first character, end, row of the entity)."""
        mentions = self.linker.link(text, left_context=self.link_left_context)
        return [(mention.start, mention.end, mention.entity) for mention in mentions if mention.score >= self.link_min_score]

    def _pixels(self, images: Any, return_tensors: str | None) -> Any:
        if images is None:
            return None
        if not self.image_seq_length:
            raise ValueError("This model was trained without images.")
        return self.image_processor(images, return_tensors=return_tensors or "np")["pixel_values"]

    def _image_prefix(self, pixels: Any, texts: list[str]) -> list[int]:
        if pixels is None:
            return []
        if len(pixels) != len(texts):
            raise ValueError(f"{len(pixels)} images for {len(texts)} texts: in causal mode every text continues one image.")
        return [self.tokenizer.image_token_id] * self.image_seq_length

    def _entity_inputs(self, spans: list[list[Span]], offsets: list[list[tuple[int, int]]], shifts: list[int], mode: str) -> dict[str, np.ndarray]:
        if not self.entity_dim:
            raise ValueError("This model was trained without entities.")
        if len(spans) != len(offsets):
            raise ValueError(f"entities holds {len(spans)} rows for {len(offsets)} texts.")
        slots = [
            [(place + shift, entity) for first, stop, entity in token_spans(row, offset) for place in (range(first, stop) if mode == "embed" else [stop - 1])]
            for row, offset, shift in zip(spans, offsets, shifts, strict=True)
        ]
        width = max(1, *map(len, slots))
        positions_BM = np.full((len(slots), width), -1, np.int64)
        embeds_BME = np.zeros((len(slots), width, self.entity_dim), np.float32)
        for row, found in enumerate(slots):
            if found:
                positions_BM[row, : len(found)] = [place for place, _ in found]
                embeds_BME[row, : len(found)] = self.linker.vectors([entity for _, entity in found])
        return {"entity_embeds": embeds_BME, "entity_positions": positions_BM}


def token_spans(spans: Sequence[Span], offsets: Sequence[tuple[int, int]]) -> list[Span]:
    """Mentions in characters → (first token, end, entity) in tokens, ascending; the later of two that share a token is left out.

    Args:
        spans: (first character, end, row of the entity).
        offsets: (first character, end) of every token; marks that stand for no text have (0, 0).
    """
    begins, ends = np.array(offsets, np.int64).reshape(-1, 2).T
    found: list[Span] = []
    for start, end, entity in sorted(spans):
        first = int(np.searchsorted(ends, start, side="right"))
        stop = int(np.searchsorted(begins, end, side="left"))
        if stop <= first or ends[stop - 1] < end or (found and first < found[-1][1]):
            continue
        found.append((first, stop, int(entity)))
    return found


__all__ = ["RefinedWebProcessor"]
