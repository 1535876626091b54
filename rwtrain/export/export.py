"""Write a Hugging Face folder from a run, prove that it loads elsewhere and gives the same numbers, then put it in place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from rwtrain.data.tokenizer import Tokenizer
from rwtrain.errors import ConfigError, DataError
from rwtrain.export.card import model_card
from rwtrain.export.completeness import is_export, write_list
from rwtrain.export.energy import Power
from rwtrain.export.folder import (
    CAUSAL,
    LINKER_FOLDER,
    TASK_CLASSES,
    architecture,
    copy_code,
    copy_linker,
    ship_knowledge,
    write_config,
    write_processor,
    write_sentence_transformers,
)
from rwtrain.export.onnx_encoder import write_text_encoder
from rwtrain.export.parity import TaskReference, TrainerReference, run_parity
from rwtrain.export.run import TASK_FILE, TrainedRun
from rwtrain.export.weights import DTYPES, write_weights
from rwtrain.files import atomic_folder, write_json, write_text
from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining
from rwtrain.model.linking_refinedweb import EntityLinker
from rwtrain.model.tasks_refinedweb import RefinedWebForQuestionAnswering, RefinedWebForSequenceClassification, RefinedWebForTokenClassification
from rwtrain.train.zero import Parameter

PARITY_FILE = "parity.json"
MODEL_CLASSES: dict[str, type[PreTrainedModel]] = {
    CAUSAL: RefinedWebForPreTraining,
    "RefinedWebForSequenceClassification": RefinedWebForSequenceClassification,
    "RefinedWebForTokenClassification": RefinedWebForTokenClassification,
    "RefinedWebForQuestionAnswering": RefinedWebForQuestionAnswering,
}


def export_run(
    source: str | Path,
    out: str | Path,
    *,
    dtype: str = "float32",
    max_shard_bytes: int = 5 * 10**9,
    linker: str | Path | None = None,
    with_knowledge: bool = False,
    onnx: bool = False,
    power: Power | None = None,
    name: str | None = None,
    licence: str = "other",
    evaluations: Mapping[str, Mapping[str, Any]] | None = None,
    parity: bool = True,
    parity_python: str | Path | None = None,
    average: bool = False,
) -> dict[str, Any]:
    """Export a run's checkpoint; return step, parameters, dtype, the parity report and the largest difference of the ONNX encoder.

    Args:
        source: a run folder or a checkpoint in it.
        out: folder to write; replaced if it holds an earlier export.
        dtype: type of the weights on disk, a key of `DTYPES`.
        max_shard_bytes: largest weight file.
        linker: folder of the entity linker to ship; `with_knowledge` finds it by what the run was trained with.
        onnx: also write the text encoder as ONNX.
        power: what a rank drew, for the model card.
        name, licence: for the model card.
        evaluations: figures of `rwtrain eval … --json` by title, for the model card.
        parity: load the folder in a clean process and compare; `parity_python` names that process's interpreter.
        average: write the moving average of the weights (optimizer.ema_decay) instead of the weights.

    Raises:
        ConfigError: `out` holds something else than an export.
        DataError: the run, its checkpoint or the linker cannot be used.
        RWTrainError: the parity check failed; `out` is then as it was.
    """
    out = Path(out)
    check_replaceable(out)
    run = TrainedRun.open(source, average=average)
    weights = untied(run)
    with atomic_folder(out) as folder:
        written = write_weights(folder, weights, dtype=DTYPES[dtype], max_shard_bytes=max_shard_bytes)
        _write_beside_weights(folder, run, dtype=dtype)
        if with_knowledge:
            ship_knowledge(folder, run)
        elif linker is not None:
            copy_linker(Path(linker), folder, run.config, run.datasets.get("text"))
        report = check_parity(folder, run, weights, dtype=DTYPES[dtype], python=parity_python) if parity else None
        if report is not None:
            write_json(folder / PARITY_FILE, report)
        difference = write_text_encoder(folder, max_tokens=run.seq_len) if onnx else None
        card = model_card(
            run,
            parameters=written.parameters,
            name=name or out.resolve().name,
            licence=licence,
            linker=(folder / LINKER_FOLDER).is_dir(),
            power=power or Power(),
            parity=report,
            evaluations=evaluations or {},
        )
        write_text(folder / "README.md", card)
        write_list(folder, hashes=written.hashes, step=run.step, dtype=dtype)
    return {"step": run.step, "parameters": written.parameters, "dtype": dtype, "parity": report, "onnx": difference}


def _write_beside_weights(folder: Path, run: TrainedRun, *, dtype: str) -> None:
    """What the libraries that load the folder need besides the weights: configuration, code, tokenizer and processor."""
    write_config(folder, run.config, dtype=dtype)
    copy_code(folder)
    write_processor(folder, run.config, run.tokenizer, max_tokens=run.seq_len, linking=run.linking)
    if architecture(run.config) == CAUSAL:
        write_sentence_transformers(folder)
    if run.task is not None:
        write_json(folder / TASK_FILE, run.task)


def check_replaceable(out: Path) -> None:
    """Raise `ConfigError` if `out` holds something that is not an earlier export."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not is_export(out):
        raise ConfigError(f"{out}: exists and is no earlier export. Give --out a new folder, or remove this one yourself.")


def untied(run: TrainedRun) -> dict[str, Parameter]:
    """The run's parameters with tied ones once, in the model's order; raise `DataError` if they are not the model's."""
    trained = MODEL_CLASSES[architecture(run.config)]
    with torch.device("meta"):
        model = trained(run.config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied: Any = (trained._tied_weights_keys or {}) if run.config.tie_word_embeddings else {}
    found = run.parameters
    wrong = [name for name in expected.keys() | found.keys() if name not in expected or (name not in found and name not in tied)]
    wrong += [name for name in expected.keys() & found.keys() if found[name].shape != expected[name]]
    if wrong:
        raise DataError(
            run.checkpoint, f"parameters {sorted(wrong)[:5]} do not fit {run.folder / 'model' / 'config.json'}", "Export with the release that trained the run"
        )
    return {name: found[name] for name in expected if name not in tied}


def check_parity(folder: Path, run: TrainedRun, weights: dict[str, Parameter], *, dtype: torch.dtype, python: str | Path | None) -> dict[str, Any]:
    """Compare the exported folder with the trained model, whose weights are rounded to the export's type."""
    trained = architecture(run.config)
    model: Any = MODEL_CLASSES[trained](run.config)
    state = model.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, parameter in weights.items():
            state[name].copy_(parameter.load().to(dtype))
    if trained != CAUSAL:
        return run_parity(folder, TaskReference(model, Tokenizer(run.tokenizer), auto_class=TASK_CLASSES[trained]), python=Path(python) if python else None)
    linker = EntityLinker.open(folder / LINKER_FOLDER) if (folder / LINKER_FOLDER).is_dir() else None
    reference = TrainerReference(model, Tokenizer(run.tokenizer), linker=linker, linking=run.linking)
    return run_parity(folder, reference, python=Path(python) if python is not None else None)
