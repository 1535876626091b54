"""From a fine-tuning configuration to what the training loop needs."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from rwtrain.config.deepspeed import resolve
from rwtrain.config.finetune import FinetuneConfig
from rwtrain.config.load import dump_yaml
from rwtrain.data.tokenizer import Tokenizer
from rwtrain.errors import ConfigError
from rwtrain.export.run import TASK_FILE
from rwtrain.files import content_hash, write_json, write_text
from rwtrain.finetune.encoding import Encoded, encode
from rwtrain.finetune.files import Example, columns_of, labels_of, read_examples
from rwtrain.finetune.loading import ExampleLoader
from rwtrain.finetune.objective import FinetuningTask
from rwtrain.finetune.packed import PackedQuestionAnswering, PackedSequenceClassification
from rwtrain.finetune.start import Start
from rwtrain.finetune.tasks import TASKS, Head, Task, find_file, own_task
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining
from rwtrain.train.distributed import Ranks
from rwtrain.train.setup import IDENTITY, recorded_identity, refuse_changes
from rwtrain.train.work import Work

CLASSES: dict[Head, type[PreTrainedModel]] = {
    "classifier": PackedSequenceClassification,
    "embedding": RefinedWebForPreTraining,
    "answer": PackedQuestionAnswering,
}
ARCHITECTURES: dict[Head, str] = {
    "classifier": "RefinedWebForSequenceClassification",
    "embedding": "RefinedWebForCausalLM",
    "answer": "RefinedWebForQuestionAnswering",
}


@dataclass(frozen=True)
class Files:
    """Which task, from which files."""

    task: Task
    train: Path
    valid: Path | None

    @classmethod
    def find(cls, config: FinetuneConfig) -> Files:
        """Raises `ConfigError` if the task or a file is not there."""
        settings = config.task
        if settings.name in TASKS:
            task = TASKS[settings.name]
            if not settings.data and not (settings.train and (settings.valid or task.kind == "answer")):
                raise ConfigError(f"task {task.name}: give --data FOLDER with its files, or --train FILE and --valid FILE.")
            folder = Path(settings.data or ".")
            train = Path(settings.train) if settings.train else find_file(folder, task, "train")
            valid = Path(settings.valid) if settings.valid else find_file(folder, task, "valid") if task.kind != "answer" else None
            return cls(task, train, valid)
        train = Path(settings.train or settings.name)
        if not train.is_file():
            raise ConfigError(f"task {settings.name!r}: neither a file nor one of {', '.join(TASKS)}.")
        return cls(own_task(columns_of(train), train), train, Path(settings.valid) if settings.valid else None)


@dataclass(frozen=True)
class Prepared:
    """Everything about a fine-tuning run that does not depend on the rank."""

    config: FinetuneConfig
    files: Files
    start: Start
    head: Head
    labels: tuple[str, ...]
    examples: list[Example]

    @classmethod
    def read(cls, config: FinetuneConfig) -> Prepared:
        """Open the model and read the training file; the returned configuration has its steps.

        Raises:
            ConfigError, DataError: something is missing, or does not fit.
        """
        files, start = Files.find(config), Start.open(config.model)
        task = files.task
        head: Head = config.task.head or task.head
        if config.task.head and (task.kind == "answer" or (head == "embedding") > (task.kind == "regress" and task.columns[1] is not None)):
            raise ConfigError(f"task.head={config.task.head}: embeddings are for scores of pairs, and questions have a head of their own.")
        if config.batch.seq_len > start.config.max_position_embeddings:
            raise ConfigError(f"batch.seq_len={config.batch.seq_len}: {start.path} reads segments of up to {start.config.max_position_embeddings} tokens.")
        labels = labels_of(files.train, task)
        examples = [item for item in read_examples(files.train, task, labels=labels) if item.label is not None or task.kind == "answer"]
        if not examples:
            raise ConfigError(f"{files.train}: no example has a {task.columns[2]}. Give a file with labels.")
        if task.kind == "classify" and len(labels) < 2:
            raise ConfigError(f"{files.train}: all examples have the label {labels}. A classifier needs two or more.")
        prepared = cls(config, files, start, head, labels, examples)
        if config.steps:
            return prepared
        steps = prepared.loader(rank=0, world_size=1, accumulation=1).steps(config.epochs, config.batch.rows)
        return cls(config.model_copy(update={"steps": steps}), files, start, head, labels, examples)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self.start.tokenizer)

    @cached_property
    def encoded(self) -> list[Encoded]:
        return encode(self.examples, self.tokenizer, head=self.head, max_tokens=self.config.batch.seq_len)

    def loader(self, *, rank: int, world_size: int, accumulation: int | None = None) -> ExampleLoader:
        batch = self.config.batch if accumulation is None else self.config.batch.model_copy(update={"accumulation": accumulation})
        return ExampleLoader(self.encoded, batch, rank=rank, world_size=world_size, seed=self.config.seed, hide_rate=self.config.hide_rate)

    @cached_property
    def model_config(self) -> RefinedWebConfig:
        """The starting model's configuration with the new head."""
        settings = self.start.config.to_dict()
        for name in ("auto_map", "id2label", "label2id", "problem_type"):
            settings.pop(name, None)
        settings |= {"classifier_dropout": self.config.dropout, "architectures": [ARCHITECTURES[self.head]]}
        if self.head == "classifier":
            names = self.labels or ("score",)
            kind = "single_label_classification" if self.labels else "regression"
            settings |= {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}, "problem_type": kind}
        return RefinedWebConfig(**settings)

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share with the run it continues."""
        config = self.config
        keys = {f"batch.{key}": value for key, value in config.batch.model_dump(mode="json", exclude={"accumulation"}).items()}
        return {
            "model": self.start.identity,
            "task.train": content_hash(self.files.train),
            "task.head": self.head,
            "seed": config.seed,
            "steps": config.steps,
            "hide_rate": config.hide_rate,
            "dropout": config.dropout,
            **keys,
        }

    def check_unchanged(self) -> None:
        """Raise `ConfigError` if the run's checkpoints belong to other data, another model or other settings."""
        before = recorded_identity(Path(self.config.run))
        if before is not None:
            refuse_changes(Path(self.config.run), before, self.identity())

    def describe(self) -> dict[str, Any]:
        """What `rwtrain eval glue` must know of the run."""
        return {
            "task": self.files.task.name,
            "kind": self.files.task.kind,
            "head": self.head,
            "labels": list(self.labels),
            "columns": list(self.files.task.columns),
            "metrics": list(self.files.task.metrics),
            "max_tokens": self.config.batch.seq_len,
            "score_range": list(self.config.task.score_range),
            "unanswerable": any(not example.answers for example in self.examples),
        }

    def write_run_folder(self, *, world_size: int) -> None:
        """Write what describes the run beside it, as for pretraining."""
        run = Path(self.config.run)
        write_text(run / "config.yaml", dump_yaml(self.config))
        write_json(run / "deepspeed.json", resolve(self.config, world_size=world_size))
        write_json(run / IDENTITY, self.identity())
        write_json(run / TASK_FILE, self.describe())
        self.model_config.save_pretrained(run / "model")
        (run / "tokenizer").mkdir(exist_ok=True)
        shutil.copyfile(self.start.tokenizer, run / "tokenizer" / "tokenizer.model")

    def work(self, ranks: Ranks) -> Work:
        """One rank's work. Collective."""
        config = self.config
        if ranks.is_main:
            self.check_unchanged()
            self.write_run_folder(world_size=ranks.world_size)
        ranks.barrier()
        loader = self.loader(rank=ranks.rank, world_size=ranks.world_size)
        replicas = ranks.world_size * config.batch.accumulation
        task = FinetuningTask(self.files.task.kind, self.head, slots=loader.slots, score_range=config.task.score_range, replicas=replicas)
        return Work(loader, task, CLASSES[self.head], self.model_config, begin=self._begin)

    def _begin(self, engine: Any) -> str:
        from rwtrain.train.reshard import load_parameters, parameter_shapes

        shapes = {name: tuple(shape) for group in parameter_shapes(engine) for name, shape in group.items()}
        chosen = self.start.chosen(shapes)
        load_parameters(engine, chosen)
        return f"{len(chosen)} of {len(shapes)} tensors from {self.start.path}, the others drawn from the seed"


def read_task(run: Path) -> dict[str, Any]:
    """What `describe` wrote into a run folder or a fine-tuned model's folder; raises `ConfigError` if it is none."""
    try:
        return json.loads((run / TASK_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{run}: no model fine-tuned by `rwtrain finetune` ({error}). Give RUN/export of such a run.") from error
