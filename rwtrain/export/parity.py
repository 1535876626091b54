"""The parity gate: an exported folder, loaded elsewhere, must give the numbers that the training classes give."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel

from data_prep.linking import token_spans
from rwtrain.data.images import preprocess_image
from rwtrain.data.tokenizer import BOS_ID, IMAGE_ID, Tokenizer
from rwtrain.errors import RWTrainError
from rwtrain.export.tokenizer import PROBE_TEXTS
from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining

TOLERANCE = 1e-3
MAX_TOKENS = 48
NEW_TOKENS = 16
TIMEOUT_S = 1800
NAMES_TRIED = 1000
TEXTS = ("Anarchism is a political philosophy that", "A photo of a shoe.", *PROBE_TEXTS)
LINKED_TEXT = "{} and {} were mentioned together, {} said."


@dataclass
class Segment:
    """One text or image-text as training reads it: tokens, how many of the first form a bidirectional block, what is pooled, entities."""

    tokens: np.ndarray
    block: int = 0
    pooled: int = 0
    mentions: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)  # places in the segment, their vectors


class TrainerReference:
    """Reads packed rows with the training class, as a training step does.

    Args:
        model: the trained model, in float32.
        tokenizer: the sentencepiece tokenizer of the run.
        linker: the entity linker of the export, or None.
        linking: `left_context` and `min_score` that the training data was linked with.
    """

    def __init__(self, model: RefinedWebForPreTraining, tokenizer: Tokenizer, *, linker: Any, linking: dict[str, Any]) -> None:
        self.model, self.tokenizer, self.linker, self.linking = model.eval(), tokenizer, linker, linking
        self.prefix = model.config.image_seq_length if model.config.vision_config is not None else 0
        self.max_tokens = max(2, min(MAX_TOKENS, model.config.max_position_embeddings - self.prefix))

    def segment(self, text: str, *, embed: bool = False, link: bool = False, image: bool = False) -> Segment:
        """A text with its begin mark; `embed` for one block, `image` for an image before it."""
        ids = self.tokenizer.encode(text)
        tokens = np.concatenate(([BOS_ID], ids))[: self.max_tokens]
        segment = Segment(tokens, block=len(tokens) if embed else 0, pooled=len(tokens) if embed else 0)
        if image:
            segment = Segment(np.concatenate((np.full(self.prefix, IMAGE_ID), tokens)), block=self.prefix, pooled=self.prefix)
        if link:
            found = [
                item for item in self.linker.link(text, left_context=self.linking.get("left_context", True)) if item.score >= self.linking.get("min_score", 0.0)
            ]
            for start, end, entity in zip(*token_spans(text, found, self.tokenizer.byte_ends(ids)), strict=True):
                places = np.arange(start, end) + 1 if embed else np.array([end])
                if end < self.max_tokens:
                    segment.mentions.append((places, np.repeat(self.linker.vectors([entity]), len(places), axis=0)))
        return segment

    @torch.no_grad()
    def read(self, segments: list[Segment], pixels: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Logits of all tokens [tokens, V] and embeddings of the pooled segments [N, C], from one packed row."""
        lengths = [len(segment.tokens) for segment in segments]
        starts = np.cumsum([0, *lengths])
        blocks, pools = np.full(starts[-1], -1), np.full(starts[-1], -1)
        for number, (segment, start) in enumerate(zip(segments, starts, strict=False)):
            blocks[start : start + segment.block] = number if segment.block else -1
            pools[start : start + segment.pooled] = number
        row = {
            "input_ids": np.concatenate([segment.tokens for segment in segments]),
            "position_ids": np.concatenate([np.arange(length) for length in lengths]),
            "block_sequence_ids": blocks,
        }
        inputs = {name: torch.from_numpy(values.astype(np.int64))[None] for name, values in row.items()}
        inputs |= self._mentions(segments, starts)
        if pixels is not None:
            inputs["pixel_values"] = torch.from_numpy(pixels)
        labels = torch.full_like(inputs["input_ids"], -100)
        pooled = self.model(
            **inputs, labels=labels, label_weights=torch.zeros(labels.shape), pool_ids=torch.from_numpy(pools.astype(np.int64))[None], pool_slots=len(segments)
        ).embeddings
        logits = self.model.lm_head(self.model.model(**inputs).last_hidden_state)[0]
        return logits.numpy(), pooled.numpy()

    def _mentions(self, segments: list[Segment], starts: np.ndarray) -> dict[str, torch.Tensor]:
        found = [(places + start, vectors) for segment, start in zip(segments, starts, strict=False) for places, vectors in segment.mentions]
        if not found:
            return {}
        return {
            "entity_positions": torch.from_numpy(np.concatenate([places for places, _ in found]).astype(np.int64))[None],
            "entity_embeds": torch.from_numpy(np.concatenate([vectors for _, vectors in found]).astype(np.float32))[None],
        }


