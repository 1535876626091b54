"""The text encoder as ONNX: token ids and mask to L2-normalised embeddings, for programs without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from rwtrain.errors import RWTrainError
from rwtrain.model.heads_refinedweb import RefinedWebForCausalLM

ONNX_FILE = "onnx/model.onnx"
TOLERANCE = 1e-4


class TextEncoder(torch.nn.Module):
    """`get_text_features` as a module."""

    def __init__(self, model: RefinedWebForCausalLM) -> None:
        super().__init__()
        self.model = model.model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embeddings [B, C] of texts [B, S]."""
        return self.model.get_text_features(input_ids, attention_mask)


def write_text_encoder(folder: Path, *, max_tokens: int) -> float:
    """Write `onnx/model.onnx` into an exported folder and compare it with the model; return the largest difference.

    Raises:
        RWTrainError: onnx, onnxscript or onnxruntime are not installed, or the embeddings differ.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ModuleNotFoundError as error:
        raise RWTrainError(f"--onnx needs the package {error.name}. Install it with: pip install 'rwtrain[onnx]'") from error
    encoder = TextEncoder(RefinedWebForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")).eval()
    path = folder / ONNX_FILE
    path.parent.mkdir()
    shapes: Any = {name: {0: torch.export.Dim("texts", min=1, max=4096), 1: torch.export.Dim("tokens", min=2, max=max_tokens)} for name in NAMES}
    with torch.no_grad():
        program: Any = torch.onnx.export(
            encoder, _inputs(3, 11), input_names=NAMES, output_names=["embeddings"], dynamic_shapes=shapes, dynamo=True, verbose=False
        )
        program.save(path, external_data=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        worst = 0.0
        for rows, tokens in ((3, 11), (1, 2), (5, min(40, max_tokens))):
            ids, mask = _inputs(rows, tokens)
            found = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
            worst = max(worst, float(np.abs(found - encoder(ids, mask).numpy()).max()))
    if not worst < TOLERANCE:
        raise RWTrainError(f"The ONNX encoder differs from the model by {worst:.3g} (limit {TOLERANCE}); nothing was exported. Leave --onnx out.")
    return worst


NAMES = ["input_ids", "attention_mask"]


def _inputs(rows: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts of different lengths, padded on the left."""
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(6, 200, (rows, tokens), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        mask[row, : row % max(1, tokens - 1)] = 0
    return ids, mask
