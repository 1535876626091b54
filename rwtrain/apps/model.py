"""An exported folder, opened for the applications with this release's own classes: no code of the folder runs."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rwtrain.data.tokenizer import BOS_ID, Tokenizer
from rwtrain.errors import DataError, RWTrainError
from rwtrain.evaluate.model import EvaluatedModel, batches_by_length, open_model, pad_rows
from rwtrain.export.completeness import is_export
from rwtrain.knowledge.link_command import open_linker
from rwtrain.model.heads_refinedweb import RefinedWebForCausalLM
from rwtrain.model.linking_refinedweb import EntityLinker
from rwtrain.model.modeling_refinedweb import CACHE, unit_rms
from rwtrain.model.processing_refinedweb import LINKER_FOLDER, Span, token_spans

TOKENS_PER_BATCH = 8192
ENTITIES_AT_ONCE = 1 << 16
PROBE = "A sentence whose embedding tells models apart."
SAME_PROBE = 0.99  # cosine: devices and precisions differ by less, trained weights by more


@dataclass
class Reading:
    """A text as the model reads it.

    Attributes:
        ids: begin mark and tokens, [S] int64.
        offsets: (first character, end) of every token; (0, 0) for the begin mark.
        spans: linked mentions as (first token, end, entity), places in `ids`.
        text: what was read; shorter than what was given if it was cut.
    """

    ids: np.ndarray
    offsets: list[tuple[int, int]]
    spans: list[Span]
    text: str


def cache_of(output: Any) -> Any:
    """The key-value cache of a causal forward pass with `use_cache=True`, whatever the installed transformers calls it."""
    return output[CACHE]


@dataclass
class AppModel:
    """What every application needs of an exported folder. Use `AppModel.open`; safe to share between threads.

    Attributes:
        folder: the exported folder.
        evaluated: its model, in float32 and evaluation mode, and its sentencepiece tokenizer.
    """

    folder: Path
    evaluated: EvaluatedModel

    @classmethod
    def open(cls, folder: str | Path, *, device: str | None = None) -> AppModel:
        """Open a folder written by `rwtrain export`.

        Raises:
            DataError: it is no such folder, or it is damaged.
        """
        folder = Path(folder)
        if not is_export(folder):
            raise DataError(folder, "no exported model here", "Write one with `rwtrain export RUN --out FOLDER`")
        return cls(folder, open_model(folder, device=device))

    @property
    def model(self) -> RefinedWebForCausalLM:
        return self.evaluated.model

    @property
    def tokenizer(self) -> Tokenizer:
        return self.evaluated.tokenizer

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens: the row length of training."""
        return self.evaluated.max_tokens

    @property
    def device(self) -> torch.device:
        return self.evaluated.device

    @cached_property
    def linker(self) -> EntityLinker | None:
        """The folder's entity linker; None where it has none or the model reads no entities. Raises `RWTrainError` if it is damaged."""
        if not self.model.config.entity_dim or not (self.folder / LINKER_FOLDER).is_dir():
            return None
        return open_linker(self.folder / LINKER_FOLDER)

    @cached_property
    def probe(self) -> list[float]:
        """The embedding of a fixed sentence, kept with what the model has embedded."""
        return [round(float(value), 6) for value in self.embed_texts([PROBE])[0]]

    def check_probe(self, folder: Path, kept: Any, *, remedy: str) -> None:
        """Raise `DataError` if `kept`, the `probe` in `folder`'s manifest, is not this model's: its embeddings would lie in another space."""
        is_probe = isinstance(kept, list) and len(kept) == len(self.probe) and all(isinstance(value, float | int) for value in kept)
        if not is_probe or not float(np.dot(kept, self.probe)) >= SAME_PROBE:
            raise DataError(folder, f"made with another model than {self.folder}, or by another release", remedy)

    @cached_property
    def words(self) -> frozenset[str]:
        """Lower-case words that are one piece of the tokenizer."""
        pieces = (self.tokenizer.processor.id_to_piece(number) for number in range(self.tokenizer.vocab_size))
        return frozenset(piece[1:] for piece in pieces if piece.startswith("\u2581") and piece[1:].isalpha() and piece[1:].islower())

    @cached_property
    def _processing(self) -> dict[str, Any]:
        """Settings of the folder's processor: how its training data was linked."""
        return json.loads((self.folder / "processor_config.json").read_text(encoding="utf-8"))

    @property
    def left_context(self) -> bool:
        """Whether a mention is linked from the text up to its own end only."""
        return bool(self._processing.get("link_left_context", True))

    @cached_property
    def attending_model(self) -> RefinedWebForCausalLM:
        """The same weights with attention in plain operations, which can return its weights; a model of its own, as other threads use `model`."""
        shared = {id(tensor): tensor for tensor in (*self.model.parameters(), *self.model.buffers())}
        twin = copy.deepcopy(self.model, shared)
        twin.set_attn_implementation("eager")
        return twin

    @cached_property
    def entity_keys(self) -> torch.Tensor:
        """Projected, L2-normalised vectors of all entities, [entities, C] float32: what entity alignment compares states with."""
        linker, parts = self.need_linker(), []
        for start in range(0, linker.entities, ENTITIES_AT_ONCE):
            vectors = torch.from_numpy(linker.vectors(np.arange(start, min(linker.entities, start + ENTITIES_AT_ONCE)))).to(self.device)
            with torch.inference_mode():
                parts.append(torch.nn.functional.normalize(self.model.entity_key(unit_rms(vectors).to(self.model.dtype)).float(), dim=-1))
        return torch.cat(parts)

    def need_linker(self) -> EntityLinker:
        """The linker; raises `RWTrainError` where there is none."""
        if self.linker is None:
            raise RWTrainError(f"{self.folder}: this needs an entity linker. Export the model with `rwtrain export … --linker FOLDER`.")
        return self.linker

    def read(self, text: str, *, link: bool = True, keep: str = "start", max_tokens: int | None = None) -> Reading:
        """Tokenise and link a text.

        Args:
            text: any text.
            link: find its entities, if the folder has a linker, as in training.
            keep: which part of a text of more than `max_tokens` stays, "start" or "end".
            max_tokens: default: the row length of training.
        """
        limit = (max_tokens or self.max_tokens) - 1
        text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates become question marks
        ids = self.tokenizer.encode(text)
        if len(ids) > limit:
            text = self._cut(text, ids, slice(0, limit) if keep == "start" else slice(len(ids) - limit, len(ids)))
            ids = self.tokenizer.encode(text)[:limit]
        text_bytes = text.encode("utf-8")
        ends = self.tokenizer.byte_ends(ids)
        characters = np.zeros(len(text_bytes) + 1, np.int64)  # number of characters that begin before each byte
        lead = (np.frombuffer(text_bytes, np.uint8) & 0xC0) != 0x80
        characters[1:] = np.cumsum(lead)
        stops = characters[np.minimum(ends, len(text_bytes))]
        starts = np.concatenate(([0], stops[:-1])) if len(stops) else stops
        offsets = [(0, 0), *zip(starts.tolist(), stops.tolist(), strict=True)]
        spans: list[Span] = []
        if link and self.linker is not None:
            least = self._processing.get("link_min_score", 0.0)
            mentions = self.linker.link(text, left_context=self.left_context)
            spans = token_spans([(mention.start, mention.end, mention.entity) for mention in mentions if mention.score >= least], offsets)
        return Reading(np.concatenate(([BOS_ID], ids)).astype(np.int64), offsets, spans, text)

    def _cut(self, text: str, ids: np.ndarray, part: slice) -> str:
        """The text of some of its tokens, without broken characters at the cut."""
        ends = np.concatenate(([0], self.tokenizer.byte_ends(ids)))
        return text.encode("utf-8")[ends[part.start] : ends[part.stop]].decode("utf-8", "ignore")

    def entity_inputs(self, places: Sequence[Sequence[tuple[int, int]]]) -> dict[str, torch.Tensor]:
        """Tensors of entities for rows of (token, entity) pairs; {} where no row has any or the model reads none."""
        width = max(map(len, places), default=0)
        if not width or self.linker is None:
            return {}
        positions = np.full((len(places), width), -1, np.int64)
        embeds = np.zeros((len(places), width, self.model.config.entity_dim), np.float32)
        for row, pairs in enumerate(places):
            if pairs:
                positions[row, : len(pairs)] = [token for token, _ in pairs]
                embeds[row, : len(pairs)] = self.linker.vectors([entity for _, entity in pairs])
        return {"entity_embeds": torch.from_numpy(embeds).to(self.device), "entity_positions": torch.from_numpy(positions).to(self.device)}

    def causal_places(self, reading: Reading) -> list[tuple[int, int]]:
        """Where entities enter in causal reading: at the last token of every mention."""
        return [(stop - 1, entity) for _, stop, entity in reading.spans]

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], *, link: bool = False, progress: str | None = None) -> np.ndarray:
        """L2-normalised embeddings [texts, C]; with `link`, entities enter at all tokens of their mentions."""
        readings = [self.read(text, link=link) for text in texts]
        result = np.zeros((len(texts), self.model.config.embedding_dim), np.float32)
        for chosen in batches_by_length([len(reading.ids) for reading in readings], TOKENS_PER_BATCH, progress=progress):
            rows = [readings[index] for index in chosen]
            ids, mask = pad_rows([row.ids for row in rows])
            entities = self.entity_inputs([[(place, entity) for first, stop, entity in row.spans for place in range(first, stop)] for row in rows])
            found = self.model.get_text_features(ids.to(self.device), mask.to(self.device), **entities)
            result[chosen] = found.float().cpu().numpy()
        return result

    @torch.inference_mode()
    def token_log_probabilities(self, rows: Sequence[np.ndarray], *, progress: str | None = None) -> list[np.ndarray]:
        """ln p of every token given those before it, causally; [S − 1] float32 for a row of S tokens."""
        result: list[np.ndarray] = [np.zeros(0, np.float32)] * len(rows)
        for chosen in batches_by_length([len(row) for row in rows], TOKENS_PER_BATCH // 2, progress=progress):
            ids, mask = pad_rows([rows[index] for index in chosen])
            ids = ids.to(self.device)
            logits = self.model(input_ids=ids, attention_mask=mask.to(self.device)).logits[:, :-1].float()
            found = (logits.gather(2, ids[:, 1:, None]).squeeze(2) - logits.logsumexp(2)).cpu().numpy()
            for place, index in enumerate(chosen):
                result[index] = found[place, : len(rows[index]) - 1]
        return result
