"""The training configuration: every setting, its unit and its default."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PlainSerializer, PositiveFloat, PositiveInt, model_validator

from rwtrain.config.initial import adopt_shape
from rwtrain.config.load import Node
from rwtrain.config.model import ModelConfig


class AugmentConfig(Node):
    """Random changes of training images, new in every epoch; the defaults change nothing."""

    crop_area: float = Field(1.0, gt=0, le=1)
    """Smallest share of an image's area that a random crop keeps; 1 always reads the whole image."""
    mirror: float = Field(0.0, ge=0, le=1)
    """Share of images that are mirrored left to right; 0.5 for photos, 0 where captions say left or right or images hold text."""
    colour: float = Field(0.0, ge=0, lt=1)
    """Brightness, contrast and saturation change by factors within 1 ± this."""

    @property
    def active(self) -> bool:
        """Whether anything is changed."""
        return self.crop_area < 1 or self.mirror > 0 or self.colour > 0


class InitConfig(Node):
    """Existing weights to begin with, read once before the first step; what no folder holds is drawn from the seed.

    `model` is completed from the folders' configurations, so their shapes need not be repeated.
    """

    model: str | None = None
    """Folder that `rwtrain export` wrote: all weights, for continued pretraining."""
    trunk: str | None = None
    """Folder of a Llama, Mistral, Qwen2 or Qwen3 model in safetensors: embedding, layers, last norm and head."""
    vision: str | None = None
    """Folder of an image encoder (SigLIP, CLIP, DINOv2, ViT) in safetensors, for model.vision."""
    vocabulary: Literal["same", "new"] = "same"
    """new: leave token embedding and head as drawn, where the weights' tokens are not those of data.tokenizer."""
    partial: bool = False
    """Accept that parts (gates, image encoder, …) are only in the folder or only in this model; by default each is an error."""

    @model_validator(mode="after")
    def _check(self) -> InitConfig:
        if self.model and (self.trunk or self.vision):
            raise ValueError("init.model holds all weights: give it alone, or trunk and vision without it")
        return self


class DataSource(Node):
    """One dataset of a mixture."""

    path: str
    """Folder of shards."""
    weight: PositiveFloat = 1.0
    """Share of the rows (pairs, images), relative to the other sources' weights."""


def _as_sources(value: Any) -> Any:
    """A folder, or a list of folders, as a list of sources."""
    listed = [value] if isinstance(value, str | DataSource) else value
    return [{"path": item} if isinstance(item, str) else item for item in listed] if isinstance(listed, list) else listed


def _as_written(sources: list[DataSource] | None) -> Any:
    """A single source is written as its folder."""
    if sources is not None and len(sources) == 1 and sources[0].weight == 1:
        return sources[0].path
    return sources and [source.model_dump() for source in sources]


Mixed = Annotated[list[DataSource], Field(min_length=1), BeforeValidator(_as_sources), PlainSerializer(_as_written)]


class DataConfig(Node):
    """What is trained on."""

    text: Mixed
    """Folder of text shards, or a list of {path, weight}: a mixture with exact proportions of rows, whatever the sizes; each source is shuffled
    anew when it has been seen once."""
    images: Mixed | None = None
    """Folder of image-caption shards, or a list of {path, weight}; needed when batch.image_rows > 0."""
    pairs: str | None = None
    """Folder of text pairs written by `rwtrain pairs`; needed where batch.pair_views is given."""
    tokenizer: str
    """sentencepiece model that made the shards."""
    entity_store: str | None = None
    """Entity store with trained vectors; None for a model without knowledge."""
    augment: AugmentConfig = AugmentConfig()
    """Random changes of the images in training; evaluation sees them as they are."""
    verify: bool = True
    """Compare the checksums of all shards with their manifests before training."""
    prefetch_batches: PositiveInt = 4
    """Steps that the loader prepares ahead."""
    cache: str | None = None
    """Folder of packing plans, made once for a dataset and row length; name one that several runs share, None for RUN/cache."""