@dataclass
class TaskReference:
    """The outputs of a fine-tuned head, each text read alone.

    Attributes:
        auto_class: the name under which transformers loads the exported head.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    auto_class: str

    @torch.no_grad()
    def outputs(self, texts: list[str]) -> np.ndarray:
        """All logits of all texts, end to end."""
        self.model.eval()
        found = []
        for text in texts:
            ids = torch.from_numpy(np.concatenate(([BOS_ID], self.tokenizer.encode(text)))[:MAX_TOKENS].astype(np.int64))[None]
            found += [output.flatten() for output in self.model(input_ids=ids).to_tuple()]
        return torch.cat(found).numpy()


def write_request(request: Path, folder: Path, reference: TrainerReference | TaskReference, *, isolated: bool) -> None:
    """Write the inputs and the reference outputs of the comparison into the folder `request`."""
    if isinstance(reference, TaskReference):
        texts = list(TEXTS)
        np.savez(request / "reference.npz", allow_pickle=False, task_logits=reference.outputs(texts))
        settings: dict[str, Any] = {
            "folder": str(folder.resolve()),
            "isolated": isolated,
            "auto_class": reference.auto_class,
            "texts": texts,
            "token_ids": [reference.tokenizer.encode(text).tolist() for text in texts],
            "max_tokens": MAX_TOKENS,
        }
        (request / "request.json").write_text(json.dumps(settings), encoding="utf-8")
        return
    config = reference.model.config
    texts, arrays = list(TEXTS), {}
    arrays["text_logits"] = reference.read([reference.segment(text) for text in texts])[0]
    arrays["text_embeddings"] = reference.read([reference.segment(text, embed=True) for text in texts])[1]
    linked: list[str] = []
    positions = [1, 2]
    if config.entity_dim:
        arrays["entity_vectors"] = np.random.default_rng(0).standard_normal((len(positions), config.entity_dim), np.float32)
        segment = reference.segment(texts[0])
        segment.mentions.append((np.array(positions), arrays["entity_vectors"]))
        arrays["entity_logits"] = reference.read([segment])[0]
    if reference.linker is not None:
        linked = linked_texts(reference)
        segments = [reference.segment(text, link=True) for text in linked]
        arrays["linked_logits"] = reference.read(segments)[0]
        arrays["linked_embeddings"] = reference.read([reference.segment(text, link=True, embed=True) for text in linked])[1]
    images: list[str] = []
    if reference.prefix:
        images = _write_images(request, 2)
        pixels = np.stack([preprocess_image((request / name).read_bytes(), config.vision_config.image_size) for name in images])
        segments = [reference.segment(text, image=True) for text in texts[: len(images)]]
        arrays["image_logits"], arrays["image_embeddings"] = reference.read(segments, pixels)
    np.savez(request / "reference.npz", allow_pickle=False, **arrays)
    settings = {
        "folder": str(folder.resolve()),
        "isolated": isolated,
        "auto_class": None,
        "texts": texts,
        "token_ids": [reference.tokenizer.encode(text).tolist() for text in texts],
        "linked_texts": linked,
        "images": images,
        "entity_positions": positions,
        "max_tokens": reference.max_tokens,
        "new_tokens": NEW_TOKENS,
    }
    (request / "request.json").write_text(json.dumps(settings), encoding="utf-8")


def linked_texts(reference: TrainerReference) -> list[str]:
    """Two texts whose names the linker links.

    Raises:
        RWTrainError: the linker links none of its own first names.
    """
    names: list[str] = []
    for row in range(min(reference.linker.entities, NAMES_TRIED)):
        name = reference.linker.label(row)
        if len(names) < 6 and reference.segment(name, link=True).mentions:
            names.append(name)
    if not names:
        raise RWTrainError(f"The entity linker links none of the names of its first {NAMES_TRIED} entities. Build it again with `rwtrain kg linker`.")
    names = (names * 6)[:6]
    return [LINKED_TEXT.format(*names[:3]), LINKED_TEXT.format(*names[3:])]


def _write_images(request: Path, count: int) -> list[str]:
    generator = np.random.default_rng(0)
    names = [f"image-{number}.png" for number in range(count)]
    for number, name in enumerate(names):
        buffer = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (40 + 20 * number, 52, 3), dtype=np.uint8)).save(buffer, "PNG")
        (request / name).write_bytes(buffer.getvalue())
    return names


def run_parity(folder: Path, reference: TrainerReference | TaskReference, *, python: Path | None = None) -> dict[str, Any]:
    """Load `folder` in a clean process and compare; return the report.

    Args:
        python: interpreter of another environment, in which `rwtrain` must not be importable; None for this one with `rwtrain` blocked.

    Raises:
        RWTrainError: a number differs by `TOLERANCE` or more, a weight is missing, loading warns, or the process fails.
    """
    with tempfile.TemporaryDirectory(prefix="rwtrain-parity-") as name:
        request = Path(name)
        write_request(request, folder, reference, isolated=python is not None)
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_", "TRANSFORMERS_"))}
        environment |= {"HF_HOME": str(request / "cache"), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [str(Path(python).absolute() if python else sys.executable), "-I", str(Path(__file__).with_name("parity_probe.py")), str(request)]
        try:
            finished = subprocess.run(command, env=environment, cwd=request, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RWTrainError(f"The parity check could not run {command[0]} ({error}). Give a working interpreter with --parity-python.") from error
        if finished.returncode:
            tail = "\n".join(finished.stderr.strip().splitlines()[-15:])
            raise RWTrainError(f"The exported folder does not load in {command[0]}; the export was not kept. The process said:\n{tail}")
        report = json.loads((request / "report.json").read_text(encoding="utf-8"))
    return judge(report, isolated=python is not None, interpreter=command[0])


def judge(report: dict[str, Any], *, isolated: bool, interpreter: str) -> dict[str, Any]:
    """Add the verdict to a probe's report; raise `RWTrainError` if it is not a pass."""
    if isolated and "rwtrain" in report["importable"]:
        raise RWTrainError(
            f"{interpreter} can import rwtrain, so it proves nothing. Give an interpreter without it with --parity-python (`rwtrain export --help`)."
        )
    worst = max(report["differences"], key=report["differences"].__getitem__)
    problems = list(report["problems"])
    if not report["differences"][worst] < TOLERANCE:
        problems.append(f"{worst} differs by {report['differences'][worst]:.3g}, the limit is {TOLERANCE}")
    if problems:
        raise RWTrainError(f"The exported folder does not match the trained model; the export was not kept: {'; '.join(problems)}.")
    return {"max_abs_diff": report["differences"][worst], "tolerance": TOLERANCE, "isolated": isolated, **report}