class BatchConfig(Node):
    """The global batch of one optimiser step: rows of each way of reading, whatever the number of ranks."""

    seq_len: PositiveInt = 512
    """Tokens of a row."""
    text_rows: NonNegativeInt = 8
    """Rows of packed documents, read causally."""
    masked_rows: NonNegativeInt = 0
    """Rows of packed documents, read in both directions with hidden tokens."""
    pair_rows: NonNegativeInt = 0
    """Rows of text pairs (seq_len // (2 · view_tokens) pairs each, with hard negatives 3 · view_tokens)."""
    pair_views: Literal["spans", "given", "dropout"] = "spans"
    """What a pair is: two adjacent spans of a document; a pair of data.pairs; one span read twice with other dropout (Gao et al. 2021, SimCSE)."""
    hard_negatives: bool = False
    """Give every pair of data.pairs a place for its hard negative, which no text of the batch may resemble."""
    image_rows: NonNegativeInt = 0
    """Rows of image-caption items (seq_len // (image tokens + 2 · caption_tokens) items each)."""
    accumulation: PositiveInt = 1
    """Micro-batches per optimiser step."""
    view_tokens: PositiveInt = 64
    """Tokens of one text view."""
    caption_tokens: PositiveInt = 24
    """Longest caption in tokens; longer ones are cut."""
    mask_rate: float = Field(0.3, gt=0, lt=1)
    """Share of hidden tokens in masked rows."""
    mentions_per_row: PositiveInt = 16
    """Tokens of a row at which entity vectors can enter."""
    queries_per_row: PositiveInt = 4
    """Withheld mentions of a row that the entity alignment loss asks for."""
    withhold: float = Field(0.3, ge=0, le=1)
    """Share of mentions whose vector is withheld from the gate and asked for instead."""
    entity_negatives: NonNegativeInt = 0
    """Entities drawn from the whole store as further negatives of the entity alignment, besides those of the batch."""

    @property
    def views(self) -> int:
        """Texts of one pair."""
        return 3 if self.hard_negatives else 2

    @model_validator(mode="after")
    def _check(self) -> BatchConfig:
        if not (self.text_rows or self.masked_rows):
            raise ValueError("text_rows and masked_rows are both 0: at least one must read text")
        if self.hard_negatives and self.pair_views != "given":
            raise ValueError("hard_negatives are those of given pairs: set pair_views to given, or hard_negatives to false")
        if self.pair_rows and self.views * self.view_tokens > self.seq_len:
            raise ValueError(f"{self.views} views of {self.view_tokens} tokens do not fit a row of {self.seq_len}: lower view_tokens or raise seq_len")
        return self

    def rows_per_micro_batch(self, world_size: int) -> dict[str, int]:
        """Rows of each kind in one micro-batch of one rank; raises `ValueError` if they do not divide evenly."""
        parts = world_size * self.accumulation
        rows = {name: getattr(self, name) for name in ("text_rows", "masked_rows", "pair_rows", "image_rows", "entity_negatives")}
        uneven = [f"batch.{name}={value}" for name, value in rows.items() if value % parts]
        if uneven:
            raise ValueError(f"{', '.join(uneven)} cannot be split over {world_size} ranks × {self.accumulation} accumulation steps: use multiples of {parts}")
        return {name: value // parts for name, value in rows.items() if name != "entity_negatives"}


class ObjectivesConfig(Node):
    """Weights of the losses in the total; 0 switches a loss off."""

    language_modelling: NonNegativeFloat = 1.0
    """Next token of text rows."""
    masked_modelling: NonNegativeFloat = 1.0
    """Hidden tokens of masked rows."""
    captioning: NonNegativeFloat = 1.0
    """Caption tokens after their image."""
    text_contrast: NonNegativeFloat = 0.1
    """InfoNCE between two spans of a document."""
    image_contrast: NonNegativeFloat = 1.0
    """Between images and captions, both directions."""
    image_contrast_form: Literal["info_nce", "sigmoid"] = "info_nce"
    """InfoNCE over the whole batch, or SigLIP's sigmoid, which judges every pair alone."""
    entity_alignment: NonNegativeFloat = 0.1
    """InfoNCE between mention states and withheld entity vectors."""
    gradient_caching: bool = True
    """With accumulation, contrast the whole global batch instead of each micro-batch alone: exact, for one more forward pass."""


class OptimizerConfig(Node):
    """AdamW (Loshchilov & Hutter 2019) with a warm-up and decay schedule."""

    learning_rate: PositiveFloat = 3e-4
    """Peak learning rate."""
    min_learning_rate_ratio: float = Field(0.1, ge=0, le=1)
    """Final learning rate as a share of the peak."""
    warmup_steps: NonNegativeInt = 100
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """Decay after the warm-up; wsd (warm-up, stable, decay) stays at the peak until the last `decay_steps`, then falls linearly."""
    decay_steps: PositiveInt | None = None
    """Steps of wsd's decay; None for a tenth of the run."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the gradient average."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """Decay of the squared gradient average."""
    epsilon: PositiveFloat = 1e-8
    """Added to the denominator."""
    weight_decay: NonNegativeFloat = 0.1
    """Applied to matrices only: not to norms, biases, gates' biases or temperatures."""
    gradient_clipping: NonNegativeFloat = 1.0
    """Largest global gradient norm; 0 switches clipping off."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """For fine-tuning: the learning rate of each layer as a share of that of the layer above it (0.65 to 0.9 are usual); 1 for all alike."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Keep an exponential moving average of the weights with this decay per step (0.999 for example), for `rwtrain export --average`;
    it takes another 4 bytes a parameter, distributed like the optimiser's states. None keeps none."""


class EngineConfig(Node):
    """DeepSpeed."""

    overlays: list[str] = ["zero3", "bf16"]
    """Names of overlays in ds_configs/, or paths of JSON files, merged over the base in this order."""
    activation_checkpointing: NonNegativeInt = 0
    """Recompute the activations of every n-th layer in the backward pass instead of keeping them: 1 (or true) all, 2 half of them; 0 (or false) none."""
    timeout_s: PositiveFloat = 1800.0
    """Seconds after which a collective operation that does not finish ends the job."""


class CheckpointConfig(Node):
    """When checkpoints are written and how many are kept."""

    every_steps: PositiveInt = 500
    """Steps between checkpoints; one is also written at the end and on SIGTERM or SIGUSR1."""
    keep: PositiveInt = 3
    """Newest checkpoints kept."""
    keep_every_steps: PositiveInt | None = None
    """Checkpoints at multiples of so many steps are kept for ever."""
    keep_best: NonNegativeInt = 0
    """Checkpoints kept for the lowest mean training loss over the steps since the checkpoint before."""
    mirror: str | None = None
    """URL of a folder (s3://…, gs://…, file://…; any of fsspec's) to which rank 0 copies every finished checkpoint in the background."""
    asynchronous: bool = True
    """Train on while a checkpoint is written from a copy in host memory (as large as a rank's files); False writes it before the next step."""


class GuardConfig(Node):
    """When a step is skipped, a run rewound or ended."""

    spike_sigmas: NonNegativeFloat = 6.0
    """A loss so many standard deviations above the mean of the window is a spike, and its step is skipped; 0 skips none."""
    spike_window: PositiveInt = 128
    """Steps of the window; no step is a spike before it is full."""
    max_skips: PositiveInt = 5
    """Skipped steps in a row after which weights and optimiser go back to the last checkpoint; the data goes on."""
    max_rewinds: NonNegativeInt = 3
    """Rewinds of one process after which it gives up with exit status 86."""
    hang_timeout_s: NonNegativeFloat = 100.0
    """Seconds without progress after which a rank names the rank it waits for and ends the job with exit status 87; 0 waits for engine.timeout_s.
    The first step and saving a checkpoint may take engine.timeout_s."""


class LoggingConfig(Node):
    """What is reported and how often."""

    every_steps: PositiveInt = 10
    """Steps between lines on the console and in TensorBoard; metrics.jsonl has every step."""
    tensorboard: bool = True
    """Write RUN/tensorboard."""
    wandb: bool = False
    """Write RUN/wandb, for `wandb sync`; with WANDB_MODE=online it is uploaded at once. Needs the extra `wandb`."""
    wandb_project: str = "rwtrain"
    """Project of Weights & Biases."""
    profile_steps: tuple[PositiveInt, PositiveInt] | None = None
    """First and last step whose operations rank 0 records in RUN/profile; they run slower. None records none."""
    peak_tflops: PositiveFloat | None = None
    """Peak of one device in 10^12 operations per second, for MFU; None for the known value of the GPU, if it is known."""

    @model_validator(mode="after")
    def _check(self) -> LoggingConfig:
        if self.profile_steps is not None and self.profile_steps[0] > self.profile_steps[1]:
            raise ValueError(f"profile_steps={list(self.profile_steps)}: the first step comes after the last")
        return self


class TrainConfig(Node):
    """The root of a training configuration."""

    run: str
    """Folder of the run: configuration, logs and checkpoints."""
    steps: PositiveInt
    """Optimiser steps in all."""
    seed: NonNegativeInt = 0
    """Seed of the weights, the data order and every random choice."""
    data: DataConfig
    """What is trained on."""
    model: ModelConfig = ModelConfig()
    """The model's shape."""
    init: InitConfig = InitConfig()
    """Weights to begin with."""
    batch: BatchConfig = BatchConfig()
    """The global batch."""
    objectives: ObjectivesConfig = ObjectivesConfig()
    """Weights of the losses."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimiser and schedule."""
    engine: EngineConfig = EngineConfig()
    """DeepSpeed."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Checkpoints."""
    guard: GuardConfig = GuardConfig()
    """What protects the run."""
    logging: LoggingConfig = LoggingConfig()
    """Reporting."""

    @model_validator(mode="before")
    @classmethod
    def _adopt_shape(cls, values: Any) -> Any:
        return adopt_shape(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.batch.image_rows and not (self.data.images and self.model.vision):
            raise ValueError("batch.image_rows > 0 needs data.images and model.vision")
        if self.batch.pair_rows and self.batch.pair_views == "given" and not self.data.pairs:
            raise ValueError("batch.pair_views given needs data.pairs, a folder that `rwtrain pairs` wrote")
        if self.batch.pair_rows and self.batch.pair_views == "dropout" and not self.model.attention_dropout:
            raise ValueError("batch.pair_views dropout needs model.attention_dropout above 0, 0.1 for example: without it both views are the same")
        if self.batch.seq_len > self.model.max_position_embeddings:
            raise ValueError(f"batch.seq_len={self.batch.seq_len} exceeds model.max_position_embeddings={self.model.max_position_embeddings}")
        return self
